"""What a person sees while a run works: stages with progress on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as RichProgress,
)

SHORT = 0.05  # seconds; a stage that took less had nothing to do, and is not spoken of
WIDTH = 110  # of tables that go to a file or a pipe


def peak_megabytes() -> float:
    """The largest resident size of this process so far, in MB; 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


class Progress:
    """Silent: the base of the two below, and what Python callers get unless they ask for more."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Everything inside belongs to this stage."""
        started = time.perf_counter()
        self._begin(name)
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
            self._end(name, time.perf_counter() - started)

    def step(self, done: int, total: int, loss: float | None = None) -> None:
        """``done`` of ``total`` equal parts of the current stage are finished; loss: where something is minimised."""

    def _begin(self, name: str) -> None: ...

    def _end(self, name: str, seconds: float) -> None: ...


class PlainProgress(Progress):
    """A line for each finished stage, and now and then one for a stage that takes long."""

    EVERY = 20.0  # seconds

    def _begin(self, name: str) -> None:
        self._name, self._began = name, time.perf_counter()
        self._said = self._began

    def step(self, done: int, total: int, loss: float | None = None) -> None:
        now = time.perf_counter()
        if now - self._said > self.EVERY:
            self._said = now
            left = (now - self._began) * (total - done) / done
            about = f", loss {loss:.3g}" if loss is not None else ""
            print(f"{self._name}: {done} of {total}{about}, {left:.0f} s left", file=sys.stderr, flush=True)

    def _end(self, name: str, seconds: float) -> None:
        if seconds >= SHORT:
            print(f"{name}: {seconds:.1f} s, {peak_megabytes():.0f} MB", file=sys.stderr, flush=True)


class TerminalProgress(Progress):
    """A bar with the time left for the stage at work, a line for each that is done."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        columns = (TextColumn("  {task.description:<32}"), BarColumn(), TimeElapsedColumn(), TextColumn("ETA"), \
                   TimeRemainingColumn(), TextColumn("{task.fields[about]}"))  # fmt: skip
        self._bar = RichProgress(*columns, console=console, transient=True)
        self._task: TaskID | None = None

    def _begin(self, name: str) -> None:
        self._bar.start()
        self._task = self._bar.add_task(name, total=None, about="")

    def step(self, done: int, total: int, loss: float | None = None) -> None:
        if self._task is not None:
            about = f"{peak_megabytes():.0f} MB" + (f", loss {loss:.3g}" if loss is not None else "")
            self._bar.update(self._task, completed=done, total=total, about=about)

    def _end(self, name: str, seconds: float) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
        self._bar.stop()
        if seconds >= SHORT:
            self._bar.console.print(f"  {name:<32} [dim]{seconds:6.1f} s  {peak_megabytes():5.0f} MB[/dim]")


def printer() -> Console:
    """Where a verb prints what it found: styled on a terminal, plain elsewhere and where NO_COLOR is set. Brackets are
    brackets: a shape [batch, 3, 224, 224] is no markup."""
    width = None if sys.stdout.isatty() else WIDTH
    return Console(width=width, highlight=False, markup=False, force_terminal=_terminal())


def progress_for(quiet: bool) -> Progress:
    """The progress display that fits where errors go."""
    if quiet:
        return Progress()
    console = Console(stderr=True, force_terminal=_terminal())
    return TerminalProgress(console) if console.is_terminal else PlainProgress()


def _terminal() -> bool | None:
    """False where even a terminal shall get plain text: no colours, as no-color.org asks, and no bars either."""
    return False if os.environ.get("NO_COLOR") else None
