"""Errors as the protocol has them: `{"error": "..."}`, with a status that its clients expect. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from dtesn_api.inference import InferenceError

if TYPE_CHECKING:
    from dtesn_sidecar.problems import ProblemAnswer

ROOT: Final = "/v2"


def speaks(path: str) -> bool:
    """Whether what is at this path is answered in the protocol's own form."""
    return path == ROOT or path.startswith(f"{ROOT}/")


def status_of(status: int) -> int:
    """The status in the protocol, which knows no 422: what is wrong with a request is 400."""
    return 400 if status == 422 else status


def encoded(answer: ProblemAnswer) -> bytes:
    """The body."""
    return msgspec.json.encode(InferenceError(error=answer.document.detail))
