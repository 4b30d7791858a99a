"""The gate before the switch to a new generation: collects every reason against the switch, each with its remedy."""

import time
from collections.abc import Awaitable, Callable
from typing import Final

from consumers import stream
from ops.rebuild.compare import Findings
from ops.rebuild.context import JobContext
from ops.stream_check import only_copy_warning
from projections.errors import GateRefused
from projections.maintenance import jobs, rebuild, sentences
from projections.maintenance.sentences import counted
from projections.store import generations

LAG_MAX_S: Final = 30.0
NEWLY_PARKED_SHOWN: Final = 10
Approve = Callable[[Findings], Awaitable[bool]]
"""Asks the operator whether to switch although rows differ or could not be compared."""


async def pass_gate(context: JobContext, findings: Findings, approve: Approve) -> None:
    """Return if the switch is allowed; otherwise record all reasons and raise `GateRefused` with them."""
    await context.enter("gate")
    reasons = [*await _lag(context, findings), *await _empty(context, findings), *_newly_parked(findings)]
    if not reasons and findings.not_compared and not await approve(findings):
        reasons.append(
            f"{not_compared(context.live, findings)} The switch without a comparison was not approved. "
            f"{_choices(findings)}"
        )
    if not reasons and findings.count and not await approve(findings):
        reasons.append(
            f"{counted(findings.count, 'differing row')} in {context.live}, and the switch was not approved. "
            f"`membership rebuild --verify-only` lists them. {_choices(findings)}"
        )
    if reasons:
        await jobs.set_blocked_reason(context.report_connection, context.job, " ".join(reasons))
        raise GateRefused(reasons)


def _choices(findings: Findings) -> str:
    warning = only_copy_warning(findings.acknowledged)
    advice = f"{warning} " if warning else "`membership rebuild --yes` switches anyway, "
    return f"{advice}`membership jobs cancel` drops the new generation."


def not_compared(live: str, findings: Findings) -> str:
    """Return the sentence that the live generation cannot be compared, and why."""
    return sentences.not_compared(live, findings.not_compared)


async def _lag(context: JobContext, findings: Findings) -> list[str]:
    if findings.not_compared:
        return []  # nothing was compared, and the damaged tables may be the cause of the lag
    if any(status.live and status.state == "broken" for status in await generations.statuses(context.connection)):
        return []  # it never catches up; the rebuild replaces it
    stored_ns = await stream.next_message_time_ns(context.client, findings.position)
    lag_s = 0.0 if stored_ns is None else time.time() - stored_ns / 1e9
    if lag_s <= LAG_MAX_S:
        return []
    reason = (
        f"The live generation is {lag_s:,.0f} s behind the stream, so the comparison missed recent events. "
        "Make sure that a projector runs and has caught up (`membership status`), then run `membership rebuild` again."
    )
    return [reason]


async def _empty(context: JobContext, findings: Findings) -> list[str]:
    if not await rebuild.is_empty(context.connection, context.new):
        return []
    if not findings.not_compared and await rebuild.is_empty(context.connection, context.live):
        return []
    contrast = "and the rows of {} cannot be read" if findings.not_compared else "although {} does"
    reason = (
        f"The new generation holds no customer, {contrast.format(context.live)}. Is this the right stream "
        "(MEMBERSHIP_NATS_URL)? `membership jobs cancel` drops the new generation."
    )
    return [reason]


def _newly_parked(findings: Findings) -> list[str]:
    if not findings.newly_parked:
        return []
    shown = ", ".join(map(str, findings.newly_parked[:NEWLY_PARKED_SHOWN]))
    more = " and more" if len(findings.newly_parked) > NEWLY_PARKED_SHOWN else ""
    reason = (
        f"This release cannot read the events at positions {shown}{more}, which the live generation has applied: they "
        "would be parked. `membership parked show` prints them. Run `membership rebuild` with a release that reads "
        "them, or `membership parked discard` them with a reason and run it again."
    )
    return [reason]
