"""What every test shares: Hypothesis profiles, and the processes that a test started. Fixtures that only one folder needs live there."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import hypothesis
import psutil
import pytest

# The fixtures here, so that every folder may use a cluster and `--kubeconfig` is known to all runs.
pytest_plugins = ["tests.cluster.fixtures", "tests.spread"]

# looptime asks the policy for a loop around every test, sync ones too, and an untouched policy then makes one that
# nobody closes. A policy that was told "none" makes none.
asyncio.set_event_loop(None)

# Deadlines time examples, and no test here judges by time. In CI the examples are the same in every run, so that a
# red run can be repeated; at the desk they are new each time, which is what finds something.
hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))


@pytest.fixture
def started() -> Callable[[], set[psutil.Process]]:
    """The children of this process that came since the test began and are still there. Servers of a whole session are none."""
    before = set(psutil.Process().children())
    return lambda: set(psutil.Process().children()) - before
