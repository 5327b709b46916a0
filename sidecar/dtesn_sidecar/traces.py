"""Whether traces are asked for, and what the server asks of them. OpenTelemetry itself is imported by `traces_otel.py`, and only then.

Traces are off unless the standard environment asks for them: OTEL_TRACES_EXPORTER=otlp, or an OTLP endpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Protocol, cast

from dtesn_sidecar.batching.protocols import BatchObserver, Caller
from dtesn_sidecar.errors import DTESNError

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
DISCONNECTED = 499  # the status of a request whose client went away; never sent
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


class TracesUnavailable(DTESNError):
    """Traces were asked for and cannot be had; raised at start, since whoever asked would look for them in vain."""

    code = "traces_unavailable"


class RequestTrace(Protocol):
    """The span of one request. `caller` is what its items carry, or None where it is not recorded."""

    @property
    def caller(self) -> Caller | None:
        """What is set as `CALLER` before anything is submitted."""

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""

    @property
    def traceresponse(self) -> str:
        """The span's context as W3C Trace Context writes it."""

    def end(self, status: int, code: str | None) -> None:
        """The answer was made, or (`DISCONNECTED`) nobody is there to have it. `code` is that of the problem document."""

    def end_call(self, status: str, code: str | None) -> None:
        """As `end`, of a call of gRPC, with the name of its status code."""


class Traces(BatchObserver, Protocol):
    """Records spans of requests and batches."""

    def begin(self, method: str, route: str, path: str, headers: Mapping[str, str], seconds: float) -> RequestTrace:
        """The span of a request that came in `seconds` ago, continuing the trace that its headers name."""

    def begin_call(self, method: str, headers: Mapping[str, str], seconds: float) -> RequestTrace:
        """As `begin`, of a call of gRPC: `method` is `/service/method`, `headers` its metadata."""

    async def aclose(self) -> None:
        """Send what is recorded, within a bound."""


def asked_for(environ: Mapping[str, str]) -> bool:
    """Whether the environment asks for traces. Raises TracesUnavailable where it asks for what there is not."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if exporter == "none" or (not exporter and not any(environ.get(name) for name in ENDPOINTS)):
        return False
    if exporter not in ("", "otlp"):
        raise TracesUnavailable(f"OTEL_TRACES_EXPORTER is {exporter!r}; expected otlp or none")
    for name in PROTOCOLS:
        if (protocol := environ.get(name, "").strip()) not in ("", "http/protobuf"):
            raise TracesUnavailable(f"{name} is {protocol!r}; expected http/protobuf (port 4318 of a collector)")
    return True


def both(first: BatchObserver, second: BatchObserver) -> BatchObserver:
    """An observer that tells two."""

    def each(name: str) -> Callable[..., None]:
        tell_first, tell_second = getattr(first, name), getattr(second, name)

        def tell(*args: object, **named: object) -> None:
            tell_first(*args, **named)
            tell_second(*args, **named)

        return tell

    events = [name for name in vars(BatchObserver) if not name.startswith("_")]
    return cast("BatchObserver", SimpleNamespace(**{name: each(name) for name in events}))


def traces_for(environ: Mapping[str, str]) -> Traces | None:
    """The traces that the environment asks for, or None. Raises TracesUnavailable."""
    if not asked_for(environ):
        return None
    try:
        from dtesn_sidecar.traces_otel import OtelTraces
    except ImportError as error:
        raise TracesUnavailable(
            f"the environment asks for traces, but OpenTelemetry is not installed ({error}): "
            "install dtesn-batcher[otel], or set OTEL_TRACES_EXPORTER=none"
        ) from error
    return OtelTraces.from_environment(environ)
