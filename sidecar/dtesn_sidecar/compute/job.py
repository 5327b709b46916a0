"""What a batch of the DTESN consists of: the payload that the manager carries without looking into it, and its cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dtesn_sidecar.batching.protocols import Work
from dtesn_sidecar.model.inputs import parse_input

if TYPE_CHECKING:
    from dtesn_api.spec import ModelConfiguration
    from dtesn_api.wire import Output
    from dtesn_sidecar.model.trees import Tree


_PROBES: Final = tuple(bytes(b"the unbatched baseline " * 6)[:length] for length in (64, 16, 128))


@dataclass(frozen=True, slots=True)
class Job:
    """One input, the depth and the size of the model to compute it with, and how much of the answer is wanted.

    The result is a float32 array: the `features` `[depth, 2, esn_size]` (axis 1: root state, mean state), or as `summary`
    their Euclidean norm and mean, `[depth, 2, 2]`, or what the `readout` gives, `[outputs]`; reduced where they were
    computed, so that no 2 * depth * esn_size numbers travel for them.
    """

    tree: Tree
    depth: int
    esn_size: int
    output: Output = "features"


def work_of(model: ModelConfiguration, job: object) -> Work:
    """The cost of a job. Jobs of one size share batches; each depth has a cost model of its own.

    At another size than the configured one the nodes count towards the budgets by their memory. TypeError for what is no Job.
    """
    if not isinstance(job, Job):
        raise TypeError(f"the workers compute Jobs, not {type(job).__name__}")
    nodes, size = job.tree.nodes, job.esn_size
    return Work(
        nodes=nodes,
        levels=job.tree.levels,
        shape=(model.name, size),
        model=(model.name, size, job.depth),
        charge=None if size == model.esn_size else -(-nodes * size // model.esn_size),
        operations=2.0 * size * size * job.depth,
    )


def probe_of(model: ModelConfiguration, number: int) -> Job:
    """The job of that number for the unbatched baseline: texts of three lengths in turn, with the configured model."""
    text = _PROBES[number % len(_PROBES)]
    return Job(parse_input(text, "text"), model.membrane_depth, model.esn_size, "summary")


def size_and_depth(work: Work) -> tuple[int, int]:
    """The esn_size and the depth of a work that `work_of` made."""
    match work.model:
        case (_, int(size), int(depth)):
            return size, depth
        case _:
            raise TypeError(f"not the work of a Job: {work!r}")
