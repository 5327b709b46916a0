"""The server, whose workers and model are not made ready before the file exists that DTESN_TEST_START_AT names.

A real start takes as long as it takes; what a server says meanwhile is to be looked at in peace.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

COMMAND = (sys.executable, str(Path(__file__)))


def main() -> int:
    from dtesn_sidecar.__main__ import main as real_main
    from dtesn_sidecar.compute.engine import Engine

    real, awaited = Engine.start, Path(os.environ.pop("DTESN_TEST_START_AT"))

    async def start(engine: Engine) -> Any:
        while not awaited.exists():  # noqa: ASYNC110, ASYNC240 - another process makes it
            await asyncio.sleep(0.02)
        return await real(engine)

    setattr(Engine, "start", start)  # noqa: B010 - a method is replaced on purpose
    return real_main()


if __name__ == "__main__":
    sys.exit(main())
