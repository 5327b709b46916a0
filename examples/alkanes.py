"""Boiling points of alkanes from their structure alone: a tree of carbon atoms in, degrees Celsius out.

The 135 alkanes of 2 to 11 carbon atoms whose normal boiling point the NIST WebBook lists, from the package `chemicals`; the value is the
median of its experimental sources, since each has a misprint or two (2,4-dimethyl-3-ethylpentane boils at 123.0 C in one of them, at 136.6
in the others). Every carbon atom is a node with the label 1, so that branching is all that the network sees; children are summed.

Ten-fold cross-validation with everything chosen inside: for each fold, the parameters and the regularisation are those with the least
leave-one-out error on the other nine. Run it as a program, or cell by cell in an editor that knows `# %%`. It takes about twenty seconds.
"""

# %% The data
import re
import statistics
from itertools import product
from typing import Any

import numpy as np
from chemicals import Tb, Tb_methods
from chemicals.identifiers import pubchem_db
from rich.console import Console
from rich.table import Table
from sklearn.model_selection import KFold

from dtesn_sidecar.sklearn import DTESNRegressor

EXPERIMENTS = ("CRC_ORG", "WEBBOOK", "COMMON_CHEMISTRY", "YAWS")
ZERO_CELSIUS = 273.15


def alkanes() -> dict[str, float]:
    """SMILES -> boiling point in degrees Celsius."""
    found = {}
    pubchem_db.autoload_main_db()
    for entry in pubchem_db.CAS_index.values():
        if entry.smiles and re.fullmatch(r"[C()]+", entry.smiles) and 2 <= entry.smiles.count("C") <= 11:
            sources = Tb_methods(entry.CASs)
            if "WEBBOOK" in sources:
                values = [Tb(entry.CASs, method=source) for source in EXPERIMENTS if source in sources]
                found[entry.smiles] = statistics.median(values) - ZERO_CELSIUS
    return dict(sorted(found.items()))


data = alkanes()
celsius = np.array(list(data.values()))
console = Console(width=100)
console.print(f"{len(data)} alkanes, boiling at {celsius.min():.1f} to {celsius.max():.1f} C")


# %% From SMILES to trees: "CC(C)C" is a chain of carbon atoms with branches in brackets. The root is the centre of the molecule
def neighbours(smiles: str) -> list[list[int]]:
    """For each carbon atom those that it is bound to."""
    bonds: list[list[int]] = []
    branches: list[int] = []
    last = -1
    for mark in smiles:
        if mark == "(":
            branches.append(last)
        elif mark == ")":
            last = branches.pop()
        else:
            bonds.append([])
            if last >= 0:
                bonds[last].append(len(bonds) - 1)
                bonds[-1].append(last)
            last = len(bonds) - 1
    return bonds


def centre(bonds: list[list[int]]) -> int:
    """What is left when leaves are taken off again and again; of two atoms the first."""
    degrees = [len(bound) for bound in bonds]
    left, leaves = len(bonds), [atom for atom, degree in enumerate(degrees) if degree <= 1]
    while left > 2:
        left -= len(leaves)
        inner = []
        for leaf in leaves:
            for atom in bonds[leaf]:
                degrees[atom] -= 1
                if degrees[atom] == 1:
                    inner.append(atom)
        leaves = inner
    return min(leaves)


def tree(smiles: str) -> dict[str, list[float] | list[int]]:
    """The flat form of a tree: a label and a parent for each node."""
    bonds = neighbours(smiles)
    parents = [-2] * len(bonds)
    root = centre(bonds)
    parents[root] = -1
    waiting = [root]
    while waiting:
        atom = waiting.pop()
        for bound in bonds[atom]:
            if parents[bound] == -2:
                parents[bound] = atom
                waiting.append(bound)
    return {"labels": [1.0] * len(bonds), "parents": parents}


trees = [tree(smiles) for smiles in data]
console.print(f"CC(C)CC is {tree('CC(C)CC')}")

# %% Candidates, and the choice among them, which sees nothing but the samples that it is given
GRID: list[dict[str, Any]] = [
    {"spectral_radius": spectral_radius, "leak_rate": leak_rate, "input_scaling": input_scaling}
    for spectral_radius, leak_rate, input_scaling in product((0.3, 0.45, 0.6, 0.9), (0.6, 1.0), (0.1, 0.5))
]


def fitted(inputs: list[dict[str, list[float] | list[int]]], targets: np.ndarray) -> DTESNRegressor:
    """The candidate with the least leave-one-out error."""
    candidates = [
        DTESNRegressor(membrane_depth=1, esn_size=100, seed=1, dtype="float64", **parameters).fit(inputs, targets) for parameters in GRID
    ]
    return min(candidates, key=lambda candidate: candidate.held_out_error_)


# %% Ten folds
predicted = np.empty(len(data))
table = Table(title="ten folds", title_justify="left")
for heading in ("fold", "alkanes", "spectral radius", "leak rate", "input scaling", "alpha", "MAE of the fold"):
    table.add_column(heading, justify="right")
for number, (known, unknown) in enumerate(KFold(10, shuffle=True, random_state=0).split(trees), start=1):
    best = fitted([trees[at] for at in known], celsius[known])
    predicted[unknown] = best.predict([trees[at] for at in unknown])
    error = np.abs(predicted[unknown] - celsius[unknown]).mean()
    numbers = (number, len(unknown), best.spectral_radius, best.leak_rate, best.input_scaling, best.alpha_)
    table.add_row(*(f"{value:.3g}" for value in numbers), f"{error:.2f} C")
console.print(table)

# %% The figures
errors = np.abs(predicted - celsius)
table = Table(title="all alkanes, each predicted by a fit that had not seen it", title_justify="left", show_header=False)
table.add_row("mean absolute error", f"{errors.mean():.2f} C")
table.add_row("median absolute error", f"{np.median(errors):.2f} C")
table.add_row("root mean square error", f"{np.sqrt((errors**2).mean()):.2f} C")
table.add_row("largest error", f"{errors.max():.1f} C ({list(data)[int(errors.argmax())]})")
table.add_row("standard deviation of boiling points", f"{celsius.std():.1f} C")
console.print(table)
