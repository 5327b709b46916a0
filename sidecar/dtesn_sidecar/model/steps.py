"""The update of the rows of one step: Euler with a fast path for chains, and Runge-Kutta of order 2 to 4.

Which rows a step has is decided in `packing`; who calls these, layer by layer, is `batch`. All write their rows in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

from dtesn_sidecar.model.backend import Array
from dtesn_sidecar.model.stack import Buffers, Layer, Stack

Tableau = tuple[tuple[tuple[float, ...], ...], tuple[float, ...]]

_TABLEAUS: dict[int, Tableau] = {
    1: (((),), (1.0,)),
    2: (((), (1.0,)), (1 / 2, 1 / 2)),
    3: (((), (1 / 2,), (-1.0, 2.0)), (1 / 6, 4 / 6, 1 / 6)),
    4: (((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)), (1 / 6, 2 / 6, 2 / 6, 1 / 6)),
}


def tableau(order: int) -> Tableau:
    """Runge-Kutta coefficients (rows of A, b): Euler, Heun, Kutta's third order, the classical fourth (Hairer et al., II.1)."""
    return _TABLEAUS[order]


WIDE = 32
"""Rows a step from which the bias is added step by step, in cache; with fewer, to the whole block, in one call."""


SUM_ROWS, SUM_STEPS = 256, 4
"""Rows whose states are still in a core's cache when they are added to the totals, and steps from which that saves calls enough."""


Stretches = Sequence[tuple[int, int]]
"""(rows, steps) of steps of equally many rows, one after the other."""

Products = dict[int, Callable[[Array], Array]]
"""What multiplies so many rows with the recurrent weights, kept while one layer is computed: its scratch is the thread's own."""


def chains(
    stack: Stack,
    weights: Layer,
    stretches: Stretches,
    rows: Array,
    held: Array,
    totals: Array,
    buffers: Buffers,
    products: Products,
    *,
    biased: bool,
) -> Array:
    """Steps of chains alone, order 1: never more rows than before, and item k is row k of every step.

    `held` are the states before (None: all zero), `rows` the projections (`biased`: with the bias); the states are added to `totals`.
    Returns the states of the last step. This is the loop in which most time is spent: few calls, few views.
    """
    backend, bias = stack.backend, weights.bias
    update, leak, keep = backend.leak, stack.leak, stack.keep
    start = 0
    for count, steps in stretches:
        drive, first = buffers.product[:count, ...], start
        if (product := products.get(count)) is None:
            product = products[count] = backend.products(weights.recurrent, drive)
        if held is not None:
            held = held[:count, ...]
        for _ in range(steps):
            stop = start + count
            state = rows[start:stop, ...]
            if held is None:
                if not biased:
                    backend.add(state, bias, state)
                backend.tanh(state, state)
                backend.multiply(state, leak, state)
            else:
                moved = product(held)
                if not biased:
                    backend.add(moved, bias, moved)
                update(state, moved, held, leak, keep)
            held, start = state, stop
        backend.add_steps(rows[first:start, ...], steps, totals[:count, ...], drive)
    return held


def alike(counts: Sequence[int], together: int | None = SUM_ROWS) -> Stretches:
    """Stretches of these steps: of `together` rows (None: of any), or of one step where that would be few."""
    found: list[tuple[int, int]] = []
    for count, same in groupby(counts):
        left = len(list(same))
        most = left if together is None else together // count
        if most < SUM_STEPS and together is not None:
            most = 1
        found += [(count, min(most, left - done)) for done in range(0, left, most)]
    return found


Gain = Callable[[Array], None]
"""Multiplies the rows of a product by m^(1 - gamma): children are summed, not averaged."""


def euler(stack: Stack, weights: Layer, rows: Array, held: Array, count: int, gain: Gain, buffers: Buffers, *, biased: bool) -> None:
    """rows = (1 - a) hbar + a tanh(rows + What h + b) for the first `count`; the others are leaves, which need no product."""
    backend = stack.backend
    if not biased:
        backend.add(rows, weights.bias, rows)
    count = 0 if held is None else count
    if count:
        state, product, before = rows[:count, ...], buffers.product[:count, ...], held[:count, ...]
        backend.product(before, weights.recurrent, product)
        gain(product)
        backend.leak(state, product, before, stack.leak, stack.keep)
    if count < rows.shape[0]:
        leaves = rows[count:, ...]
        backend.tanh(leaves, leaves)
        backend.multiply(leaves, stack.leak, leaves)


def runge_kutta(stack: Stack, weights: Layer, rows: Array, held: Array, count: int, gain: Gain, buffers: Buffers, *, biased: bool) -> None:
    """One step a of xdot = -x + tanh(label + gain What x + b) from hbar; leaves start at 0 with gain 1."""
    backend, known, size = stack.backend, 0 if held is None else count, rows.shape[0]
    start, slopes = buffers.stages[0][:size, ...], [stage[:size, ...] for stage in buffers.stages[1:]]
    state, product = buffers.pairs[0][:size, ...], buffers.product[:size, ...]
    if not biased:
        backend.add(rows, weights.bias, rows)
    if known:
        backend.copy(held[:known, ...], start[:known, ...])
    if known < size:
        backend.copy(0.0, start[known:, ...])
    stages, shares = tableau(stack.order)
    for stage, slope in zip(stages, slopes, strict=True):
        _combine(stack, start, stage, slopes, state, product)
        backend.product(state, weights.recurrent, product)
        gain(product)
        backend.add(product, rows, product)
        backend.tanh(product, product)
        backend.multiply(state, -1.0, slope)
        backend.add(slope, product, slope)
    _combine(stack, start, shares, slopes, rows, product)


def _combine(stack: Stack, start: Array, weights: Sequence[float], slopes: Sequence[Array], out: Array, scratch: Array) -> None:
    """out = start + a * sum_i weights_i slopes_i."""
    stack.backend.copy(start, out)
    for weight, slope in zip(weights, slopes, strict=False):
        if weight:
            stack.backend.multiply(slope, stack.leak_rate * weight, scratch)
            stack.backend.add(out, scratch, out)
