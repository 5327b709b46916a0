"""A progress bar on standard error for work that turns out to be long. `rich` is imported only when one is shown."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.progress import TaskID

_PATIENCE_S: Final = 1.0
"""Shorter work shows no progress bar."""


@dataclass(slots=True)
class Progress(AbstractContextManager["Progress"]):
    """A rich progress bar on standard error, shown on a terminal once the work has lasted _PATIENCE_S."""

    quiet: bool
    _began: float = field(default_factory=time.monotonic)
    _title: str = ""
    _total: int = 0
    _count: int = 0
    _shown: Any = None
    _task: TaskID | None = None

    def phase(self, title: str, total: int) -> None:
        """What follows is `total` pieces of `title`."""
        self._title, self._total, self._count = title, total, 0
        if self._shown is not None and self._task is not None:
            self._shown.update(self._task, description=title, total=total, completed=0)

    def done(self, count: int) -> None:
        """So many pieces more."""
        self.reached(self._count + count)

    def reached(self, count: int) -> None:
        """So many pieces in all."""
        self._count = count
        if self._shown is None and not self.quiet and sys.stderr.isatty() and time.monotonic() - self._began > _PATIENCE_S:
            self._show()
        if self._shown is not None and self._task is not None:
            self._shown.update(self._task, completed=count)

    def _show(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._shown = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._shown.add_task(self._title, total=self._total)
        self._shown.start()

    def __exit__(self, *_: object) -> None:
        if self._shown is not None:
            self._shown.stop()
