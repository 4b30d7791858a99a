"""The gate between a new generation and its readers: every reason against the switch, each with what to do."""

import time
from collections.abc import Awaitable, Callable
from typing import Final

import asyncpg

from consumers import loss_check, stream
from consumers.client import TolerantClient
from consumers.stream import StreamState
from ops.comparing import Findings
from ops.terminal import counted
from ops.workplace import Workplace
from projections import generations, jobs, rebuild
from projections.checkpoint import Checkpoint
from projections.errors import GateRefused, JobRefused, StreamIncomplete, StreamMissing

LAG_MAX_S: Final = 30.0
NEWLY_PARKED_SHOWN: Final = 10

Approve = Callable[[Findings], Awaitable[bool]]
"""Asks whether to switch although rows differ."""


async def require_whole_stream(connection: asyncpg.Connection, client: TolerantClient, live: Checkpoint) -> StreamState:
    """Return the stream's state; refuse another one, and one that has lost messages which nobody has acknowledged."""
    state = await stream.identify(client, live)
    if state is None:
        raise StreamMissing(stream.STREAM, live.position)
    if any(job.kind == "erase" for job in await jobs.unfinished(connection)):
        raise JobRefused("An erasure is under way or was interrupted. Finish it first: the same `membership erase`.")
    require_no_erasure_elsewhere(state)
    if lost := await loss_check.unexplained(connection, state):
        raise StreamIncomplete(stream.STREAM, lost, state.first_position, state.last_position)
    return state


def require_no_erasure_elsewhere(state: StreamState) -> None:
    """Raise `JobRefused` while the stream says that an erasure is under way."""
    if state.tally.erasing_from is not None:
        raise JobRefused(
            f"Stream {stream.STREAM} says that an erasure is under way or was interrupted, begun with another "
            "database. Finish it first: the same `membership erase`, with either database."
        )


async def pass_gate(place: Workplace, findings: Findings, approve: Approve) -> None:
    """Return if nothing speaks against the switch; raises `GateRefused` with all reasons, and notes them."""
    await place.enter("gate")
    reasons = [*await _lag(place, findings), *await _empty(place, findings), *_newly_parked(findings)]
    if not reasons and findings.not_compared and not await approve(findings):
        reasons.append(
            f"{not_compared(place.live, findings)} Nobody approved to switch without a comparison. `membership "
            "rebuild --yes` switches all the same, `membership jobs cancel` gives the new generation up."
        )
    if not reasons and findings.count and not await approve(findings):
        reasons.append(
            f"{counted(findings.count, 'differing row')} in {place.live}, and nobody approved that. "
            "`membership rebuild --verify-only` lists them, `membership rebuild --yes` switches anyway, "
            "`membership jobs cancel` gives the new generation up."
        )
    if reasons:
        await jobs.note(place.report, place.job, " ".join(reasons))
        raise GateRefused(reasons)


def not_compared(live: str, findings: Findings) -> str:
    """Say that the live generation cannot be compared, and why."""
    return f"The live generation {live} cannot be compared: {findings.not_compared.rstrip('.')}."


async def _lag(place: Workplace, findings: Findings) -> list[str]:
    if findings.not_compared:
        return []  # there is no comparison that the lag could weaken, and damaged tables may be why it lags
    if any(each.live and each.state == "broken" for each in await generations.standings(place.work)):
        return []  # it will never catch up; that is why a new one is made
    stored_ns = await stream.next_message_time_ns(place.client, findings.position)
    lag_s = 0.0 if stored_ns is None else time.time() - stored_ns / 1e9
    if lag_s <= LAG_MAX_S:
        return []
    reason = (
        f"The live generation is {lag_s:,.0f} s behind the stream, so a comparison with it proves little. "
        "See that a projector runs and has caught up (`membership status`), then run `membership rebuild` again."
    )
    return [reason]


async def _empty(place: Workplace, findings: Findings) -> list[str]:
    if not await rebuild.is_empty(place.work, place.new):
        return []
    if not findings.not_compared and await rebuild.is_empty(place.work, place.live):
        return []
    beside = "and what {} holds cannot be read" if findings.not_compared else "although {} does"
    reason = (
        f"The new generation holds no customer, {beside.format(place.live)}. Is this the right stream "
        "(MEMBERSHIP_NATS_URL)? `membership jobs cancel` gives the new generation up."
    )
    return [reason]


def _newly_parked(findings: Findings) -> list[str]:
    if not findings.newly_parked:
        return []
    shown = ", ".join(map(str, findings.newly_parked[:NEWLY_PARKED_SHOWN]))
    more = " and more" if len(findings.newly_parked) > NEWLY_PARKED_SHOWN else ""
    reason = (
        f"This release cannot read the events at positions {shown}{more}, which the live generation has applied: they "
        "would be parked. `membership parked show` prints them. Run `membership rebuild` of the release that reads "
        "them, or `membership parked discard` them with a reason and run it again."
    )
    return [reason]
