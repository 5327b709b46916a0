"""What every test shares: Hypothesis profiles. Fixtures that only one folder needs live in that folder."""

from __future__ import annotations

import asyncio
import os

import hypothesis

# looptime asks the policy for a loop around every test, sync ones too, and an untouched policy then makes one that
# nobody closes. A policy that was told "none" makes none.
asyncio.set_event_loop(None)

# Deadlines time examples, and no test here judges by time. In CI the examples are the same in every run, so that a
# red run can be repeated; at the desk they are new each time, which is what finds something.
hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))
