"""The pod templates of fixed specifications, byte for byte: a change of these restarts every pod at the operator's upgrade.

Where one is meant, write them again with

    python -m tests.unit.operator.test_resources_golden

and say "restarts pods" in the changelog.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.operator.specs import APPLICATION, CLUSTER, EVERYTHING, batcher, template_of

from dtesn_operator.cli.render import to_yaml
from dtesn_operator.desired import desired

FOLDER = Path(__file__).parent / "golden"
SPECS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "application": {"template": {"spec": {"containers": [APPLICATION]}}},
    "gpu": {"gpu": {"count": 1}, "model": {"readout": {"persistentVolumeClaim": {"claimName": "models", "path": "fits/a"}}}},
    "everything": EVERYTHING,
}


def rendered(name: str) -> str:
    """The pod template."""
    return to_yaml([template_of(desired(batcher(SPECS[name]), CLUSTER))])


@pytest.mark.parametrize("name", SPECS)
def test_the_pod_template_is_the_one_that_runs_everywhere_already(name: str) -> None:
    assert rendered(name) == (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def test_every_file_is_of_a_specification() -> None:
    assert {file.stem for file in FOLDER.iterdir()} == set(SPECS)


def test_what_another_operator_brings_is_not_in_them() -> None:
    resource = batcher({}, status={"image": "a:1"})
    newer = CLUSTER.__class__(operator_image="a:2", operator_namespace="elsewhere")
    assert template_of(desired(resource, CLUSTER)) == template_of(desired(resource, newer))


if __name__ == "__main__":
    for each in SPECS:
        (FOLDER / f"{each}.yaml").write_text(rendered(each), encoding="utf-8")
