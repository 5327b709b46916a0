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

FEW_VALUES = 24_576
"""Values in the rows from which they win with whole products: 48 rows at N = 512."""

MOST_PADDED = 64
WIDEST_PADDED = 1024
"""Rows, and values in each, up to which rows are added to fill the kernel's own four."""

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

    4, 8, 16, 32 and 48 rows take 77, 94, 140, 227 and 315 us whole and 25, 46, 89, 190 and 260 us in strips of columns; at N = 1,024 strips
    win up to 12 rows, beyond that size never, and there up to 3 rows are cheaper one by one. 3 and 7 rows take 27 and 35 us, but 16 and 30
    us with one more; at N = 256 6.2 and 8.7 us, but 4.6 and 7.4 us.
    """
    size = inner * outer
    if rows in (3, 7) and 256 <= inner <= 512 and size <= 512**2:
        rows += 1
        if rows * size <= SMALL_PRODUCT:
            return Cut(rows, rows, outer)
    if rows * size <= SMALL_PRODUCT or rows * inner > FEW_VALUES:
        return None
    if rows <= 3 and (size > 1024**2 or (rows == 3 and size > 512**2)):
        return Cut(rows, 1, outer)
    width = outer
    while rows * inner * width > SMALL_PRODUCT:
        width = (width + 1) // 2
    least = 32 if size <= 512**2 else 64
    return Cut(rows, rows, width) if width >= least and size <= 1024**2 else None


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
