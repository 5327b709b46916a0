"""What the operator's benchmark reads from an audit log."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bench.operator import back_after, made_after
from bench.plane import Request, request_of

from dtesn_operator.kinds import SERVICE

ENTRY: dict[str, Any] = {
    "stage": "ResponseComplete",
    "verb": "create",
    "userAgent": "dtesn-operator",
    "objectRef": {"resource": "services", "namespace": "bench", "name": "one"},
    "responseStatus": {"code": 201},
    "requestReceivedTimestamp": "2026-01-01T00:00:00.250000Z",
    "stageTimestamp": "2026-01-01T00:00:01.000000Z",
}


def request(resource: str, verb: str, at: float, agent: str = "dtesn-operator", status: int = 201, subresource: str = "") -> Request:
    return Request(verb, agent, resource, "one", subresource, at, at + 0.1, status)


def test_a_line_of_the_log_is_a_request_with_its_times() -> None:
    found = request_of(json.dumps(ENTRY).encode())
    assert (found.verb, found.resource, found.name, found.status) == ("create", "services", "one", 201)
    assert found.answered - found.received == pytest.approx(0.75)
    assert found.writes
    assert found.operators


def test_reads_refused_writes_and_those_of_others_are_told_apart() -> None:
    assert not request_of(json.dumps({**ENTRY, "verb": "list"}).encode()).writes
    assert not request_of(json.dumps({**ENTRY, "responseStatus": {"code": 409}}).encode()).writes
    assert not request_of(json.dumps({**ENTRY, "userAgent": "kubectl/v1.34.4"}).encode()).operators


def test_a_request_about_no_object_is_read_too() -> None:
    found = request_of(json.dumps({name: value for name, value in ENTRY.items() if name != "objectRef"}).encode())
    assert (found.resource, found.name) == ("", "")


OWNED = [
    request(resource, "create", at)
    for resource, at in (("serviceaccounts", 1.0), ("configmaps", 2.0), ("services", 4.0), ("deployments", 3.0))
]


def test_the_last_owned_object_ends_the_time_of_one_resource() -> None:
    begin = request("dtesnbatchers", "create", 0.5, agent="bench")
    later = [request("pods", "create", 9.0, agent="kube-controller-manager"), request("dtesnbatchers", "patch", 8.0, subresource="status")]
    assert made_after([begin, *OWNED, *later], "one") == pytest.approx(3.6)


def test_an_object_that_is_missing_is_no_measurement() -> None:
    with pytest.raises(RuntimeError, match="3 objects of 4"):
        made_after([request("dtesnbatchers", "create", 0.5, agent="bench"), *OWNED[:3]], "one")


def test_a_repair_is_from_the_tampering_to_the_operators_last_write() -> None:
    seen = [
        request("services", "create", 1.0),
        request("services", "delete", 5.0, agent="bench", status=200),
        request("services", "create", 5.2),
        request("services", "create", 5.1, status=409),
    ]
    assert back_after(seen, SERVICE, "one") == pytest.approx(0.3)
    with pytest.raises(RuntimeError, match="did not come back"):
        back_after(seen[:2], SERVICE, "one")
