"""Real worker processes behind the `BatchRunner` seam: results, failures, and what they leave behind."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from tests import misbehaving

from dtesn_api.spec import ModelConfiguration
from dtesn_api.wire import Output
from dtesn_sidecar.batching.protocols import Entry, RunReport, WorkerHung
from dtesn_sidecar.compute.child import COMMAND, Child
from dtesn_sidecar.compute.drive import summarise
from dtesn_sidecar.compute.job import Job, work_of
from dtesn_sidecar.compute.pool import ProcessPool
from dtesn_sidecar.compute.process import WORKER_NICE
from dtesn_sidecar.errors import ComputeFailed, OutOfMemory, WorkerLost
from dtesn_sidecar.model.backend import NumPyBackend
from dtesn_sidecar.model.inputs import parse_input
from dtesn_sidecar.model.reservoir import Reservoir, RunItem
from dtesn_sidecar.model.weights import build_layer, save_layer

pytestmark = pytest.mark.timeout(900)  # the larger model alone takes a minute to build where the machine is busy

LONG = 250.0
MODEL = ModelConfiguration(membrane_depth=3, esn_size=32)
BIG = ModelConfiguration(membrane_depth=2, esn_size=1024)

Got = dict[int, Any]


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    root = tmp_path_factory.mktemp("weights")
    for model in (MODEL, BIG):
        for layer in range(1, model.membrane_depth + 1):
            save_layer(root / str(model.esn_size), layer, build_layer(model, model.esn_size, layer))
    return lambda size: root / str(size)


@pytest.fixture
async def start(weights: Callable[[int], Path], started: Callable[[], set[psutil.Process]]) -> AsyncIterator[Callable[..., Any]]:
    pools: list[ProcessPool] = []

    async def starting(workers: int = 1, command: Sequence[str] = misbehaving.COMMAND, model: ModelConfiguration = MODEL) -> ProcessPool:
        pool = ProcessPool(model, weights, workers, command=command)
        pools.append(pool)
        await pool.start()
        return pool

    open_before = len(os.listdir("/proc/self/fd"))
    yield starting
    for pool in pools:
        await pool.stop()
    assert not started(), "a process was left behind"
    assert len(os.listdir("/proc/self/fd")) <= open_before + 1, "a file was left open"


def entries(*texts: str, model: ModelConfiguration = MODEL, first: int = 1, summary: bool = False) -> list[Entry]:
    output: Output = "summary" if summary else "features"
    jobs = [Job(parse_input(text), 1 + n % model.membrane_depth, model.esn_size, output) for n, text in enumerate(texts)]
    return [Entry(number, job, work_of(model, job)) for number, job in enumerate(jobs, first)]


def alone(entry: Entry) -> Any:
    job: Any = entry.payload
    layers = [build_layer(MODEL, MODEL.esn_size, layer) for layer in range(1, MODEL.membrane_depth + 1)]
    run = Reservoir(layers, MODEL, NumPyBackend()).start()
    run.admit([RunItem(0, job.tree, job.depth)])
    results = []
    while run.active:
        results += run.advance()
    return results[0].features


async def compute(pool: ProcessPool, batch: list[Entry], hung_after: float = LONG) -> tuple[Got, RunReport]:
    got: Got = {}
    return got, await pool.run(batch, got.__setitem__, hung_after=hung_after)


async def test_results_are_those_of_the_model_computed_here(start: Any) -> None:
    pool = await start(command=COMMAND)
    batch = entries(*("the quick brown fox"[: n + 1] for n in range(19)))
    got, report = await compute(pool, batch)
    for entry in batch:
        np.testing.assert_allclose(got[entry.id], alone(entry), atol=2e-6)
    assert (report.nodes, report.levels, report.complete) == (sum(range(1, 20)), 19, True)
    assert report.peak_bytes > 0


async def test_trees_series_and_documents_cross_the_pipe(start: Any) -> None:
    pool = await start(command=COMMAND)
    inputs: list[Any] = [[[0.5, 1.0], [0.25, -1.0]], {"labels": [1, 2, 3], "parents": [-1, 0, 0]}, {"a": [1, {"b": None}]}, "text"]
    jobs = [Job(parse_input(data), 2, 32) for data in inputs]
    batch = [Entry(number, job, work_of(MODEL, job)) for number, job in enumerate(jobs)]
    got, _ = await compute(pool, batch)
    for entry in batch:
        np.testing.assert_allclose(got[entry.id], alone(entry), atol=2e-6)


async def test_a_summary_is_reduced_in_the_worker(start: Any) -> None:
    pool = await start(command=COMMAND)
    full, _ = await compute(pool, entries("abc", "defg"))
    short, _ = await compute(pool, entries("abc", "defg", summary=True))
    for identity, features in full.items():
        np.testing.assert_allclose(short[identity], summarise(features), rtol=1e-5, atol=1e-8)


async def test_a_batch_larger_than_the_pipe_arrives_whole(start: Any) -> None:
    pool = await start(command=COMMAND, model=BIG)
    got, _ = await compute(pool, entries(*["ab"] * 200, model=BIG))
    assert sum(value.nbytes for value in got.values()) > 2 << 20
    for identity, value in got.items():
        np.testing.assert_allclose(value, got[1 + (identity - 1) % 2], atol=2e-6)


async def test_a_worker_that_is_killed_loses_its_batch_and_is_replaced(start: Any) -> None:
    pool = await start(command=COMMAND)
    [before] = pool.pids
    os.kill(before, signal.SIGSTOP)
    run = asyncio.ensure_future(compute(pool, entries("abc", "def")))
    await asyncio.sleep(0)
    os.kill(before, signal.SIGKILL)
    with pytest.raises(WorkerLost):
        await run
    got, _ = await compute(pool, entries("abc"))
    assert list(got) == [1]
    assert pool.pids != [before]
    assert pool.restarts == 1


async def test_a_worker_that_dies_in_a_batch_is_replaced_again_and_again(start: Any) -> None:
    pool = await start()
    for _ in range(3):
        with pytest.raises(WorkerLost):
            await compute(pool, entries("die"))
    got, _ = await compute(pool, entries("abc"))
    assert list(got) == [1]


async def test_a_hung_worker_is_killed_and_replaced(start: Any) -> None:
    pool = await start()
    with pytest.raises(WorkerHung):
        await compute(pool, entries("hang"), hung_after=0.5)
    got, _ = await compute(pool, entries("abc"))
    assert list(got) == [1]


async def test_a_hung_worker_of_a_cancelled_run_is_replaced_too(start: Any) -> None:
    pool = await start()
    run = asyncio.ensure_future(compute(pool, entries("hang"), hung_after=0.5))
    await asyncio.sleep(0)
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)
    got, _ = await compute(pool, entries("abc"))
    assert list(got) == [1]


async def test_a_stopped_process_is_hung(start: Any) -> None:
    pool = await start(command=COMMAND)
    os.kill(pool.pids[0], signal.SIGSTOP)
    with pytest.raises(WorkerHung):
        await compute(pool, entries("abc"), hung_after=0.5)


async def test_out_of_memory_is_told_as_such_and_the_worker_goes_on(start: Any) -> None:
    pool = await start()
    [before] = pool.pids
    with pytest.raises(OutOfMemory):
        await compute(pool, entries("ab", "memory"))
    got, _ = await compute(pool, entries("abc"))
    assert list(got) == [1]
    assert pool.pids == [before]


async def test_a_batch_that_fails_as_a_whole_fails_with_its_text(start: Any) -> None:
    pool = await start()
    with pytest.raises(ComputeFailed, match="RuntimeError: the device fell off"):
        await compute(pool, entries("ab", "broken"))


async def test_a_poisoned_item_fails_alone(start: Any) -> None:
    pool = await start()
    got, report = await compute(pool, entries("ab", "poison", "cd"))
    assert isinstance(got[2], ComputeFailed)
    assert isinstance(got[1], np.ndarray)
    assert isinstance(got[3], np.ndarray)
    assert report.complete


async def test_a_dropped_item_leaves_the_run(start: Any) -> None:
    pool = await start(command=COMMAND)
    [pid] = pool.pids
    batch = entries("abc", "x" * 4000)
    got: Got = {}
    os.kill(pid, signal.SIGSTOP)
    run = asyncio.ensure_future(pool.run(batch, got.__setitem__, hung_after=LONG))
    await asyncio.sleep(0)
    assert pool.drop([2, 99])
    assert not pool.drop([99])
    os.kill(pid, signal.SIGCONT)
    report = await run
    assert list(got) == [1]
    assert not report.complete
    assert report.levels < 4000


async def test_a_cancelled_run_frees_its_worker_and_tells_nothing(start: Any) -> None:
    pool = await start(command=COMMAND)
    [pid] = pool.pids
    late: Got = {}
    os.kill(pid, signal.SIGSTOP)
    run = asyncio.ensure_future(pool.run(entries("x" * 4000), late.__setitem__, hung_after=LONG))
    await asyncio.sleep(0)
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)
    os.kill(pid, signal.SIGCONT)
    got, report = await compute(pool, entries("abc", first=7))
    assert list(got) == [7]
    assert report.complete
    assert late == {}


async def test_workers_compute_at_the_same_time_and_never_mix_their_results(start: Any) -> None:
    pool = await start(workers=2, command=COMMAND)
    batches = [entries(*(f"{batch} {n}" for n in range(8)), first=100 * batch) for batch in range(1, 9)]
    workers: set[int] = set()
    while workers != {0, 1}:  # once both are ready
        workers |= {report.worker for _, report in await asyncio.gather(*(compute(pool, batch) for batch in batches[:2]))}
    for pair in zip(batches[::2], batches[1::2], strict=True):
        results = await asyncio.gather(*(compute(pool, batch) for batch in pair))
        for batch, (got, _) in zip(pair, results, strict=True):
            assert sorted(got) == [entry.id for entry in batch]
            for entry in batch[:2]:
                np.testing.assert_allclose(got[entry.id], alone(entry), atol=2e-6)


async def test_stopping_fails_the_runs_under_way_and_ends_every_process(start: Any) -> None:
    pool = await start(workers=2)
    pids = pool.pids
    runs = [asyncio.ensure_future(compute(pool, entries(text, first=n))) for n, text in enumerate(["hang", "x" * 4000])]
    await asyncio.sleep(0)
    await pool.stop()
    await pool.stop()
    assert [type(result) for result in await asyncio.gather(*runs, return_exceptions=True)] == [WorkerLost, WorkerLost]
    assert not any(psutil.pid_exists(pid) for pid in pids)
    with pytest.raises(WorkerLost):
        await compute(pool, entries("abc"))


async def test_a_pool_can_be_started_again(start: Any) -> None:
    pool = await start(command=COMMAND)
    await pool.stop()
    await pool.start()
    got, _ = await compute(pool, entries("abc"))
    assert list(got) == [1]


async def test_a_worker_that_cannot_be_started_for_a_while_is_started_later(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = await start(command=COMMAND)
    refusals = [OSError("no process left"), OSError("no memory left")]

    def child(*arguments: Any, **settings: Any) -> Child:
        if refusals:
            raise refusals.pop()
        return Child(*arguments, **settings)

    monkeypatch.setattr("dtesn_sidecar.compute.pool.Child", child)
    os.kill(pool.pids[0], signal.SIGKILL)
    with pytest.raises(WorkerLost):
        await compute(pool, entries("x" * 4000))
    got, _ = await compute(pool, entries("abc"))
    assert list(got) == [1]
    assert refusals == []


async def test_workers_that_cannot_start_fail_the_start(start: Any) -> None:
    with pytest.raises(WorkerLost, match="as soon as they start"):
        await start(command=("/bin/false",))


async def test_termination_and_interrupt_are_the_parents_affair(start: Any) -> None:
    pool = await start(command=COMMAND)
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(pool.pids[0], number)
    got, _ = await compute(pool, entries("abc"))
    assert list(got) == [1]
    assert pool.restarts == 0


async def test_workers_run_at_a_lower_priority_with_one_blas_thread(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # as images for other programs have it
    pool = await start(command=COMMAND)
    process = psutil.Process(pool.pids[0])
    assert process.nice() == min(19, psutil.Process().nice() + WORKER_NICE)
    assert process.environ()["OPENBLAS_NUM_THREADS"] == "1"
    await compute(pool, entries("abc" * 50))
    assert process.num_threads() == 1


async def test_workers_have_more_blas_threads_only_where_the_environment_says_so(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    pool = await start(command=COMMAND, model=BIG)
    got, _ = await compute(pool, entries("abc" * 50, "de" * 70, model=BIG))
    assert len(got) == 2
    assert psutil.Process(pool.pids[0]).num_threads() == min(2, len(os.sched_getaffinity(0)))


async def test_workers_share_the_pages_of_the_weights(start: Any) -> None:
    pool = await start(workers=2, command=COMMAND, model=BIG)
    workers: set[int] = set()
    while workers != {0, 1}:  # once both are ready
        results = await asyncio.gather(*(compute(pool, entries("ab", "cd", model=BIG, first=10 * n)) for n in range(2)))
        workers |= {report.worker for _, report in results}
    for pid in pool.pids:
        maps = [m for m in psutil.Process(pid).memory_maps(grouped=False) if m.path.endswith(".npy")]
        assert sum(m.rss for m in maps) > 8 << 20, "the weights are not mapped: this test proves nothing"
        assert sum(m.anonymous + m.swap for m in maps) == 0, "a worker has pages of weights of its own"


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
async def test_workers_never_outlive_their_parent(sign: signal.Signals, weights: Callable[[int], Path]) -> None:
    program = (
        "import asyncio, sys; from pathlib import Path; from dtesn_api.spec import ModelConfiguration\n"
        "from dtesn_sidecar.compute.pool import ProcessPool\n"
        "async def main():\n"
        " pool = ProcessPool(ModelConfiguration(membrane_depth=3, esn_size=32), lambda n: Path(sys.argv[1]), 2)\n"
        " await pool.start(); print(*pool.pids, flush=True); await asyncio.Event().wait()\n"
        "asyncio.run(main())"
    )
    parent = await asyncio.create_subprocess_exec(COMMAND[0], "-c", program, str(weights(32)), stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    children = [psutil.Process(int(pid)) for pid in (await parent.stdout.readline()).split()]
    assert len(children) == 2
    parent.send_signal(sign)
    await parent.wait()
    _, alive = await asyncio.to_thread(psutil.wait_procs, children, timeout=LONG)
    assert alive == []
