"""Work in the background, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from dtesn_sidecar.background import kept_going

pytestmark = pytest.mark.looptime


async def test_what_breaks_off_is_logged_and_begun_anew_until_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    began: list[float] = []
    loop = asyncio.get_running_loop()
    start = loop.time()

    async def run() -> None:
        began.append(loop.time() - start)
        await asyncio.sleep(1.0)
        if len(began) < 3:
            raise ValueError(f"fault {len(began)}")

    await kept_going("the measurement", run)
    assert began == [0.0, 6.0, 12.0]
    assert [record.message for record in caplog.records] == ["the measurement broke off and is begun anew in 5 s"] * 2
    assert "fault 1" in caplog.text
    assert "fault 2" in caplog.text


async def test_it_ends_when_it_is_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    task = asyncio.create_task(kept_going("the measurement", asyncio.Event().wait))  # type: ignore[arg-type]
    await asyncio.sleep(1.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert caplog.records == []
