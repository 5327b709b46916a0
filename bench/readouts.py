"""What readouts reach on two real data sets: the programs in examples/, which make every choice on training data alone, run as they are."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys

from bench.results import ROOT, Part, Table, Target, figure
from bench.section import Bench, arguments, main

VOWELS_AT_LEAST = 0.985  # of the test set, by one layer of 400 units
ALKANES_AT_MOST = 2.5  # C, over ten folds


def printed(program: str) -> str:
    """What an example prints. Raises CalledProcessError where it fails."""
    return subprocess.run([sys.executable, str(ROOT / "examples" / program)], stdout=subprocess.PIPE, text=True, check=True).stdout


def number(name: str, output: str) -> float:
    """The figure of the row with that name. Raises ValueError where there is none."""
    match = re.search(rf"^│ {name}\s+│ ([\d.]+)", output, re.MULTILINE)
    if match is None:
        raise ValueError(f"no {name} in what the example printed:\n{output}")
    return float(match[1])


async def vowels(bench: Bench) -> Part:
    """JapaneseVowels: nine speakers, 270 utterances to learn from, 370 to be told apart."""
    bench.at("18 candidates, chosen by leave-one-out")
    output = await asyncio.to_thread(printed, "japanese_vowels.py")
    accuracy, loss = number("accuracy", output) / 100, number("log loss", output)
    return Part(
        "vowels",
        0,
        [Target.exactly("JapaneseVowels, accuracy on the test set", accuracy, VOWELS_AT_LEAST, unit="%")],
        [Table("JapaneseVowels, the test set", ("", "value"), [("accuracy", figure(accuracy, "%")), ("log loss", f"{loss:.4f}")])],
        data={"accuracy": accuracy, "log_loss": loss},
    )


async def alkanes(bench: Bench) -> Part:
    """Boiling points of 135 alkanes as trees, ten folds, each fitted without what it is asked for."""
    bench.at("ten folds of 16 candidates")
    output = await asyncio.to_thread(printed, "alkanes.py")
    mean, largest = number("mean absolute error", output), number("largest error", output)
    return Part(
        "alkanes",
        0,
        [Target.exactly("boiling points of alkanes, mean absolute error of 10 folds", mean, ALKANES_AT_MOST, better="lower", unit="C")],
        [Table("alkanes, all ten folds", ("", "error"), [("mean", figure(mean, "C")), ("largest", figure(largest, "C"))])],
        data={"mean_absolute_error": mean, "largest_error": largest},
    )


PARTS = {"vowels": (vowels, "10 seconds"), "alkanes": (alkanes, "20 seconds")}

if __name__ == "__main__":
    raise SystemExit(main("readouts", arguments("readouts", __doc__, PARTS), PARTS))
