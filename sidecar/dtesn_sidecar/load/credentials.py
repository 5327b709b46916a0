"""What a request to a load source carries: credentials and certificates, read from files that may rotate at any time.

Files only, at each poll; who asks, and whom, is elsewhere. Nothing that was read appears in a reason.
"""

from __future__ import annotations

import base64
import os
import ssl
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dtesn_api.names import SECRETS_FOLDER
from dtesn_sidecar.load.readings import NoData

if TYPE_CHECKING:
    from dtesn_api.spec import PrometheusAuth, PrometheusTls

MOST_BYTES: Final = 65_536  # of a token, a name or a password


@dataclass(frozen=True, slots=True)
class Access:
    """Headers and TLS context (None: the system's authorities) of a request, and the texts that no reason may bear."""

    headers: Mapping[str, str] = field(default_factory=dict)
    tls: ssl.SSLContext | None = None
    hidden: tuple[str, ...] = ()


class _Missing(Exception):
    """A file that cannot be used; the text says which and why."""


def access_reader(
    auth: PrometheusAuth | None, tls: PrometheusTls | None, secrets: Path = Path(SECRETS_FOLDER)
) -> Callable[[], Access | NoData]:
    """A function that reads the files and answers what they grant, or why they do not. It blocks, and is for one thread at a time.

    Headers are read anew each time; a TLS context is made anew when one of its files has changed.
    """
    context: ssl.SSLContext | None = None
    made_from: object = None

    def read() -> Access | NoData:
        nonlocal context, made_from
        try:
            headers, hidden = ({}, ()) if auth is None else _headers(auth, secrets)
            if tls is not None and (now := _signature(tls, secrets)) != made_from:
                context, made_from = _context(tls), now
        except _Missing as error:
            return NoData(str(error))
        return Access(headers, context, hidden)

    return read


def _headers(auth: PrometheusAuth, secrets: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    if auth.bearer_token_file is not None:
        token = _text(auth.bearer_token_file, secrets)
        return {"Authorization": f"Bearer {token}"}, (token,)
    if auth.username_file is not None and auth.password_file is not None:
        user, password = _text(auth.username_file, secrets), _text(auth.password_file, secrets)
        if ":" in user:
            raise _Missing(f"{_named(auth.username_file, secrets)}: a user name cannot contain ':' (RFC 7617)")
        both = base64.b64encode(f"{user}:{password}".encode()).decode()
        return {"Authorization": f"Basic {both}"}, (both, password)
    return {}, ()


def _text(path: str, secrets: Path) -> str:
    """The file's text without the white space around it, fit for a header."""
    named = _named(path, secrets)
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            content = file.read(MOST_BYTES + 1) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else None
    except OSError as error:
        raise _unreadable(path, error, secrets) from None
    if content is None:
        raise _Missing(f"{named}: not a regular file")
    if len(content) > MOST_BYTES:
        raise _Missing(f"{named}: more than {MOST_BYTES} bytes")
    try:
        text = content.decode().strip()
    except UnicodeDecodeError:
        raise _Missing(f"{named}: not UTF-8") from None
    if not text:
        raise _Missing(f"{named}: empty")
    if not (text.isprintable() and text.isascii()):
        raise _Missing(f"{named}: has characters that cannot be sent (control characters, or other than ASCII)")
    return text


def _open_at_once(path: str, flags: int) -> int:
    """Without waiting for a writer where it is a FIFO."""
    return os.open(path, flags | os.O_NONBLOCK)


def _signature(tls: PrometheusTls, secrets: Path) -> tuple[tuple[int, int, int], ...]:
    found = []
    for path in (tls.ca_file, tls.cert_file, tls.key_file):
        if path is not None:
            try:
                now = os.stat(path)
            except OSError as error:
                raise _unreadable(path, error, secrets) from None
            found.append((now.st_ino, now.st_mtime_ns, now.st_size))
    return tuple(found)


def _context(tls: PrometheusTls) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
        if tls.cert_file is not None:
            context.load_cert_chain(tls.cert_file, tls.key_file, password=_no_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError; its text has names of OpenSSL's, and no content
        files = ", ".join(path for path in (tls.ca_file, tls.cert_file, tls.key_file) if path is not None)
        raise _Missing(f"TLS: {files}: {error}"[:500]) from None
    return context


def _no_password() -> str:
    """Else OpenSSL asks at the terminal, and waits."""
    raise ValueError("the key is encrypted, and there is no password to give")


def _unreadable(path: str, error: OSError, secrets: Path) -> _Missing:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return _Missing(f"{_named(path, secrets)} missing")
    return _Missing(f"{_named(path, secrets)}: {error.strerror}")


def _named(path: str, secrets: Path) -> str:
    """Whom the user knows it as: the key of a Secret, or a file."""
    try:
        name, *key = Path(path).relative_to(secrets).parts
    except ValueError:
        return f"file {path}"
    return f"secret {name}, key {'/'.join(key)}" if key else f"file {path}"
