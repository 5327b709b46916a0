"""How a product of few rows is best cut up. Pure; whose kernels compute is told by `blas`.

A BLAS packs the weights anew for every product, and with few rows that is most of the time. What to do about it depends on its
kernels. The times below are of OpenBLAS 0.3.31, one thread, float32, N = 512 unless said.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

PACKING_NOTHING = frozenset({"SkylakeX", "Cooperlake", "SapphireRapids"})
"""OpenBLAS's kernels for AVX-512, which have one for small products that packs nothing."""

SMALL_PRODUCT = 1_000_000
"""Multiply-adds up to which they take it."""

FEW_VALUES = 30_720
"""Values in the rows from which they win with whole products: 60 rows at N = 512."""

NARROW, WIDE = 32, 64
"""Columns of a strip of which they compute six rows at a time, and from which four."""

SMALL, MIDDLING, LARGE = 256**2, 512**2, 1024**2
"""Sizes of a matrix: from SMALL on rows added to it pay, up to MIDDLING a core's cache holds it, beyond LARGE strips never pay."""

MOST_PADDED = 64
WIDEST_PADDED = 1024
"""Rows, and values in each, up to which rows are added to fill what the kernel computes at a time."""

ONE_BY_ONE = 6
"""Rows up to which the kernels that pack are slower than as many products of a vector, which pack nothing."""


class Cut(NamedTuple):
    """`rows` to compute, as many as there are or more; in tiles of `height` rows and `width` columns. Height 1: row by row."""

    rows: int
    height: int
    width: int


@functools.lru_cache(maxsize=4096)
def cut(rows: int, inner: int, outer: int, kernels: str | None) -> Cut | None:
    """The best cut of [rows, inner] @ [inner, outer]; None for one product. Of an unknown library nothing was measured."""
    if rows == 1 or kernels is None:
        return None
    return _strips(rows, inner, outer) if kernels in PACKING_NOTHING else _padded(rows, inner, outer)


def _strips(rows: int, inner: int, outer: int) -> Cut | None:
    """Tiles small enough to pack nothing.

    Their kernel computes six rows at a time in strips of NARROW columns, and four at a time (a tenth slower) in wider ones. One or two that
    are over take as long as a whole turn, three take two: these are filled up. At N = 512 6, 12, 24 and 36 rows take 68, 63, 88 and 112 us
    whole and 18, 31, 58 and 89 us so; 4, 8, 16 and 20 rows take 54, 64, 75 and 87 us whole and 14, 23, 42 and 54 us in wider strips. At
    N = 1,024 wide strips win up to 14 rows, and 2 rows are cheaper one by one; beyond that size strips never win, nor do 3 rows together.
    """
    size = inner * outer
    if size > MIDDLING and rows <= (2 if size <= LARGE else 3):
        return Cut(rows, 1, outer)
    if size > LARGE or rows * inner > FEW_VALUES or rows + 3 > MOST_PADDED or max(inner, outer) > WIDEST_PADDED:
        return None
    wide, narrow = (_filled(rows, turn) if size >= SMALL else rows for turn in (4, 6))
    width = _width(wide, inner, outer)
    if size <= MIDDLING and width < outer and (width < WIDE or _turns(narrow, 6) <= 1.1 * _turns(wide, 4)):
        return Cut(narrow, narrow, NARROW) if outer > NARROW and narrow * inner * NARROW <= SMALL_PRODUCT else None
    return Cut(wide, wide, width) if width >= min(WIDE, outer) and (wide, width) != (rows, outer) else None


def _turns(rows: int, turn: int) -> int:
    """Rows of all turns that it takes."""
    return rows + -rows % turn


def _filled(rows: int, turn: int) -> int:
    """So many rows, up to the next turn where three or more are over."""
    return _turns(rows, turn) if rows % turn > 2 else rows


def _width(rows: int, inner: int, outer: int) -> int:
    """Columns of the widest strips that are small enough, by halving."""
    while rows * inner * outer > SMALL_PRODUCT:
        outer = (outer + 1) // 2
    return outer


def _padded(rows: int, inner: int, outer: int) -> Cut | None:
    """Row by row, or whole with rows up to a multiple of four, of which the kernels for AVX2 compute four at a time.

    2, 3, 4, 5 and 6 rows take 62, 97, 54, 155 and 83 us whole and 22, 32, 42, 52 and 60 us row by row; 7, 9, 11 and 15 rows take 110, 98,
    126 and 141 us, but 76, 87, 84 and 107 us with up to three more.
    """
    if rows <= (ONE_BY_ONE if max(inner, outer) <= WIDEST_PADDED else 3):
        return Cut(rows, 1, outer)
    if rows % 4 and rows < MOST_PADDED and max(inner, outer) <= WIDEST_PADDED:
        return Cut(rows + -rows % 4, rows + -rows % 4, outer)
    return None
