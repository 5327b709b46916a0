"""The helper process: calls by name, in order, and what happens when it dies."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from dtesn_sidecar.compute.frames import Bytes
from dtesn_sidecar.compute.helper import Helper
from dtesn_sidecar.errors import InvalidInput, OutOfMemory, WorkerLost


def echo(arguments: Any, buffers: list[memoryview]) -> tuple[Any, list[Bytes]]:
    """What it was given, and its process."""
    return [arguments, os.getpid()], [bytes(buffer) for buffer in buffers]


def die(_arguments: Any, _buffers: list[memoryview]) -> tuple[Any, list[Bytes]]:
    """Be killed."""
    os.kill(os.getpid(), signal.SIGKILL)
    return None, []


def hang(_arguments: Any, _buffers: list[memoryview]) -> tuple[Any, list[Bytes]]:
    """Stop for good."""
    os.kill(os.getpid(), signal.SIGSTOP)
    return None, []


def refuse(_arguments: Any, _buffers: list[memoryview]) -> tuple[Any, list[Bytes]]:
    """Raise an error of the package."""
    raise InvalidInput("no", field="f", value=3, expected="4")


def run_out(_arguments: Any, _buffers: list[memoryview]) -> tuple[Any, list[Bytes]]:
    """Run out of memory."""
    raise MemoryError


@pytest.fixture
async def helper(monkeypatch: pytest.MonkeyPatch, started: Callable[[], set[psutil.Process]]) -> AsyncIterator[Helper]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))
    helper = Helper(nice=1)
    yield helper
    await helper.stop()
    await helper.stop()
    assert not started(), "a process was left behind"
    with pytest.raises(WorkerLost):
        await helper.call(echo, None)


async def test_nothing_is_started_until_it_is_needed(helper: Helper, started: Callable[[], set[psutil.Process]]) -> None:
    assert helper.pid is None
    assert not started()
    (value, pid), _ = await helper.call(echo, {"a": [1, 2.5, None]})
    assert value == {"a": [1, 2.5, None]}
    assert pid == helper.pid != os.getpid()


async def test_calls_at_once_each_get_their_own_answer_and_buffers(helper: Helper) -> None:
    async def one(number: int) -> None:
        sent = [bytes([number]) * size for size in (number, 100_000, 0)]
        (value, _), buffers = await helper.call(echo, number, sent)
        assert value == number
        assert [bytes(buffer) for buffer in buffers] == sent

    await asyncio.gather(*(one(number) for number in range(30)))


async def test_a_function_that_raises_raises_here(helper: Helper) -> None:
    with pytest.raises(InvalidInput) as refused:
        await helper.call(refuse, None)
    assert (refused.value.field, refused.value.value, refused.value.expected) == ("f", 3, "4")
    with pytest.raises(OutOfMemory):
        await helper.call(run_out, None)


async def test_the_call_that_kills_the_process_fails_and_those_behind_it_are_made_again(helper: Helper) -> None:
    calls = [helper.call(echo, 1), helper.call(die, None), helper.call(echo, 2, [b"data"]), helper.call(echo, 3)]
    first, killed, second, third = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(killed, WorkerLost)
    for answer, value in ((first, 1), (second, 2), (third, 3)):
        assert not isinstance(answer, BaseException)
        assert answer[0][0] == value
    assert not isinstance(second, BaseException)
    assert bytes(second[1][0]) == b"data"


async def test_a_call_that_hangs_is_given_up_and_those_behind_it_are_made_again(helper: Helper) -> None:
    hung, echoed = await asyncio.gather(helper.call(hang, None, patience=0.5), helper.call(echo, 7), return_exceptions=True)
    assert isinstance(hung, WorkerLost)
    assert not isinstance(echoed, BaseException)
    assert echoed[0][0] == 7


async def test_a_caller_that_goes_away_takes_nothing_from_the_others(helper: Helper) -> None:
    gone, stays = asyncio.ensure_future(helper.call(echo, 1)), asyncio.ensure_future(helper.call(echo, 2))
    await asyncio.sleep(0)
    gone.cancel()
    assert (await stays)[0][0] == 2
    assert gone.cancelled()


async def test_when_it_cannot_be_started_again_the_calls_fail_and_a_later_one_tries_anew(
    helper: Helper, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [asyncio.ensure_future(helper.call(function, None)) for function in (echo, die, echo)]
    await asyncio.sleep(0)

    def no_process(*_arguments: Any, **_settings: Any) -> Any:
        raise OSError(11, "no process left")

    with monkeypatch.context() as patch:
        patch.setattr("dtesn_sidecar.compute.helper.Child", no_process)
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(result, WorkerLost) for result in results] == [False, True, True]
    assert (await helper.call(echo, 5))[0][0] == 5


async def test_stopping_fails_the_calls_under_way(helper: Helper) -> None:
    call = asyncio.ensure_future(helper.call(hang, None))
    await asyncio.sleep(0)
    await helper.stop()
    with pytest.raises(WorkerLost):
        await call
