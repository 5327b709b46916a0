"""docs/kubernetes.md names every condition, reason, Event and metric of the operator, and none that there is not."""

from __future__ import annotations

import re
from pathlib import Path

from dtesn_api import names
from dtesn_api.status import Condition, Reason

TEXT = (Path(__file__).parents[2] / "docs" / "kubernetes.md").read_text(encoding="utf-8")
OPERATOR = Path(__file__).parents[2] / "operator" / "dtesn_operator"


def test_every_condition_and_reason_has_a_row_and_no_other_has() -> None:
    rows = re.findall(r"^\| (\w+) \| `(\w+)` \| .", TEXT, re.MULTILINE)
    assert {reason for _, reason in rows} == {reason.value for reason in Reason}
    assert {condition for condition, _ in rows} == {condition.value for condition in Condition}
    assert len(rows) == len(Reason)


def test_every_metric_of_the_operator_has_a_row() -> None:
    named = {value for key, value in vars(names).items() if key.startswith("METRIC_OPERATOR_")}
    assert set(re.findall(r"^\| `(dtesn_operator_\w+)` \|", TEXT, re.MULTILINE)) == named


def test_every_event_that_is_not_a_reason_is_named() -> None:
    code = "".join((OPERATOR / file).read_text(encoding="utf-8") for file in ("events.py", "reconcile.py"))
    told = set(re.findall(r'"Normal", "(\w+)"', code)) | {"Paused", "Resumed"}
    assert told > {"Recovered", "Repaired"}
    assert all(f"`{one}`" in TEXT for one in told)
