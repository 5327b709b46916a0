"""The operator under test, as `dtesn-operator run` makes it, but that every pod is reached at one URL: kwok's pods have no address.

python -m bench.replica KUBECONFIG URL
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import uvloop

from dtesn_operator import logs
from dtesn_operator.running import Settings, run

IMAGE = "registry.example/dtesn-batcher:1"
NAMESPACE = "dtesn-system"


def main() -> None:
    """Run until a signal comes."""
    kubeconfig, url = sys.argv[1:]
    os.environ["KUBECONFIG"] = kubeconfig  # which kopf reads
    logs.set_up("warning", "json")
    settings = Settings(
        image=IMAGE, namespace=NAMESPACE, identity="bench", kubeconfig=Path(kubeconfig), host="127.0.0.1", port=0, url_of=lambda *_: url
    )
    uvloop.run(run(settings))


if __name__ == "__main__":
    main()
