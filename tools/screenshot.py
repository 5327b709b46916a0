"""Makes docs/page.png, README's picture of the live page: a real server under real load, in Debian's Chromium.

    .venv/bin/python tools/screenshot.py [--seconds 240] [--scheme dark] [--out FILE]

The load rises and falls, so that the charts have a shape. The picture is of the part that is seen without scrolling.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from contextlib import suppress
from pathlib import Path

import aiohttp

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.integration.chromium import chromium, opened  # noqa: E402
from tests.integration.http_server import running  # noqa: E402

CLIENTS = 24
AT_MOST = 200 * 1024


async def client(http: aiohttp.ClientSession, number: int, seconds: float) -> None:
    """One closed-loop client, which comes after its number's share of the time."""
    await asyncio.sleep(seconds * 0.6 * number / CLIENTS)
    while True:
        priority = random.choice((0, 1, 1, 1, 2))
        text = "x" * random.randint(20, 120)
        async with http.post("/dtesn/process_with_batching", json={"input_data": text, "priority": priority, "timeout": 60}) as answer:
            await answer.read()


async def picture(seconds: float, scheme: str, out: Path) -> None:
    """Load a server for so many seconds and take the picture."""
    model = {"DTESN_MODEL_ESN_SIZE": "256", "DTESN_MODEL_MEMBRANE_DEPTH": "4"}
    with running(model) as server:
        async with aiohttp.ClientSession(server.url, connector=aiohttp.TCPConnector(limit=0)) as http, chromium() as browser:
            clients = [asyncio.create_task(client(http, number, seconds)) for number in range(CLIENTS)]
            await asyncio.sleep(seconds)
            viewport = {"width": 1240, "height": 1160}
            async with opened(browser, server.url, color_scheme=scheme, viewport=viewport, reduced_motion="reduce") as watched:
                await watched.page.locator('#link[data-state="good"]').wait_for()
                await watched.page.get_by_text("requests a second").wait_for()
                await watched.page.screenshot(path=out)
                watched.check()
            for task in clients:
                task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*clients)


def main() -> int:
    """Write the picture; 1 where it is too large for a README."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=240.0, help="how long the load runs before (default: 240)")
    parser.add_argument("--scheme", choices=("light", "dark"), default="light", help="colours (default: light)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "page.png", help="where to (default: docs/page.png)")
    arguments = parser.parse_args()
    asyncio.run(picture(arguments.seconds, arguments.scheme, arguments.out))
    size = arguments.out.stat().st_size
    print(f"wrote {arguments.out}: {size / 1024:.0f} KiB")
    return 0 if size <= AT_MOST else 1


if __name__ == "__main__":
    sys.exit(main())
