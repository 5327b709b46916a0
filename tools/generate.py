"""Writes every generated file from the code; `--check` writes nothing and fails where one differs.

A generator is a function to the text of one file, in the table below.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from chart import crd_body, values_schema, values_yaml
from crd import crd_yaml
from dashboard import dashboard
from metrics_page import metrics_reference
from protocol import messages
from reference import configuration_reference

ROOT = Path(__file__).resolve().parent.parent

GENERATORS: Mapping[str, Callable[[], str]] = {
    "charts/dtesn-batcher/files/crd.yaml": crd_body,
    "charts/dtesn-batcher/files/dashboard.json": dashboard,
    "charts/dtesn-batcher/values.schema.json": values_schema,
    "charts/dtesn-batcher/values.yaml": values_yaml,
    "crds/dtesnbatchers.yaml": crd_yaml,
    "docs/configuration.md": configuration_reference,
    "docs/metrics.md": metrics_reference,
    "examples/monitoring/dashboard.json": dashboard,
    "sidecar/dtesn_sidecar/oip/rpc/open_inference_pb2.py": partial(messages, ".py"),
    "sidecar/dtesn_sidecar/oip/rpc/open_inference_pb2.pyi": partial(messages, ".pyi"),
}


def main() -> int:
    """Generate or check; 1 where a file differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 where a generated file is not up to date")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of the generated files (default: this checkout)")
    arguments = parser.parse_args()
    stale = []
    for name, generate in GENERATORS.items():
        file = arguments.root / name
        present = file.read_text(encoding="utf-8") if file.exists() else ""
        wanted = generate()
        if present == wanted:
            continue
        stale.append(name)
        if arguments.check:
            sys.stdout.writelines(difflib.unified_diff(present.splitlines(True), wanted.splitlines(True), f"{name} (present)", name))
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(wanted, encoding="utf-8")
            print(f"wrote {name}")
    if arguments.check and stale:
        print(f"not up to date: {', '.join(stale)}; run tools/generate.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
