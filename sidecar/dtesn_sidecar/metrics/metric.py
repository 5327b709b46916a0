"""What a metric is: its kind, unit, labels and buckets, and the values that a label may have. The metrics themselves are in `catalogue`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

# 1 ms to 60 s, four per decade.
LATENCY_BUCKETS: Final = (
    *(0.001, 0.0018, 0.0032, 0.0056),
    *(0.01, 0.018, 0.032, 0.056),
    *(0.1, 0.18, 0.32, 0.56),
    *(1.0, 1.8, 3.2, 5.6),
    *(10.0, 18.0, 32.0, 60.0),
)
SIZE_BUCKETS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0)
RATIO_BUCKETS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99)
OTHER: Final = "other"
"""The label value of what is not known beforehand, such as the reason of a strategy of one's own: labels stay bounded."""

PRIORITIES: Final = ("0", "1", "2")
OUTCOMES: Final = ("ok", "failed", "invalid", "unavailable", "expired", "displaced", "cancelled", "refused")
CLOSED_BY: Final = ("full", "window", "idle", "deadline", "nodes", "drain", "direct", "breaker", "probe", OTHER)
REFUSALS: Final = ("queue_full", "queue_nodes", "deadline", "backlog", "too_large", "breaker", "draining", "dead")
BREAKER_STATES: Final = ("closed", "open", "half_open")

Kind = Literal["counter", "histogram", "gauge", "info"]
Values = tuple[str, ...] | str
"""The values of a label: all of them, or in words where they are few but not known beforehand."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `absent`: when it has no sample (empty: it always has). `buckets` are a histogram's bounds, in `unit`."""

    name: str
    kind: Kind
    unit: str
    meaning: str
    use: str
    labels: Mapping[str, Values] = field(default_factory=dict)
    buckets: tuple[float, ...] = ()
    absent: str = ""
