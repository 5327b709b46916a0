"""The watches outlast an API server that is away: what they stand on would give up where its delays run out."""

from __future__ import annotations

import asyncio
from itertools import islice
from pathlib import Path

import pytest
from tests.cluster.cluster import kubeconfig_file
from tests.cluster.processes import free_port

from dtesn_operator.handlers import Backoffs, watch

OUTAGE = 600.0


@pytest.mark.looptime
async def test_ten_minutes_without_an_api_server_do_not_end_the_watches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = kubeconfig_file(tmp_path / "kubeconfig", {"server": f"http://127.0.0.1:{free_port()}"}, "nobody", {"token": "none"})
    monkeypatch.setenv("KUBECONFIG", str(file))
    stop = asyncio.Event()
    watching = asyncio.ensure_future(watch(lambda _manifest, _gone: None, ["shop"], frozenset(), asyncio.Event(), stop))
    await asyncio.sleep(OUTAGE)
    assert not watching.done()
    stop.set()
    await asyncio.wait_for(watching, 60)


def test_delays_never_run_out_and_begin_anew_each_time() -> None:
    backoffs = Backoffs()
    first, second = list(islice(backoffs, 1000)), list(islice(backoffs, 3))
    assert second == first[:3]
    assert max(first) <= 2.0
    assert first == sorted(first)


@pytest.mark.looptime
async def test_the_end_of_the_watches_ends_no_task_but_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = kubeconfig_file(tmp_path / "kubeconfig", {"server": f"http://127.0.0.1:{free_port()}"}, "nobody", {"token": "none"})
    monkeypatch.setenv("KUBECONFIG", str(file))
    stop, ready = asyncio.Event(), asyncio.Event()
    watching = asyncio.ensure_future(watch(lambda _manifest, _gone: None, ["shop"], frozenset(), ready, stop))
    await ready.wait()
    another = asyncio.ensure_future(asyncio.sleep(3600))  # as the leader's work: begun after the watches
    stop.set()
    await watching
    await asyncio.sleep(60)
    assert not another.done()
    another.cancel()
