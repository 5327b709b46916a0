"""The rules that cross fields: each is broken once, and each says so in a sentence that names its fields."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tests.contract.spec_values import REQUIRED, sections

from dtesn_api.problems import SpecInvalid
from dtesn_api.reading import read
from dtesn_api.schema import fields, rules, wire_name
from dtesn_api.spec import BatchConfiguration, DTESNBatcherSpec, decode_spec

BROKEN: dict[str, dict[str, Any]] = {
    "batch size: min <= target": {"minBatchSize": 9},
    "batch size: target <= max": {"targetBatchSize": 33},
    "load thresholds: low < high": {"lowLoadThreshold": 0.8},
    "batch wait: min <= max": {"minBatchWaitMs": 50.5},
    "timeouts: min <= max": {"minTimeoutSeconds": 301},
    "timeouts: default <= max": {"defaultTimeoutSeconds": 301},
    "readout: exactly one source": {"path": "/a", "persistentVolumeClaim": {"claimName": "a", "path": "b"}},
    "auth: bearer or basic": {"bearerTokenFile": "/a", "usernameFile": "/b", "passwordFile": "/c"},
    "auth: user name and password together": {"usernameFile": "/b"},
    "tls: certificate and key together": {"certFile": "/b"},
    "source name: not a built-in one": {"name": "system"},
    "value range: min < max": {"min": 1},
    "polling: interval <= stale after": {"intervalSeconds": 31},
    "tls: only with https": {"tls": {}},
    "image: repository and tag together": {"repository": "example/dtesn"},
    "gpu: device plugin or claim": {"resourceName": "nvidia.com/gpu", "deviceClassName": "gpu.nvidia.com"},
    "env: value or valueFrom": {"value": "1", "valueFrom": {}},
    "replicas: min <= max": {"minReplicas": 11},
    "scale to zero needs keda": {"minReplicas": 0},
    "keda needs prometheus": {"enabled": True, "via": "keda"},
    "activation needs prometheus": {"activationQuery": "up"},
    "a ratio is at most 1": {"value": 70},
    "strategy: something must give": {"maxUnavailable": 0, "maxSurge": "0%"},
    "gpu needs a capable backend": {"gpu": {"count": 1}, "backend": "numpy"},
    "a request fits into the queue": {"batching": {"maxQueueNodes": 4095}},
    "a request fits into a batch": {"batching": {"maxBatchNodes": 4095}},
    "the sidecar's container is ours": {"template": {"spec": {"initContainers": [{"name": "dtesn-sidecar"}]}}},
}
RULES = [pytest.param(section, rule, id=rule.name) for section in sections() for rule in rules(section)]


def test_every_rule_has_an_example_that_breaks_it() -> None:
    names = [str(param.id) for param in RULES]
    assert sorted(names) == sorted(BROKEN)


@pytest.mark.parametrize(("section", "rule"), RULES)
def test_a_broken_rule_names_its_fields_and_is_the_only_problem(section: Any, rule: Any) -> None:
    with pytest.raises(SpecInvalid) as caught:
        read(section, REQUIRED.get(section.__name__, {}) | BROKEN[rule.name], "spec.x")
    (problem,) = caught.value.problems
    names = [".".join(wire_name(part) for part in name.split(".")) for name in rule.fields]
    assert problem.field == f"spec.x.{names[0]}"
    for name in names:
        assert re.search(rf"\b{re.escape(name)} \(.+?\)", problem.message)
    assert "{" not in problem.message


@pytest.mark.parametrize(("section", "rule"), RULES)
def test_the_cel_of_a_rule_reads_the_same_fields(section: Any, rule: Any) -> None:
    wanted = {".".join(wire_name(part) for part in name.split(".")) for name in rule.fields}
    read_by_cel = set(re.findall(r"self\.([a-zA-Z.]+)", rule.cel))
    assert {name if "." in next(iter(wanted)) or name in wanted else name.partition(".")[0] for name in read_by_cel} == wanted
    assert {name.partition(".")[0] for name in read_by_cel} <= {field.wire for field in fields(section)}


def test_a_rule_says_which_value_is_a_default() -> None:
    with pytest.raises(SpecInvalid) as caught:
        decode_spec({"batching": {"targetBatchSize": 99}})
    assert str(caught.value) == "spec.batching.targetBatchSize (99) must be at most maxBatchSize (32, the default)"


def test_in_python_a_rule_speaks_of_python_names() -> None:
    with pytest.raises(ValueError, match=r"^target_batch_size \(99\) must be at most max_batch_size \(32\)$"):
        BatchConfiguration(target_batch_size=99)


def test_a_rule_is_silent_where_a_field_of_its_own_is_bad() -> None:
    with pytest.raises(SpecInvalid) as caught:
        decode_spec({"batching": {"targetBatchSize": 99, "maxBatchSize": "many"}})
    assert [problem.field for problem in caught.value.problems] == ["spec.batching.maxBatchSize"]


def test_names_in_a_list_differ() -> None:
    source = REQUIRED["PrometheusSource"]
    with pytest.raises(SpecInvalid) as caught:
        decode_spec({"load": {"prometheus": [source, source]}})
    assert [problem.field for problem in caught.value.problems] == ["spec.load.prometheus[1].name"]


def test_names_in_a_list_differ_is_told_beside_what_else_is_wrong_with_its_entries() -> None:
    source = REQUIRED["PrometheusSource"]
    with pytest.raises(SpecInvalid) as caught:
        decode_spec({"load": {"prometheus": [source, source | {"url": "ftp://p"}, source | {"name": 7}, 3]}})
    found = {problem.field for problem in caught.value.problems}
    assert found == {
        "spec.load.prometheus[1].url",
        "spec.load.prometheus[1].name",
        "spec.load.prometheus[2].name",
        "spec.load.prometheus[3]",
    }


def test_scaling_to_zero_is_allowed_with_keda_and_an_activation_query() -> None:
    autoscaling = {"enabled": True, "via": "keda", "minReplicas": 0, "prometheusUrl": "http://p:9090", "activationQuery": "up"}
    assert decode_spec({"autoscaling": autoscaling}).autoscaling.min_replicas == 0


def test_a_template_of_a_wrong_form_is_left_to_the_api_server() -> None:
    for template in ({"spec": 3}, {"spec": {"containers": 3}}, {"spec": {"containers": [3, {"name": "app"}]}}, {}):
        assert decode_spec({"template": template}) == DTESNBatcherSpec(template=template)
