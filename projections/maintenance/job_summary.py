"""What `membership jobs list`, `membership status` and the operators' API show of a job."""

import re
from typing import Literal

from msgspec import Struct

from projections.maintenance import jobs
from projections.maintenance.jobs import Job, Kind, OpenState
from projections.maintenance.reviews import Report, Review
from projections.model.events import Instant


class JobSummary(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A job, unfinished or ended."""

    job_id: int
    kind: Kind
    state: OpenState | Literal["done", "failed", "cancelled"]
    phase: str
    done: int
    total: int
    progress: str = ""
    """The share of the phase that is done, such as `42%`; empty where the phase has no measure."""
    rate_per_s: float | None = None
    eta_s: float | None = None
    generation: str | None = None
    started_at: Instant
    ended_at: Instant | None = None
    started_by: str
    outcome: str | None = None
    awaits_approval: bool
    """Whether the job waits for an operator to approve or refuse the switch."""
    awaits_until: Instant | None = None
    """Until when; then the switch is refused."""
    report: Report | None = None
    """What the comparison found."""


def summary(job: Job, *, running: bool, review: Review | None = None) -> JobSummary:
    """Return what is shown of a job; `running`: whether a process runs an open job now."""
    state = jobs.open_state(job, running=running) if job.state == "open" else job.state
    eta_s = job.eta_s if running else None
    return JobSummary(
        job_id=job.job_id,
        kind=job.kind,
        state=state,
        phase=job.phase,
        done=job.done,
        total=job.total,
        progress=f"{job.done / job.total:.0%}" if job.total else "",
        rate_per_s=round((job.total - job.done) / eta_s, 1) if eta_s and job.total > job.done else None,
        eta_s=eta_s,
        generation=job.generation,
        started_at=job.started_at,
        ended_at=job.ended_at,
        started_by=job.started_by,
        outcome=without_advice(job.outcome) if job.state == "cancelled" else job.outcome,
        awaits_approval=review is not None and review.awaits_approval,
        awaits_until=review.awaits_until if review is not None and review.awaits_approval else None,
        report=None if review is None else review.report,
    )


def without_advice(outcome: str | None) -> str | None:
    """Return a cancelled job's outcome without the sentences that name commands: there is nothing left to do."""
    sentences = re.split(r"(?<=\.) ", outcome or "")
    return " ".join(sentence for sentence in sentences if "`membership" not in sentence) or None
