"""What the benchmarks send: pieces of Python's own documentation, which is on every machine (`pydoc_data.topics`)."""

from __future__ import annotations

import re
from functools import cache
from pydoc_data.topics import topics

import numpy as np

MEAN_BYTES = 64
SIGMA = 0.6


@cache
def _sentences() -> tuple[str, ...]:
    found = (" ".join(part.split()) for _, topic in sorted(topics.items()) for part in re.split(r"(?<=[.!?:])\s+|\n\n+", topic))
    return tuple(dict.fromkeys(sentence for sentence in found if 8 <= len(sentence.encode()) <= 400))


def sentences(count: int, seed: int = 0) -> list[str]:
    """Different sentences of 8 to 400 bytes, as they are in the documentation."""
    everything = _sentences()
    chosen = np.random.default_rng(seed).choice(len(everything), count, replace=False)
    return [everything[i] for i in chosen]


def mixed(count: int, seed: int = 0) -> list[str]:
    """Pieces of documentation with log-normal lengths (mean 64 bytes, sigma of the logarithm 0.6), as in bench/kernel.py."""
    rng = np.random.default_rng(seed)
    book = " ".join(_sentences()).encode("ascii", "replace").decode()
    lengths = rng.lognormal(np.log(MEAN_BYTES) - SIGMA**2 / 2, SIGMA, count)
    starts = rng.integers(0, len(book) - 10_000, count)
    return [book[start : start + max(1, round(length))] for start, length in zip(starts, lengths, strict=True)]
