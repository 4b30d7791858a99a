"""The gate between a new generation and its readers: every reason against the switch, each with what to do."""

import time
from collections.abc import Awaitable, Callable
from typing import Final

from consumers import stream
from ops.rebuild.compare import Findings
from ops.rebuild.context import JobContext
from ops.terminal import counted
from projections.errors import GateRefused
from projections.maintenance import jobs, rebuild
from projections.store import generations

LAG_MAX_S: Final = 30.0
NEWLY_PARKED_SHOWN: Final = 10
Approve = Callable[[Findings], Awaitable[bool]]
"""Asks whether to switch although rows differ."""


async def pass_gate(place: JobContext, findings: Findings, approve: Approve) -> None:
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
        await jobs.set_blocked_reason(place.report_connection, place.job, " ".join(reasons))
        raise GateRefused(reasons)


def not_compared(live: str, findings: Findings) -> str:
    """Say that the live generation cannot be compared, and why."""
    return f"The live generation {live} cannot be compared: {findings.not_compared.rstrip('.')}."


async def _lag(place: JobContext, findings: Findings) -> list[str]:
    if findings.not_compared:
        return []  # there is no comparison that the lag could weaken, and damaged tables may be why it lags
    if any(each.live and each.state == "broken" for each in await generations.statuses(place.connection)):
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


async def _empty(place: JobContext, findings: Findings) -> list[str]:
    if not await rebuild.is_empty(place.connection, place.new):
        return []
    if not findings.not_compared and await rebuild.is_empty(place.connection, place.live):
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
