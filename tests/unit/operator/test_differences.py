"""Where an object differs from what is wanted: found exactly where the operator would write, and said by names."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from tests.unit.operator.specs import CLUSTER, EVERYTHING, batcher

from dtesn_operator.desired import desired
from dtesn_operator.differences import Difference, differences, merged
from dtesn_operator.plan import differs, stamped

NAMES = st.sampled_from(["name", "port", "key", "ingress", "requests", "spec", "a.b/c", "args"])
PLAIN = st.booleans() | st.integers(0, 3) | st.sampled_from(["", "a", "500m", "0.5", "1Gi"])
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=12)
FIELDS = st.dictionaries(NAMES, VALUES, max_size=3)


def manifest(**fields: Any) -> dict[str, Any]:
    return {"metadata": {"name": "demo"}, **fields}


def recorded(record: dict[str, Any], manager: str = "dtesn-operator", subresource: str = "", **fields: Any) -> dict[str, Any]:
    """An object with the record of one manager's fields."""
    entry = {"manager": manager, "operation": "Apply", "fieldsV1": record, **({"subresource": subresource} if subresource else {})}
    return {"metadata": {"name": "demo", "managedFields": [entry]}, **fields}


def said(found: tuple[Difference, ...]) -> dict[str, tuple[Any, Any]]:
    return {one.text: (one.before, one.after) for one in found}


@given(FIELDS, FIELDS)
@example({"key": [{}]}, {"key": []})
def test_there_is_a_difference_exactly_where_the_operator_would_apply(wanted: dict[str, Any], found: dict[str, Any]) -> None:
    wanted, found = manifest(**wanted), manifest(**found)
    assert bool(differences(wanted, found)) == differs(wanted, found)


@given(FIELDS)
def test_what_is_there_as_wanted_has_no_difference(fields: dict[str, Any]) -> None:
    assert differences(manifest(**fields), manifest(**fields)) == ()


@given(VALUES, VALUES)
def test_two_states_are_told_apart_exactly_where_they_are_two(before: Any, after: Any) -> None:
    assert bool(merged(before, after)) == (before != after)


def test_all_that_can_be_rendered_equals_itself() -> None:
    for one in desired(batcher(EVERYTHING), CLUSTER).objects:
        assert differences(stamped(one), stamped(one)) == ()


def test_entries_of_lists_are_named() -> None:
    wanted = manifest(spec={"containers": [{"name": "web", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}]})
    found = manifest(spec={"containers": [{"name": "other"}, {"name": "web", "env": [{"name": "B", "value": "3"}]}]})
    assert said(differences(wanted, found)) == {
        "spec.containers[web].env[A]": (None, {"name": "A", "value": "1"}),
        "spec.containers[web].env[B].value": ("3", "2"),
    }


def test_company_that_a_list_does_not_bear_goes_and_other_company_stays() -> None:
    wanted = manifest(spec={"ingress": [{"name": "a"}], "volumes": [{"name": "a"}]})
    found = manifest(spec={"ingress": [{"name": "a"}, {"name": "b"}], "volumes": [{"name": "a"}, {"name": "b"}]})
    assert said(differences(wanted, found)) == {"spec.ingress[b]": ({"name": "b"}, None)}


def test_quantities_of_the_same_amount_are_no_difference() -> None:
    wanted = manifest(resources={"requests": {"cpu": "0.5", "memory": "1Gi"}})
    assert differences(wanted, manifest(resources={"requests": {"cpu": "500m", "memory": "1024Mi"}})) == ()


def test_a_field_on_record_as_ours_that_is_no_longer_wanted_goes() -> None:
    record: dict[str, object] = {
        "f:spec": {
            "f:env": {'k:{"name":"A"}': {".": {}, "f:name": {}, "f:value": {}}, 'k:{"name":"B"}': {".": {}, "f:value": {}}},
            "f:ports": {'k:{"port":80,"protocol":"TCP"}': {".": {}, "f:port": {}}},
            "f:paused": {},
            "f:gone": {},
        }
    }
    spec = {"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}], "ports": [{"port": 80, "protocol": "TCP"}], "paused": True}
    wanted = manifest(spec={"env": [{"name": "A", "value": "1"}], "ports": [{"port": 80}]})
    assert said(differences(wanted, recorded(record, spec=spec))) == {
        "spec.env[B]": ({"name": "B", "value": "2"}, None),
        "spec.paused": (True, None),
    }


def test_with_the_defaults_at_hand_only_what_would_be_otherwise_is_a_difference() -> None:
    record: dict[str, object] = {"f:spec": {"f:kept": {}, "f:reset": {}, "f:gone": {}, "f:requests": {"f:cpu": {}}, "f:ports": {}}}
    found = recorded(
        record, spec={"kept": "Cluster", "reset": 5, "gone": 1, "requests": {"cpu": "500m"}, "ports": [{"name": "a", "port": 81}]}
    )
    wanted = {"requests": {"cpu": "0.5"}, "ports": [{"name": "a", "port": 80}]}
    complete = {**wanted, "kept": "Cluster", "reset": 1, "requests": {"cpu": "500m"}}
    changes = {"spec.ports[a].port": (81, 80), "spec.reset": (5, 1), "spec.gone": (1, None)}
    assert said(differences(manifest(spec=wanted), found, manifest(spec=complete))) == changes


def test_fields_that_are_on_record_as_of_others_stay() -> None:
    record: dict[str, object] = {"f:spec": {"f:paused": {}}}
    wanted = manifest(spec={})
    assert differences(wanted, recorded(record, manager="kubectl", spec={"paused": True})) == ()
    assert differences(wanted, recorded(record, subresource="status", spec={"paused": True})) == ()


def test_what_the_operator_writes_to_remember_is_not_shown() -> None:
    wanted = stamped(manifest(data={"a": "1"}))
    wanted["metadata"]["uid"] = "6f1c"
    record: dict[str, object] = {"f:metadata": {"f:annotations": {".": {}, "f:dtesn.dev/applied": {}}}}
    found = recorded(record, data={"a": "1"})
    found["metadata"]["annotations"] = {"dtesn.dev/applied": "another"}
    assert differences(wanted, found) == ()
    assert differences(wanted, manifest(data={"a": "1"})) == ()


def test_keys_with_dots_are_quoted() -> None:
    wanted = {"metadata": {"name": "demo", "annotations": {"example.com/team": "a"}}}
    assert said(differences(wanted, manifest())) == {"metadata.annotations": (None, {"example.com/team": "a"})}
    found = {"metadata": {"name": "demo", "annotations": {"example.com/team": "b"}}}
    assert said(differences(wanted, found)) == {"metadata.annotations['example.com/team']": ("b", "a")}


def test_a_list_in_another_order_is_told_whole() -> None:
    assert said(merged({"a": [{"name": "x"}, {"name": "y"}]}, {"a": [{"name": "y"}, {"name": "x"}]})) == {
        "a": ([{"name": "x"}, {"name": "y"}], [{"name": "y"}, {"name": "x"}])
    }
