"""The `prometheus` provider: one instant query of the Prometheus HTTP API as a load. What its answer means is here, pure.

The API: https://prometheus.io/docs/prometheus/latest/querying/api/#instant-queries. Connections are `http.py`'s, files
`credentials.py`'s; how long a reading counts is decided with all others in `readings.py`.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from dtesn_api.names import SECRETS_FOLDER
from dtesn_sidecar.load.credentials import Access, access_reader
from dtesn_sidecar.load.http import Reply, address, get, quoted
from dtesn_sidecar.load.readings import LoadProvider, NoData, Reading
from dtesn_sidecar.load.threads import in_thread

if TYPE_CHECKING:
    from dtesn_api.spec import PrometheusSource

PATH: Final = "/api/v1/query"
MOST_BYTES: Final = 1 << 20

_STRING = r'"(?:[^"\\]|\\.)*"' + r"|'(?:[^'\\]|\\.)*'" + r"|`[^`]*`"
_LABELS = r"\{(?:[^{}\"'`]|" + _STRING + r")*\}"
_SELECTOR = re.compile(rf"\s*(?:[a-zA-Z_:][a-zA-Z0-9_:]*\s*(?:{_LABELS})?|{_LABELS})\s*")


@dataclass(frozen=True, slots=True)
class Sample:
    """One series' value, and the time it bears in seconds since 1970."""

    labels: frozenset[tuple[str, str]]
    value: float
    time: float


class _Element(msgspec.Struct, frozen=True):
    metric: dict[str, str]
    value: tuple[float, str] | None = None  # absent: a native histogram


class _Data(msgspec.Struct, frozen=True, rename="camel"):
    result_type: str
    result: msgspec.Raw


class _Answer(msgspec.Struct, frozen=True, rename="camel"):
    status: str
    data: _Data | None = None
    error_type: str = ""
    error: str = ""


def prometheus_load(
    source: PrometheusSource, clock: Callable[[], float], wall: Callable[[], float], secrets: Path = Path(SECRETS_FOLDER)
) -> LoadProvider:
    """The provider of a source. `clock` is the tracker's, `wall` in seconds since 1970, as Prometheus's is."""
    reader = access_reader(source.auth, source.tls, secrets)
    bare = Access() if source.auth is None and source.tls is None else None
    stamped = is_selector(source.query)

    async def ask(query: str, at: float | None, access: Access, seconds: float) -> list[Sample] | NoData:
        asked = {"query": query} if at is None else {"query": query, "time": f"{at:.3f}"}
        reply = await get(
            address(source.url, PATH, asked),
            seconds=seconds,
            most_bytes=MOST_BYTES,
            headers=access.headers,
            tls=access.tls,
            server_name=None if source.tls is None else source.tls.server_name,
            hidden=access.hidden,
        )
        return reply if isinstance(reply, NoData) else samples(reply, access.hidden)

    async def prometheus() -> Reading | NoData:
        access = await in_thread(reader) if bare is None else bare
        if isinstance(access, NoData):
            return access
        loop = asyncio.get_running_loop()
        until = loop.time() + source.timeout_seconds
        found = await ask(source.query, None, access, source.timeout_seconds)
        if isinstance(found, NoData):
            return found
        if stamped and found:
            stamps = await ask(f"timestamp({source.query})", found[0].time, access, max(0.0, until - loop.time()))
            if isinstance(stamps, NoData):
                return stamps
            found = with_own_times(found, stamps)
        return reading(found, source, now=clock(), wall=wall())

    return prometheus


def is_selector(query: str) -> bool:
    """Whether a query is a name with or without labels, the kind whose samples have times of their own.

    Prometheus puts the time of evaluation on every sample of an instant query; only `timestamp()` of a selector tells when it
    was taken. An expression has no time but that of its evaluation. (`offset` and `@` are old on purpose, and no selectors here.)
    """
    return _SELECTOR.fullmatch(query) is not None


def samples(reply: Reply, hidden: tuple[str, ...] = ()) -> list[Sample] | NoData:
    """What a reply of the API holds: the samples of a vector, or the one of a scalar."""
    try:
        answer = msgspec.json.decode(reply.body, type=_Answer)
        if answer.status != "success" or answer.data is None or reply.status != 200:
            words = ": ".join(part for part in (answer.error_type, answer.error) if part) or f"status {answer.status}"
            return NoData(f"HTTP {reply.status}, {quoted(words, hidden)}")
        match answer.data.result_type:
            case "vector":
                elements = msgspec.json.decode(answer.data.result, type=list[_Element])
                found = [_sample(element.metric, element.value) for element in elements if element.value is not None]
                return NoData("the query yields histograms, not numbers") if elements and not found else found
            case "scalar":
                return [_sample({}, msgspec.json.decode(answer.data.result, type=tuple[float, str]))]
            case other:
                return NoData(f"the query yields a {quoted(other, hidden)}, not a vector or a scalar")
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError):
        if reply.status in (401, 403):
            return NoData(f"HTTP {reply.status}: the credentials are missing or not accepted")
        return NoData(f"HTTP {reply.status} with {quoted(reply.media, hidden)}: not an answer of the Prometheus API")


def _sample(labels: dict[str, str], value: tuple[float, str]) -> Sample:
    return Sample(frozenset(item for item in labels.items() if item[0] != "__name__"), float(value[1]), value[0])


def with_own_times(found: Sequence[Sample], stamps: Sequence[Sample]) -> list[Sample]:
    """Each sample with the time that `timestamp()` names as the value of the same series; without one it keeps its own."""
    times = {stamp.labels: stamp.value for stamp in stamps}
    return [replace(sample, time=times.get(sample.labels, sample.time)) for sample in found]


def reading(found: Sequence[Sample], source: PrometheusSource, *, now: float, wall: float) -> Reading | NoData:
    """The load that samples mean: of those that are numbers and not stale, the highest.

    Several series are several instances of what is asked about, and the busiest is where the next request waits: a mean would hide it,
    and an error would leave no load at all whenever a rollout shows old and new series for a while. Where all are stale, the
    youngest; that it is stale is told by its time.
    """
    if not found:
        return NoData("the query yields no series")
    numbers = [sample for sample in found if math.isfinite(sample.value)]
    if not numbers:
        return NoData(f"the query yields {found[0].value} and no number")
    known = [sample for sample in numbers if sample.time - wall <= source.stale_after_seconds]  # false for NaN
    if not known:
        ahead = min(sample.time for sample in numbers) - wall
        return NoData(f"the sample is {ahead:.0f} s in the future: the clocks differ")
    fresh = [sample for sample in known if wall - sample.time <= source.stale_after_seconds]
    chosen = max(fresh, key=lambda sample: sample.value) if fresh else max(known, key=lambda sample: sample.time)
    return Reading(scaled(chosen.value, source.min, source.max), now - max(0.0, wall - chosen.time))


def scaled(value: float, low: float, high: float) -> float:
    """(value - low) / (high - low), clamped to [0, 1]."""
    return min(1.0, max(0.0, (value - low) / (high - low)))
