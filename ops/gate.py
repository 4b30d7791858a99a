"""The gate between a new generation and its readers: every reason against the switch, each with what to do."""

import time
from collections.abc import Awaitable, Callable
from typing import Final

from consumers import stream
from ops.comparing import Findings
from ops.workplace import Workplace
from projections import checkpoint as checkpoints
from projections import jobs, rebuild
from projections.errors import GateRefused, StreamMissing

LAG_MAX_S: Final = 30.0
NEWLY_PARKED_SHOWN: Final = 10

Approve = Callable[[Findings], Awaitable[bool]]
"""Asks whether to switch although rows differ."""


async def require_whole_stream(place: Workplace) -> None:
    """Refuse a stream that lacks messages which no recorded erasure took out."""
    live = await checkpoints.read(place.work, place.live)
    if await stream.look(place.client) is None:
        raise StreamMissing(stream.STREAM, live.position)
    state = await stream.verify(place.client, live, place.settings.stream_replicas)
    erased = await jobs.erased_messages(place.work, state.created)
    if state.missing > erased:
        reason = (
            f"Stream {stream.STREAM} lacks {state.missing - erased:,} messages that no erasure took out (its first is "
            f"{state.first_position}, its last {state.last_position}): a new generation would lack what they said. "
            "Restore the stream from its backup; the live generation still has it all."
        )
        raise GateRefused([reason])


async def pass_gate(place: Workplace, findings: Findings, approve: Approve) -> None:
    """Return if nothing speaks against the switch; raises `GateRefused` with all reasons, and notes them."""
    await place.enter("gate")
    reasons = [*await _lag(place, findings.position), *await _empty(place), *_newly_parked(findings)]
    if not reasons and findings.count and not await approve(findings):
        reasons.append(
            f"{findings.count:,} rows differ from {place.live} and nobody approved that. Look at them above; then "
            "`membership rebuild --yes` switches anyway, `membership jobs cancel` gives the new generation up."
        )
    if reasons:
        await jobs.note(place.report, place.job, " ".join(reasons))
        raise GateRefused(reasons)


async def _lag(place: Workplace, position: int) -> list[str]:
    stored_ns = await stream.next_message_time_ns(place.client, position)
    lag_s = 0.0 if stored_ns is None else time.time() - stored_ns / 1e9
    if lag_s <= LAG_MAX_S:
        return []
    reason = (
        f"The live generation is {lag_s:,.0f} s behind the stream, so a comparison with it proves little. "
        "See that a projector runs and has caught up (`membership status`), then run `membership rebuild` again."
    )
    return [reason]


async def _empty(place: Workplace) -> list[str]:
    if not await rebuild.is_empty(place.work, place.new) or await rebuild.is_empty(place.work, place.live):
        return []
    reason = (
        f"The new generation holds no customer, although {place.live} does. Is this the right stream "
        "(MEMBERSHIP_NATS_URL)? `membership jobs cancel` gives the new generation up."
    )
    return [reason]


def _newly_parked(findings: Findings) -> list[str]:
    if not findings.newly_parked:
        return []
    shown = ", ".join(map(str, findings.newly_parked[:NEWLY_PARKED_SHOWN]))
    more = " and more" if len(findings.newly_parked) > NEWLY_PARKED_SHOWN else ""
    reason = (
        f"Events at positions {shown}{more} were applied by an earlier release and cannot be by this one: they would "
        "be parked. Run the release that reads them, or `membership parked discard` them with a reason, then run "
        "`membership rebuild` again."
    )
    return [reason]
