"""Shows how a job gets on: a bar for people at a terminal, a line of JSON a second for machines."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from ops.rebuild.throttle import Pace

REPORT_EVERY_S: Final = 1.0
RATE_WINDOW_S: Final = 5.0


class PhaseProgress:
    """Counts one phase: how much is done of how much, how fast, how long still."""

    def __init__(self, phase: str, unit: str, done: int, total: int) -> None:
        self.phase = phase
        self.unit = unit
        self.done = done
        self.total = total
        self._marks = [(time.monotonic(), done)]

    def advance(self, done: int, total: int) -> None:
        """Say how far it is now."""
        self.done, self.total = done, max(done, total)
        now = time.monotonic()
        if now - self._marks[-1][0] >= REPORT_EVERY_S / 4:
            self._marks.append((now, done))
            while now - self._marks[0][0] > RATE_WINDOW_S:
                self._marks.pop(0)

    @property
    def rate(self) -> float:
        """Units a second, of the last seconds."""
        (began, before), now = self._marks[0], time.monotonic()
        return (self.done - before) / (now - began) if now - began > REPORT_EVERY_S / 2 else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds until the phase is done at this rate; None while nobody can tell."""
        return round((self.total - self.done) / self.rate, 1) if self.rate > 0 else None


class ProgressReporter:
    """Where a job tells what it does: a progress bar on standard error."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._console = Console(stderr=True, soft_wrap=True, highlight=False)
        columns = (
            "{task.description:<9}",
            "{task.fields[count]:>24}",
            "{task.fields[speed]:>18}",
            "{task.fields[left]}",
        )
        before, *behind = (TextColumn(text) for text in columns)
        self._progress = Progress(before, BarColumn(bar_width=30), *behind, console=self._console)
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the terminal to a question; what was shown before it is not shown again."""
        self._progress.stop()
        for task in self._progress.tasks:
            self._progress.update(task.id, visible=False)
        try:
            yield
        finally:
            self._progress.start()

    def begin(self, meter: PhaseProgress) -> None:
        """Open a phase."""
        self._task = self._progress.add_task(meter.phase, total=None, count="", speed="", left="")
        self.update(meter)

    def update(self, meter: PhaseProgress) -> None:
        """Bring the bar up to date."""
        if self._task is None:
            return
        p99 = self._pace.reads_p99_ms
        reads = f"reads p99 {p99:.1f} ms" if p99 is not None else ""
        left = f"{meter.eta_s:,.0f} s left  " if meter.eta_s and meter.done < meter.total else ""
        self._progress.update(
            self._task,
            total=meter.total or 1,
            completed=meter.done if meter.total else 1,
            count=f"{meter.done:,} of {meter.total:,}" if meter.total else "",
            speed=f"{meter.rate:,.0f} {meter.unit}/s" if meter.rate else "",
            left=left + reads,
        )

    def end(self, meter: PhaseProgress) -> None:
        """Close a phase."""
        meter.advance(meter.total, meter.total)
        self.update(meter)

    def print(self, sentence: str) -> None:
        """Tell something that is worth a line of its own."""
        self._console.print(sentence, markup=False)


class JsonProgressReporter(ProgressReporter):
    """The same for machines: JSON on standard output, one object a line."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        pass

    @contextmanager
    def paused(self) -> Iterator[None]:
        yield

    def begin(self, meter: PhaseProgress) -> None:
        self.update(meter)

    def update(self, meter: PhaseProgress) -> None:
        p99 = self._pace.reads_p99_ms
        told = {
            "phase": meter.phase,
            "done": meter.done,
            "total": meter.total,
            "rate": round(meter.rate, 1),
            "eta_s": meter.eta_s,
            "reads_p99_ms": None if p99 is None else round(p99, 2),
        }
        print(json.dumps(told), flush=True)

    def print(self, sentence: str) -> None:
        print(sentence, file=sys.stderr, flush=True)
