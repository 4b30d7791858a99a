"""Keeps child processes running: starts them in order, restarts those that end, stops them in reverse order.

Invariants: children are started from the event loop's thread, because Linux ends a child when the thread that started
it ends.
"""

import asyncio
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Final

from ops.devstack.servers.child import ChildProcess, EmbeddedFailed, tail

WATCH_S: Final = 0.05
STABLE_S: Final = 10.0
"""A child that ran this long is restarted at once, a younger one after a growing pause."""
BACKOFF_FIRST_S: Final = 0.25
BACKOFF_MAX_S: Final = 0.5
"""Keeps pause and start together below READY_AGAIN_S, however often a child is killed."""
FAILED_PAUSE_MAX_S: Final = 5.0
"""For a child that ended by itself with an error code: it will fail again until someone removes the cause."""
START_ALLOWED_S: Final = 4.0
"""The share of READY_AGAIN_S that a start may take. PostgreSQL is the slowest: after a kill it syncs its files first,
1 to 3 s on two busy cores; the projector takes 0.3 s."""
READY_AGAIN_S: Final = 5.0
"""What `membership dev` promises: a killed child works again after this long at most."""
LAST_LINES: Final = 5
ENDED: Final = "ended"
HEALTH_EVERY_S: Final = 1.0
UNHEALTHY_MAX_S: Final = 5.0
"""How long a child may report a problem before it is restarted: once its disk was full, nats-server stores nothing
until it is restarted, even when there is space again."""


async def in_steps(steps: Iterator[float]) -> None:
    """Run a child's steps without blocking the event loop."""
    with closing(steps):  # type: ignore[type-var] # the iterator is a generator
        for pause_s in steps:
            await asyncio.sleep(pause_s)


def report(sentence: str) -> None:
    """Print to standard error; ignore a terminal that is gone."""
    with suppress(OSError):
        print(sentence, file=sys.stderr, flush=True)


class Supervisor:
    """The children, in the order in which they were started."""

    def __init__(self, restarted: Callable[[], None], advice: str = "") -> None:
        self._restarted = restarted
        """Called when a restarted child is ready."""
        self._advice = advice
        """Printed when a child keeps failing."""
        self._children: list[ChildProcess] = []
        self._watches: list[asyncio.Task[None]] = []

    async def start(self, child: ChildProcess) -> None:
        """Start a child and keep it running; raise `EmbeddedFailed` if the first start fails."""
        self._children.append(child)
        await in_steps(child.starting())
        self._watches.append(asyncio.create_task(self._watch(child), name=child.name))

    async def wait_until_cancelled(self) -> None:
        """Watch the children until cancelled."""
        await asyncio.gather(*self._watches)

    async def stop(self) -> None:
        """Stop all children one by one, the last started first."""
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        for child in reversed(self._children):
            await in_steps(child.stopping())

    def kill(self) -> None:
        """End all children at once."""
        for child in self._children:
            child.kill()

    async def _watch(self, child: ChildProcess) -> None:
        pause_s = 0.0
        while True:
            began = time.monotonic()
            outcome = await _until_failed(child)
            if time.monotonic() - began > STABLE_S:
                pause_s = 0.0
            failed = outcome.startswith(ENDED) and (child.exit_code or 0) > 0
            pause_s = min(pause_s, FAILED_PAUSE_MAX_S if failed else BACKOFF_MAX_S)
            when = f" in {pause_s:g} s" if pause_s > BACKOFF_MAX_S else ""
            report(f"{child.name} {outcome}; starting it again{when}. {_log_tail(child)}")
            if pause_s >= FAILED_PAUSE_MAX_S and self._advice:
                report(self._advice)
            pause_s = await self._restart(child, pause_s, failed=failed)
            self._restarted()

    async def _restart(self, child: ChildProcess, pause_s: float, *, failed: bool) -> float:
        """Start a child until it is ready; return the pause to use if it ends soon."""
        while True:
            await asyncio.sleep(pause_s)
            pause_s = next_pause_s(pause_s, failed=failed)
            try:
                await in_steps(child.starting())
            except EmbeddedFailed as problem:
                report(str(problem))
            else:
                return pause_s


async def _until_failed(child: ChildProcess) -> str:
    """Wait until a child has ended, or was stopped because it stayed unhealthy; return which, as text."""
    checked_at = healthy_at = time.monotonic()
    while child.running:
        await asyncio.sleep(WATCH_S)
        if not child.reports_health or time.monotonic() - checked_at < HEALTH_EVERY_S:
            continue
        problem = await asyncio.to_thread(child.health_problem)
        checked_at = time.monotonic()
        if not problem:
            healthy_at = checked_at
        elif checked_at - healthy_at > UNHEALTHY_MAX_S:
            await in_steps(child.stopping())
            return f"was stopped, because it stayed unhealthy: {problem}"
    return f"{ENDED} with {_exit_text(child.exit_code)}"


def next_pause_s(pause_s: float, *, failed: bool = False) -> float:
    """Return the pause before the next start of a child that ended soon after the previous start.

    `failed`: it ended by itself with an error code, so a start at once would most likely fail too.
    """
    return min(max(2 * pause_s, BACKOFF_FIRST_S), FAILED_PAUSE_MAX_S if failed else BACKOFF_MAX_S)


def _exit_text(code: int | None) -> str:
    if code is not None and code < 0:
        return f"code {code} ({signal.Signals(-code).name})"
    return f"code {code}"


def _log_tail(child: ChildProcess) -> str:
    lines = tail(child.log, lines=LAST_LINES).splitlines()
    return "\n".join(["Its log ends with:", *(f"  {line}" for line in lines)]) if lines else "Its log is empty."
