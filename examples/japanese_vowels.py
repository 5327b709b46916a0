"""Who said the vowel: a classifier of 9 speakers, chosen on the training set alone, and scored once on the test set.

JapaneseVowels (Kudo, Toyama & Shimbo 1999; UCI archive): 270 utterances for training and 370 for the test, each 7 to 29 steps of 12
channels. The files come with the package `sktime`. Run it as a program, or cell by cell in an editor that knows `# %%`; a path as argument
is where the readout is written, ready to be served. It takes about ten seconds.
"""

# %% The data: one utterance per line, its channels parted by ':'
import sys
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from dtesn_sidecar.sklearn import DTESNClassifier

package = find_spec("sktime")
assert package is not None, "pip install sktime"
assert package.origin is not None
FOLDER = Path(package.origin).parent / "datasets" / "data" / "JapaneseVowels"


def read(name: str) -> tuple[list[np.ndarray], list[str]]:
    """Series [steps, 12] and speakers."""
    lines = (FOLDER / f"JapaneseVowels_{name}.ts").read_text().splitlines()
    samples = [line.split(":") for line in lines if line and line[0] not in "#@"]
    series = [np.array([[float(value) for value in channel.split(",")] for channel in channels]).T for *channels, _ in samples]
    return series, [speaker for *_, speaker in samples]


train, train_speakers = read("TRAIN")
test, test_speakers = read("TEST")
console = Console(width=100)
console.print(f"{len(train)} utterances for training, {len(test)} for the test, {len(set(train_speakers))} speakers")

# %% Candidates: one layer of 400 units. Chosen by the leave-one-out error on the training set; the test set is not touched
GRID = product((0.1, 0.3, 1.0), (0.5, 0.9), (0, 1, 2))  # input scaling, spectral radius, seed
candidates = [
    DTESNClassifier(
        membrane_depth=1, esn_size=400, leak_rate=0.3, input_scaling=input_scaling, spectral_radius=spectral_radius, seed=seed
    ).fit(train, train_speakers)
    for input_scaling, spectral_radius, seed in GRID
]
candidates.sort(key=lambda candidate: candidate.held_out_error_)
best = candidates[0]

table = Table(title="the five best of 18 on the training set (leave-one-out)", title_justify="left")
for heading in ("input scaling", "spectral radius", "seed", "alpha", "error", "accuracy"):
    table.add_column(heading, justify="right")
for one in candidates[:5]:
    numbers = (one.input_scaling, one.spectral_radius, one.seed, one.alpha_, one.held_out_error_, one.held_out_scores_["accuracy"])
    table.add_row(*(f"{number:.4g}" for number in numbers))
console.print(table)

# %% The test, once
accuracy = best.score(test, test_speakers)
scores = best.predict_proba(test)
right = scores[np.arange(len(test)), np.searchsorted(best.classes_, test_speakers)]
table = Table(title="the test set", title_justify="left", show_header=False)
table.add_row("accuracy", f"{100 * accuracy:.2f} %")
table.add_row("errors", f"{round((1 - accuracy) * len(test))} of {len(test)}")
table.add_row("log loss", f"{-np.log(right).mean():.4f}")
console.print(table)

# %% The readout as a file, for `dtesn-sidecar serve`
if len(sys.argv) > 1:
    console.print(f"written to {sys.argv[1]}, sha256 {best.save(sys.argv[1])}", soft_wrap=True)
