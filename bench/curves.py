"""Pictures of the curves: small SVGs whose bytes depend on the figures alone, readable on a light and on a dark page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

INK = "#7d8590"  # a grey with enough contrast on white and on black
COLOURS = ("#3b82f6", "#f97316", "#10b981", "#a855f7", "#ef4444", "#eab308")


def draw(curves: Mapping[str, Any], file: Path) -> None:
    """Draw one stored `Curves`."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    style: dict[Any, Any] = {  # matplotlib's own type is a Literal of every key
        "svg.hashsalt": "dtesn-batcher",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 9,
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), INK),
    }
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(figsize=(6.4, 3.4))
        for colour, (name, points) in zip(COLOURS * 3, sorted(curves["lines"].items()), strict=False):
            axes.plot(
                *zip(*points, strict=True), label=name, color=colour, linewidth=1.6, marker="o" if len(points) < 40 else "", markersize=3
            )
        if curves["bound"] is not None:
            axes.axhline(curves["bound"], color=INK, linewidth=1, linestyle="--")
        if curves["log_y"]:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.set_xlabel(curves["x"])
        axes.set_ylabel(curves["y"])
        axes.set_title(curves["title"], loc="left", fontsize=10)
        axes.grid(alpha=0.25, linewidth=0.6)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        if len(curves["lines"]) > 1:
            axes.legend(frameon=False)
        figure.tight_layout()
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, transparent=True, metadata={"Date": None, "Creator": None})
        pyplot.close(figure)
