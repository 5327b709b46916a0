"""The chart's README as helm-docs writes it from README.md.gotmpl and the comments of values.yaml.

python -m tests.cluster.chart_readme      writes it (a part of `make generate`); a test compares
"""

from __future__ import annotations

import subprocess

from tests.cluster.build import binary
from tests.cluster.chart import CHART

README = CHART / "README.md"


def readme() -> str:
    """What the file should say."""
    command = [str(binary("helm-docs")), f"--chart-search-root={CHART}", "--dry-run", "--sort-values-order=file", "--log-level=error"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() + "\n"


if __name__ == "__main__":
    README.write_text(readme(), encoding="utf-8")
