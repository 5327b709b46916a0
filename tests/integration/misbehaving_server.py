"""The server, whose workers fail where the text of a request says so (tests/misbehaving.py)."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, str(Path(__file__)))


def main() -> int:
    from dtesn_sidecar.__main__ import main as real_main
    from dtesn_sidecar.processor import DTESNProcessor

    sys.path.insert(0, str(ROOT))
    from tests import misbehaving

    defaults = DTESNProcessor.__init__.__kwdefaults__
    assert defaults is not None
    defaults["worker_command"] = misbehaving.COMMAND
    return real_main()


if __name__ == "__main__":
    sys.exit(main())
