"""Reports the progress of a job: a bar at a terminal, or one line of JSON per second for machines."""

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
    """Measures one phase: units done, total, rate and remaining time."""

    def __init__(self, phase: str, unit: str, done: int, total: int) -> None:
        self.phase = phase
        self.unit = unit
        self.done = done
        self.total = total
        self._samples = [(time.monotonic(), done)]

    def advance(self, done: int, total: int) -> None:
        """Set how much is done."""
        self.done, self.total = done, max(done, total)
        now = time.monotonic()
        if now - self._samples[-1][0] >= REPORT_EVERY_S / 4:
            self._samples.append((now, done))
            while now - self._samples[0][0] > RATE_WINDOW_S:
                self._samples.pop(0)

    @property
    def rate(self) -> float:
        """Units per second over the last `RATE_WINDOW_S`."""
        (began, done_before), now = self._samples[0], time.monotonic()
        return (self.done - done_before) / (now - began) if now - began > REPORT_EVERY_S / 2 else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds until the phase is done at this rate; None while the rate is unknown."""
        return round((self.total - self.done) / self.rate, 1) if self.rate > 0 else None


class ProgressReporter:
    """Shows the progress of a job as a bar on standard error."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._console = Console(stderr=True, soft_wrap=True, highlight=False)
        columns = (
            "{task.description:<9}",
            "{task.fields[count]:>24}",
            "{task.fields[speed]:>18}",
            "{task.fields[remaining]}",
        )
        phase, *numbers = (TextColumn(text) for text in columns)
        self._progress = Progress(phase, BarColumn(bar_width=30), *numbers, console=self._console)
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
        """Free the terminal for a question; bars shown before it are not drawn again."""
        self._progress.stop()
        for task in self._progress.tasks:
            self._progress.update(task.id, visible=False)
        try:
            yield
        finally:
            self._progress.start()

    def begin(self, phase: PhaseProgress) -> None:
        """Start showing a phase."""
        self._task = self._progress.add_task(phase.phase, total=None, count="", speed="", remaining="")
        self.update(phase)

    def update(self, phase: PhaseProgress) -> None:
        """Redraw the bar."""
        if self._task is None:
            return
        p99 = self._pace.reads_p99_ms
        reads = f"reads p99 {p99:.1f} ms" if p99 is not None else ""
        remaining = f"{phase.eta_s:,.0f} s left  " if phase.eta_s and phase.done < phase.total else ""
        self._progress.update(
            self._task,
            total=phase.total or 1,
            completed=phase.done if phase.total else 1,
            count=f"{phase.done:,} of {phase.total:,}" if phase.total else "",
            speed=f"{phase.rate:,.0f} {phase.unit}/s" if phase.rate else "",
            remaining=remaining + reads,
        )

    def end(self, phase: PhaseProgress) -> None:
        """Show a phase as finished."""
        phase.advance(phase.total, phase.total)
        self.update(phase)

    def print(self, sentence: str) -> None:
        """Print a message on its own line."""
        self._console.print(sentence, markup=False)


class JsonProgressReporter(ProgressReporter):
    """Prints progress for machines: JSON on standard output, one object per line."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        pass

    @contextmanager
    def paused(self) -> Iterator[None]:
        yield

    def begin(self, phase: PhaseProgress) -> None:
        self.update(phase)

    def update(self, phase: PhaseProgress) -> None:
        p99 = self._pace.reads_p99_ms
        report = {
            "phase": phase.phase,
            "done": phase.done,
            "total": phase.total,
            "rate": round(phase.rate, 1),
            "eta_s": phase.eta_s,
            "reads_p99_ms": None if p99 is None else round(p99, 2),
        }
        print(json.dumps(report), flush=True)

    def print(self, sentence: str) -> None:
        print(sentence, file=sys.stderr, flush=True)
