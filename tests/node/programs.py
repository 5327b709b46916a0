"""The programs that a node runs beside the control plane, built from the same Go modules: kubelet and kube-proxy, and CoreDNS."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.cluster.build import CONTROL_PLANE, Module, built

_NODE = replace(
    CONTROL_PLANE,
    programs={name: f"k8s.io/kubernetes/cmd/{name}" for name in ("kubelet", "kube-proxy")},
    why="they run the pods and carry what goes to Services",
    about="a minute",
)
_COREDNS = Module("coredns", {"coredns": "github.com/coredns/coredns"}, "names of Services and pods", "two minutes")
ALL = (_NODE, _COREDNS)


def program(name: str) -> Path:
    """The program's path; built where it is not yet. Raises MissingPrerequisite where that cannot be."""
    module = next(one for one in ALL if name in one.programs)
    return built(module) / name
