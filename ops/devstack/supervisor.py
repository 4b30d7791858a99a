"""Keeps child processes running: starts them in order, starts again what ends, stops them in the opposite order.

Invariants: children are started from the event loop's thread, for Linux ends a child with the thread that started it.
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
STEADY_S: Final = 10.0
"""A child that lived this long is started again at once; one that did not, after an ever longer pause."""
BACKOFF_FIRST_S: Final = 0.25
BACKOFF_MAX_S: Final = 0.5
"""So that pause and start together stay below READY_AGAIN_S, whatever was killed and how often before."""
START_ALLOWED_S: Final = 4.0
"""What a start may take of READY_AGAIN_S. The slowest is PostgreSQL, which first syncs its files after a kill: 1 to 3 s
on two busy cores; the projector takes 0.3 s."""
READY_AGAIN_S: Final = 5.0
"""The promise of `membership dev`: a child that was killed works again after this long at most."""
LAST_LINES: Final = 5
HEALTH_EVERY_S: Final = 1.0
UNHEALTHY_MAX_S: Final = 5.0
"""How long a child may report a problem before it is restarted: nats-server stores nothing after its disk was full,
even when there is room again, until it is restarted."""


async def in_steps(steps: Iterator[float]) -> None:
    """Take a child's steps without holding up the event loop."""
    with closing(steps):  # type: ignore[type-var] # what yields is a generator
        for pause_s in steps:
            await asyncio.sleep(pause_s)


def report(sentence: str) -> None:
    """Tell whoever watches; when the terminal is gone there is nobody to tell."""
    with suppress(OSError):
        print(sentence, file=sys.stderr, flush=True)


class Supervisor:
    """The children, in the order in which they were started."""

    def __init__(self, restarted: Callable[[], None]) -> None:
        self._restarted = restarted
        """Called whenever a child was started again and is ready."""
        self._children: list[ChildProcess] = []
        self._watches: list[asyncio.Task[None]] = []

    async def start(self, child: ChildProcess) -> None:
        """Start a child and keep it running; raise `EmbeddedFailed` if it does not even start."""
        self._children.append(child)
        await in_steps(child.starting())
        self._watches.append(asyncio.create_task(self._watch(child), name=child.name))

    async def forever(self) -> None:
        """Wait until cancelled."""
        await asyncio.gather(*self._watches)

    async def stop(self) -> None:
        """Stop all children, the last started first; each is gone before the next is asked to go."""
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
            what = await _until_failed(child)
            if time.monotonic() - began > STEADY_S:
                pause_s = 0.0
            report(f"{child.name} {what}; starting it again. {_log_tail(child)}")
            pause_s = await self._start_again(child, pause_s)
            self._restarted()

    async def _start_again(self, child: ChildProcess, pause_s: float) -> float:
        """Start a child until it is ready; return the pause before the next try, should it end soon."""
        while True:
            await asyncio.sleep(pause_s)
            pause_s = next_pause_s(pause_s)
            try:
                await in_steps(child.starting())
            except EmbeddedFailed as problem:
                report(str(problem))
            else:
                return pause_s


async def _until_failed(child: ChildProcess) -> str:
    """Wait until a child has ended, or has been stopped because it stayed unhealthy; return which."""
    asked_at = healthy_at = time.monotonic()
    while child.running:
        await asyncio.sleep(WATCH_S)
        if not child.reports_health or time.monotonic() - asked_at < HEALTH_EVERY_S:
            continue
        problem = await asyncio.to_thread(child.health_problem)
        asked_at = time.monotonic()
        if not problem:
            healthy_at = asked_at
        elif asked_at - healthy_at > UNHEALTHY_MAX_S:
            await in_steps(child.stopping())
            return f"was stopped, because it stayed unhealthy: {problem}"
    return f"ended with {_ending(child.exit_code)}"


def next_pause_s(pause_s: float) -> float:
    """Return how long to wait before the next start of a child that ended soon after the last one."""
    return min(max(2 * pause_s, BACKOFF_FIRST_S), BACKOFF_MAX_S)


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"code {code} ({signal.Signals(-code).name})"
    return f"code {code}"


def _log_tail(child: ChildProcess) -> str:
    lines = tail(child.log, lines=LAST_LINES).splitlines()
    return "\n".join(["Its log ends with:", *(f"  {line}" for line in lines)]) if lines else "Its log is empty."
