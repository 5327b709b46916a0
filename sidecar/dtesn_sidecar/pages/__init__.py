"""The live page at `/`.

Its files: `assets/`, `files.py`. What it shows: `recorder.py`, `quantiles.py`. How that gets there: `feed.py`, `routes.py`.
"""

from dtesn_sidecar.pages.feed import Live
from dtesn_sidecar.pages.recorder import Sources
from dtesn_sidecar.pages.routes import add_page

__all__ = ["Live", "Sources", "add_page"]
