"""What gRPC's own deadline makes of the timeout, and what errors make of a status."""

from __future__ import annotations

from types import SimpleNamespace

import grpc
import pytest

from dtesn_sidecar import errors
from dtesn_sidecar.oip.requests import asked
from dtesn_sidecar.oip.rpc.service import CODES, PUSHBACK, in_time, status_of


@pytest.mark.parametrize(
    ("left", "wanted", "found"),
    [(None, None, None), (None, 2.0, 2.0), (5.0, None, 5.0), (5.0, 2.0, 2.0), (5.0, 9.0, 5.0), (1e9, None, 300.0), (-1.0, None, 0.001)],
)
def test_the_sooner_of_deadline_and_timeout_counts(left: float | None, wanted: float | None, found: float | None) -> None:
    parameters = {} if wanted is None else {"timeout": int(wanted * 1_000_000)}
    assert in_time(asked("", parameters, []), left, 300.0).timeout == found


ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.DTESNError)]


@pytest.mark.parametrize("kind", ERRORS)
def test_what_may_succeed_later_says_so_and_what_may_not_does_not(kind: type[errors.DTESNError]) -> None:
    visit = SimpleNamespace(request_id="1", code=None)
    code, detail, more = status_of(kind("why \N{EM DASH}" + 5000 * "x", retry_after=2.0), visit)
    later = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    assert (code in later) is kind.retryable
    assert (more == {PUSHBACK: "2000"}) is kind.retryable
    assert visit.code == kind.code
    assert detail.isascii()
    assert len(detail) <= 1000
    assert (code is grpc.StatusCode.INTERNAL) is (kind.status not in CODES)
