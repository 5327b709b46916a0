"""The `engine` provider: how full an LLM engine beside the sidecar is, by what Aphrodite and vLLM tell of themselves.

Both have `GET /load`, `{"server_load": n}`: requests inside the HTTP server; counted only where the engine was started with
`--enable-server-load-tracking`, else always 0. Both have `GET /metrics` (prefix `aphrodite:` or `vllm:`): `num_requests_running`,
`num_requests_waiting`, and `kv_cache_usage_perc` (a ratio in spite of its name; formerly `gpu_cache_usage_perc`); absent with
`--disable-log-stats`. Some versions export their own limit, `max_num_seqs`, as a label of an info metric.
"""

from __future__ import annotations

import asyncio
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from dtesn_sidecar.load.http import Reply, address, get, quoted
from dtesn_sidecar.load.readings import LoadProvider, NoData

if TYPE_CHECKING:
    from dtesn_api.spec import EngineSource

INTERVAL: Final = 1.0  # seconds between polls
TIMEOUT: Final = 2.0
STALE_AFTER: Final = 10.0
HOLD: Final = 10.0  # an engine's HTTP server is often late while it works; its load has not gone
LIMIT: Final = 64  # requests that mean full load where nobody says how many do
MOST_BYTES: Final = 4 << 20  # histograms by model and the configuration as labels make megabytes

_PREFIXES: Final = (b"vllm:", b"aphrodite:")
_SAMPLE: Final = re.compile(rb"[a-z]+:(\w+)(?:\{.*\})?[ \t]+(\S+)")
_OWN_LIMIT: Final = re.compile(rb'[{,](?:scheduler_config_)?max_num_seqs="([0-9]{1,7})"')


@dataclass(frozen=True, slots=True)
class Metrics:
    """What `/metrics` says of all engines of a server: `requests` running and waiting, the fullest `cache`, the `limit`.

    None: it does not say.
    """

    requests: float | None = None
    cache: float | None = None
    limit: int | None = None


class _Load(msgspec.Struct, frozen=True):
    server_load: float


def engine_load(source: EngineSource) -> LoadProvider:
    """The provider of a source."""
    counts = False  # whether /load has ever said more than 0

    async def engine() -> float | NoData:
        nonlocal counts
        load_reply, metrics_reply = await asyncio.gather(
            get(address(source.url, "/load"), seconds=TIMEOUT, most_bytes=MOST_BYTES),
            get(address(source.url, "/metrics"), seconds=TIMEOUT, most_bytes=MOST_BYTES),
        )
        inside = server_load(load_reply)
        counts = counts or (not isinstance(inside, NoData) and inside > 0)
        without_metrics = isinstance(metrics_reply, Reply) and metrics_reply.status == 404
        if inside == 0 and not counts and not without_metrics:
            inside = NoData("/load says 0 and has never said more, so perhaps it does not count (--enable-server-load-tracking)")
        return fullness(inside, engine_metrics(metrics_reply), source.max_requests)

    return engine


def fullness(inside: float | NoData, metrics: Metrics | NoData, max_requests: int | None) -> float | NoData:
    """The load in [0, 1]: requests over their limit, or the use of the KV cache where that is higher.

    Requests are what `/load` or `/metrics` says, the higher where both do; their limit is `max_requests`, else the engine's own,
    else 64. Waiting requests count like running ones: they are load, and an engine that lets them wait is full.
    """
    told = Metrics() if isinstance(metrics, NoData) else metrics
    counts = [count for count in (inside, told.requests) if isinstance(count, float)]
    shares = [min(1.0, max(counts) / (max_requests or told.limit or LIMIT))] if counts else []
    if told.cache is not None:
        shares.append(min(1.0, told.cache))
    if shares:
        return max(shares)
    return NoData("; ".join(part.reason for part in (inside, metrics) if isinstance(part, NoData)))


def server_load(reply: Reply | NoData) -> float | NoData:
    """Requests inside the server, from a reply of `/load`."""
    if isinstance(reply, NoData):
        return NoData(f"/load: {reply.reason}")
    if reply.status != 200:
        return NoData(f"/load: HTTP {reply.status}")
    try:
        count = msgspec.json.decode(reply.body, type=_Load).server_load
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return NoData(f"/load: {quoted(reply.media)} without a number `server_load`")
    return count if count >= 0 else NoData(f"/load: a count of {count:g}")


def engine_metrics(reply: Reply | NoData) -> Metrics | NoData:
    """What a reply of `/metrics` says of the engine. Values that are no counts or ratios are left out."""
    if isinstance(reply, NoData):
        return NoData(f"/metrics: {reply.reason}")
    if reply.status != 200:
        return NoData(f"/metrics: HTTP {reply.status}")
    values: dict[bytes, list[float]] = {}
    limits: list[int] = []
    for line in reply.body.split(b"\n"):
        if line.startswith(_PREFIXES):
            if b"config_info{" in line:
                limits += [int(found[1]) for found in [_OWN_LIMIT.search(line)] if found is not None]
            elif b":num_requests_" in line or b"_cache_usage_perc" in line:
                name, value = _sample(line)
                if 0 <= value < math.inf:  # false for NaN
                    values.setdefault(name, []).append(value)
    requests = [sum(values[name]) for name in (b"num_requests_running", b"num_requests_waiting") if name in values]
    cache = values.get(b"kv_cache_usage_perc") or values.get(b"gpu_cache_usage_perc")
    if not requests and cache is None:
        return NoData("/metrics: neither running requests nor KV-cache usage of Aphrodite or vLLM")
    return Metrics(sum(requests) if requests else None, max(cache) if cache else None, sum(limits) or None)


def _sample(line: bytes) -> tuple[bytes, float]:
    """Name without prefix, and value; NaN where it is none."""
    found = _SAMPLE.match(line)
    try:
        return (b"", math.nan) if found is None else (found[1], float(found[2]))
    except ValueError:
        return b"", math.nan
