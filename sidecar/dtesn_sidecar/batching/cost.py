"""How long work takes: one fit of T = a * levels + b * nodes per (shape, model).

It alone feeds predicted wait, deadlines, sizing and Retry-After. Only complete clean runs are samples; the caller
sees to that. For a batch, levels is the largest of its items' and nodes their sum.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence

from .fit import OUTLIER, Fit
from .protocols import Work

MAX_FITS = 1024
"""Fits kept; requests may name many sizes, and the least recently used is forgotten."""

OPERATIONS_PER_SECOND = 1e9
"""Assumed while nothing was ever measured, not even by calibration; a slow core does five times as many."""

UNKNOWN_SECONDS = 30.0
"""Assumed then for work whose operations are not known either."""


SPLIT_SEEN = 1e-3
"""What `Fit.split` is at least where batches may be sized by it. One batch of two among single runs is enough for the next hundred."""


class CostModels:
    """The fits, by (shape, model).

    What has no samples of its own has a prior: the last fit of its shape, else of any, scaled by the operations per node. The
    first fit of all comes from the calibration at the start.
    """

    def __init__(self) -> None:
        self._fits: OrderedDict[tuple[Hashable, Hashable], Fit] = OrderedDict()
        self._last_of_shape: dict[Hashable, tuple[Fit, float | None]] = {}
        self._last: tuple[Fit, float | None] | None = None

    @property
    def measured(self) -> bool:
        """True once anything was measured."""
        return self._last is not None

    def known(self, work: Work) -> bool:
        """True where this model has samples of its own, and more than a single stall can be behind."""
        fit = self._fits.get((work.shape, work.model))
        return fit is not None and fit.believed

    def split_seen(self, work: Work | None = None) -> bool:
        """Whether runs have told what this model's levels cost from what its nodes do (None: the model measured last)."""
        if work is None:
            return self._last is not None and self._last[0].split >= SPLIT_SEEN
        fit = self._fits.get((work.shape, work.model))
        return fit is not None and fit.split >= SPLIT_SEEN

    def parts(self, work: Work) -> tuple[float, float]:
        """(seconds for its levels, seconds for its nodes), both 0 while nothing was ever measured."""
        fit = self._fits.get((work.shape, work.model))
        if fit is not None:
            return fit.a * work.levels, fit.b * work.nodes
        a, b = self._prior(work)
        return a * work.levels, b * work.nodes

    def predict(self, works: Sequence[Work]) -> float | None:
        """Seconds for one batch of these, or None while nothing was ever measured."""
        if self._last is None:
            return None
        fixed = marginal = 0.0
        for work in works:
            level_seconds, node_seconds = self.parts(work)
            fixed = max(fixed, level_seconds)
            marginal += node_seconds
        return fixed + marginal

    def expect(self, works: Sequence[Work]) -> float:
        """As `predict`, with an assumption in place of None."""
        predicted = self.predict(works)
        if predicted is not None:
            return predicted
        if any(work.operations is None for work in works):
            return UNKNOWN_SECONDS
        return sum(work.nodes * (work.operations or 0.0) for work in works) / OPERATIONS_PER_SECOND

    def _prior(self, work: Work) -> tuple[float, float]:
        known = self._last_of_shape.get(work.shape) or self._last
        if known is None:
            return 0.0, 0.0
        fit, operations = known
        scale = work.operations / operations if work.operations and operations else 1.0
        return scale * fit.a, scale * fit.b

    def learn(self, works: Sequence[Work], seconds: float, now: float) -> None:
        """Take one complete clean run as a sample.

        A batch of several models (depths) is shared out by what each was predicted to add, levels to the model
        whose levels dominate.
        """
        groups: dict[tuple[Hashable, Hashable], list[Work]] = {}
        for work in works:
            groups.setdefault((work.shape, work.model), []).append(work)
        if len(groups) == 1:
            (key, group), *_ = groups.items()
            self._sample(key, group, seconds, now)
            return
        parts = {key: (max(self.parts(w)[0] for w in group), sum(self.parts(w)[1] for w in group)) for key, group in groups.items()}
        dominant = max(parts, key=lambda key: parts[key][0])
        total = parts[dominant][0] + sum(marginal for _, marginal in parts.values())
        if total <= 0.0:
            return
        scale = seconds / total
        for key, group in groups.items():
            fixed, marginal = parts[key]
            if fixed + marginal > 0.0:  # as if it had run alone at the pace that the whole batch ran at
                self._sample(key, group, (fixed + marginal) * scale, now)

    def _sample(self, key: tuple[Hashable, Hashable], group: Sequence[Work], seconds: float, now: float) -> None:
        levels, nodes = max(w.levels for w in group), sum(w.nodes for w in group)
        fit = self._fits.get(key)
        if fit is None:
            fit = self._fits[key] = Fit(*self._prior(group[0]))
            if (expected := fit.predict(levels, nodes)) > 0.0:
                # A model that only seems slow, for a stall in its first run, would be refused under load and never measured again.
                seconds = min(seconds, OUTLIER * expected)
            if len(self._fits) > MAX_FITS:
                self._fits.popitem(last=False)
        else:
            self._fits.move_to_end(key)
        fit.learn(levels, nodes, seconds, now)
        if len(self._last_of_shape) > MAX_FITS:
            self._last_of_shape.clear()
        self._last_of_shape[key[0]] = self._last = (fit, group[0].operations)
