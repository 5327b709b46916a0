"""T = a * levels + b * nodes, fitted to samples one at a time. Mathematics only; who samples what is elsewhere.

Recursive least squares with exponential forgetting, kept as normal equations (two unknowns: solving them outright
is cheaper than a gain recursion, and the bound a, b >= 0 is then exact). Each sample weighs by 1 / (levels * nodes), so
that errors count about relative; not by its time, because a device that slows down must be believed. A direction that the
samples do not excite keeps its last estimate.
"""

from __future__ import annotations

FORGETTING = 0.98
"""Weight of the past per sample: the last 50 samples make up 64 % of the fit."""

ANCHOR = 0.05
"""Weight of the last estimate per update, relative to one sample: what holds the direction without samples."""

NODE_SHARE = 0.02
"""What nodes are taken to cost before a second sample: optimism is refuted by the next batch, while pessimism refuses the
requests that could refute it."""

OUTLIER = 4.0
"""A sample counts at most this many times its prediction: a stall of the machine is not a law of it. One so many times below
shows that the stalls are in what was learnt, since nothing makes a run too short: then the fit begins anew."""

BELIEVED = 3
"""So many samples in a row beyond `OUTLIER` are no stall but a slower device, and the fit begins anew with the last. With fewer
samples altogether, one stall may be most of what a fit says."""


class Fit:
    """a and b in seconds per level and per node, both >= 0. Those given are a prior, of which a first sample keeps the ratio."""

    __slots__ = ("_beyond", "_held", "_ll", "_ln", "_lt", "_nn", "_nt", "a", "b", "sampled_at", "samples")

    def __init__(self, a: float = 0.0, b: float = 0.0) -> None:
        self.a = a
        self.b = b
        self.samples = 0
        self.sampled_at: float | None = None
        self._beyond = self._held = 0
        self._ll = self._ln = self._nn = self._lt = self._nt = 0.0

    def predict(self, levels: float, nodes: float) -> float:
        """Seconds."""
        return self.a * levels + self.b * nodes

    def learn(self, levels: float, nodes: float, seconds: float, now: float) -> None:
        """Take one sample: `seconds` for a run of `levels` sequential steps and `nodes` in all."""
        if seconds <= 0.0 or nodes <= 0.0 or levels <= 0.0:
            return
        prior = self.predict(levels, nodes)
        if self.samples and prior > 0.0:
            self._beyond = self._beyond + 1 if seconds > OUTLIER * prior else 0
            if self._beyond >= BELIEVED or seconds * OUTLIER < prior:
                self._begin_anew()
            else:
                seconds = min(seconds, OUTLIER * prior)
        if self._held == 0 and prior > 0.0:
            self.a, self.b = self.a * seconds / prior, self.b * seconds / prior
        elif self._held == 0:  # one sample cannot tell levels from nodes; the first batch of several will
            self.a, self.b = (1.0 - NODE_SHARE) * seconds / levels, NODE_SHARE * seconds / nodes
        self.samples += 1
        self._held += 1
        self.sampled_at = now
        weight = 1.0 / (levels * nodes)
        self._ll = FORGETTING * self._ll + weight * levels * levels
        self._ln = FORGETTING * self._ln + weight * levels * nodes
        self._nn = FORGETTING * self._nn + weight * nodes * nodes
        self._lt = FORGETTING * self._lt + weight * levels * seconds
        self._nt = FORGETTING * self._nt + weight * nodes * seconds
        self._solve()

    def _begin_anew(self) -> None:
        self._beyond = self._held = 0
        self._ll = self._ln = self._nn = self._lt = self._nt = 0.0

    def _solve(self) -> None:
        anchor_l, anchor_n = ANCHOR * self._ll / self.samples_held, ANCHOR * self._nn / self.samples_held
        ll, nn, ln = self._ll + anchor_l, self._nn + anchor_n, self._ln
        lt, nt = self._lt + anchor_l * self.a, self._nt + anchor_n * self.b
        determinant = ll * nn - ln * ln
        if determinant > 1e-12 * ll * nn:
            a, b = (nn * lt - ln * nt) / determinant, (ll * nt - ln * lt) / determinant
        else:
            a, b = self.a, self.b
        if a < 0.0:
            a, b = 0.0, max(nt / nn, 0.0)
        elif b < 0.0:
            a, b = max(lt / ll, 0.0), 0.0
        self.a, self.b = a, b

    @property
    def believed(self) -> bool:
        """Whether it has so many samples that no single stall is behind what it says."""
        return self._held >= BELIEVED

    @property
    def split(self) -> float:
        """How well the samples tell levels from nodes: 0 where all had the same ratio (what one costs is then a guess), below 1."""
        square = self._ll * self._nn
        return max(0.0, 1.0 - self._ln * self._ln / square) if square > 0.0 else 0.0

    @property
    def samples_held(self) -> float:
        """How many samples' weight the fit holds: (1 - f^k) / (1 - f)."""
        return (1.0 - FORGETTING ** min(self._held, 1000)) / (1.0 - FORGETTING)
