"""AdmissionReview in, AdmissionReview out (admission.k8s.io/v1). Pure; what is done to the pod is `dtesn_operator.inject`'s."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from dtesn_operator.inject import Injection, asked, present
from dtesn_operator.kinds import Manifest

API_VERSION: Final = "admission.k8s.io/v1"


class NotAReview(ValueError):
    """What was sent is no AdmissionReview of a pod; the text says what is wrong."""


@dataclass(frozen=True, slots=True)
class Request:
    """A pod that is being created: where, and the uid that the answer bears."""

    uid: str
    namespace: str
    pod: Mapping[str, Any]

    @property
    def wanted(self) -> str | None:
        """The resource to look up, or None where the pod needs none: it did not ask, or has the sidecar."""
        return None if present(self.pod) else asked(self.pod)


def request_of(body: bytes) -> Request:
    """The request in a body. Raises `NotAReview`."""
    try:
        review = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise NotAReview(f"the body is not JSON: {error}") from None
    if not isinstance(review, dict) or review.get("apiVersion") != API_VERSION or review.get("kind") != "AdmissionReview":
        raise NotAReview(f"the body is not an AdmissionReview of {API_VERSION}")
    request = review.get("request")
    if not isinstance(request, dict):
        raise NotAReview("the review has no request")
    pod = request.get("object")
    if not isinstance(pod, dict) or not isinstance(pod.get("metadata"), dict) or not isinstance(pod.get("spec"), dict):
        raise NotAReview("the request has no pod")
    uid, namespace = request.get("uid"), request.get("namespace")
    if not isinstance(uid, str) or not isinstance(namespace, str):
        raise NotAReview("the request has no uid or no namespace")
    return Request(uid, namespace, pod)


def answer(request: Request, injection: Injection) -> Manifest:
    """The review that answers the request: always allowed, patched or with a warning."""
    response: Manifest = {"uid": request.uid, "allowed": True}
    if injection.patch:
        response["patchType"] = "JSONPatch"
        response["patch"] = b64encode(msgspec.json.encode(injection.patch)).decode()
    if injection.warnings:
        response["warnings"] = list(injection.warnings)
    return {"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response}
