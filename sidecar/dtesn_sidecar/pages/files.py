"""The files of the page, read once, and the headers that they are sent with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

PAGE: Final = "page.html"
TYPES: Final[Mapping[str, str]] = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}

# Nothing but this server's own files; no inline script or style, no frames, and no text that is read as HTML.
_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'none'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",  # for what does not know frame-ancestors
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # kept, and asked for again with its ETag: a new version is never mixed with an old one
}


@dataclass(frozen=True, slots=True)
class File:
    """One file as it is sent. `etag` is quoted."""

    body: bytes
    content_type: str
    etag: str


def load() -> dict[str, File]:
    """Every file by its name."""
    found = {}
    for entry in files(__package__).joinpath("assets").iterdir():
        kind = TYPES.get(entry.name.rpartition(".")[2])
        if kind is not None:
            body = entry.read_bytes()
            found[entry.name] = File(body, kind, f'"{hashlib.sha256(body).hexdigest()[:32]}"')
    return found


def is_known(etag: str, if_none_match: str | None) -> bool:
    """Whether an If-None-Match header names this version (RFC 9110, 13.1.2: by the weak comparison)."""
    if if_none_match is None:
        return False
    known = [entry.strip().removeprefix("W/") for entry in if_none_match.split(",")]
    return "*" in known or etag in known
