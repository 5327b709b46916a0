"""Kinds of strings and numbers that several sections share: names, URLs, paths, quantities, ports.

Patterns end in `\\Z`, since Python's `$` also matches before a final newline; a generator for another dialect
writes `$` there. They use no `\\w`, `\\s` or `.`: these mean other characters in Python than in the API server's RE2.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

# Who acts on a change of a field: the running sidecar, the sidecar's next start, or the operator alone. What is below
# a section inherits it.
LIVE = {"applies": "live"}
RESTART = {"applies": "restart"}
OPERATOR = {"applies": "operator"}

DnsLabel = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=63,
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z",
        extra={"expected": "a DNS label: 1 to 63 lower-case letters, digits and '-', with a letter or digit first and last"},
    ),
]
ObjectName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=253,
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z",
        extra={"expected": "the name of a Kubernetes object: 1 to 253 lower-case letters, digits, '-' and '.'"},
    ),
]
HttpUrl = Annotated[
    str,
    Meta(
        min_length=8,
        max_length=2048,
        pattern=r"^https?://[-.:_~%!$&'()*+,;=\[\]a-zA-Z0-9]+([/?#][!-~]*)?\Z",
        extra={"expected": "an http or https URL of at most 2048 ASCII characters without user information (use auth for credentials)"},
    ),
]
FilePath = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=1024,
        pattern=r"^/[^\x00]*\Z",
        extra={"expected": "an absolute path of at most 1024 characters"},
    ),
]
PromQL = Annotated[str, Meta(min_length=1, max_length=4096)]
Port = Annotated[int, Meta(ge=1, le=65_535)]
Quantity = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        pattern=r"^\+?([0-9]+|[0-9]+\.[0-9]*|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][-+]?[0-9]+)?\Z",
        extra={"expected": "a non-negative Kubernetes quantity such as 500m, 0.5 or 2Gi"},
    ),
]
IntOrQuantity = Annotated[int, Meta(ge=0, le=9_007_199_254_740_991)] | Quantity
IntOrPercent = (
    Annotated[int, Meta(ge=0, le=1000)]
    | Annotated[
        str,
        Meta(min_length=2, max_length=4, pattern=r"^(100|[1-9]?[0-9])%\Z", extra={"expected": "a percentage such as 25%"}),
    ]
)
FreeForm = dict[str, Any]  # an object of Kubernetes's own, which the API server checks when it is applied
