"""What the comparison of a job found, kept for the console, and the decision of an operator about a rebuild's gate.

Reads and writes: control.job_review. Reads: control.job.
Invariants: a job is decided once; a decision after the deadline, or about a job that has ended, is not recorded.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal

import asyncpg
import msgspec
from msgspec import Struct

from projections.maintenance.differences import Difference
from projections.maintenance.jobs import Job

Decision = Literal["approve", "refuse"]
SAMPLES_MAX: Final = 20
"""Differing rows of a table that a report shows."""
TEXT_MAX: Final = 300
"""Characters of a value that a report shows: a campaign's definition may have a hundred thousand."""


class DifferingColumn(Struct, frozen=True):
    """A column of a table whose rows differ."""

    column: str
    rows: int


class DifferenceSample(Struct, frozen=True, omit_defaults=True):
    """A differing value, or without `column` a whole row that one side lacks."""

    table: str
    key: dict[str, Any]
    column: str | None = None
    live: Any = None
    new: Any = None


class DifferingTable(Struct, frozen=True):
    """A table whose rows differ. Its columns, sides and samples are those of the first differing rows."""

    table: str
    differing: int
    only_live: int
    """Rows that the new generation lacks."""
    only_new: int
    """Rows that the live generation lacks."""
    columns: list[DifferingColumn]
    samples: list[DifferenceSample]


class Report(Struct, frozen=True, omit_defaults=True):
    """What the comparison of a rebuild or verification found."""

    differing_rows: int
    position: int
    """Both generations were compared at this position."""
    sentences: list[str]
    tables: list[DifferingTable] = []
    newly_parked: list[int] = []
    """Positions that the new generation parked and the live one applied; at most 100."""
    not_compared: bool = False
    """Whether the live generation could not be read."""


class Review(Struct, frozen=True):
    """The report of a job's comparison, and whether the job waits for a decision."""

    job_id: int
    report: Report
    awaits_until: datetime | None
    awaits_approval: bool
    decision: Decision | None
    decided_by: str | None


_AWAITS: Final = (
    "(job.state = 'open' AND NOT job.cancel_requested AND review.decision IS NULL "
    "AND coalesce(review.awaits_until > clock_timestamp(), false))"
)
_SELECT: Final = (
    f"SELECT review.job_id, review.report, review.awaits_until, {_AWAITS} AS awaits_approval, "  # noqa: S608 - constant
    "review.decision, review.decided_by FROM control.job_review AS review INNER JOIN control.job USING (job_id) "
    "WHERE review.job_id = any($1::bigint[])"
)


def tables_of(differences: Sequence[Difference], by_table: Mapping[str, int]) -> list[DifferingTable]:
    """Return the tables of a report. `by_table`: all differing rows; `differences`: the first of them."""
    return [_table(table, count, differences) for table, count in by_table.items() if count]


def _table(table: str, count: int, differences: Sequence[Difference]) -> DifferingTable:
    rows = [row for row in differences if row.table == table]
    columns = Counter(column for row in rows if row.held_json and row.expected_json for column, _, _ in row.columns())
    return DifferingTable(
        table,
        count,
        only_live=sum(not row.expected_json for row in rows),
        only_new=sum(not row.held_json for row in rows),
        columns=[DifferingColumn(column, number) for column, number in columns.most_common()],
        samples=[sample for row in rows for sample in samples_of(row)][:SAMPLES_MAX],
    )


def samples_of(row: Difference) -> list[DifferenceSample]:
    """Return one sample for each differing column of a row, or one without a column for a row of one side only."""
    if row.held_json and row.expected_json:
        return [
            DifferenceSample(row.table, row.key, column, _short(held), _short(expected))
            for column, held, expected in row.columns()
        ]
    return [DifferenceSample(row.table, row.key, None, _short(row.held or None), _short(row.expected or None))]


def _short(value: Any) -> Any:  # noqa: ANN401 - any column
    if isinstance(value, dict):
        return {name: _short(part) for name, part in value.items()}
    return value[:TEXT_MAX] + "…" if isinstance(value, str) and len(value) > TEXT_MAX else value


async def keep(connection: asyncpg.Connection, job: Job, report: Report) -> None:
    """Keep the report of a job; an earlier one, and the decision about it, are replaced."""
    await connection.execute(
        "INSERT INTO control.job_review (job_id, report) VALUES ($1, $2) ON CONFLICT (job_id) DO UPDATE "
        "SET report = excluded.report, reported_at = now(), awaits_until = NULL, decision = NULL, decided_by = NULL, "
        "decided_at = NULL",
        job.job_id,
        msgspec.json.encode(report).decode(),
    )


async def of(connection: asyncpg.Connection, job_ids: Iterable[int]) -> dict[int, Review]:
    """Return the reviews of these jobs, by job; a job without a comparison has none."""
    rows = await connection.fetch(_SELECT, list(job_ids))
    return {row["job_id"]: _review(row) for row in rows}


def _review(row: asyncpg.Record) -> Review:
    return Review(**{**dict(row), "report": msgspec.json.decode(row["report"], type=Report)})


async def await_decision(connection: asyncpg.Connection, job_id: int, wait_s: float) -> None:
    """Record that a job waits for a decision, for `wait_s` seconds."""
    await connection.execute(
        "UPDATE control.job_review SET awaits_until = clock_timestamp() + make_interval(secs => $2) WHERE job_id = $1",
        job_id,
        wait_s,
    )


async def end_waiting(connection: asyncpg.Connection, job_id: int) -> Decision | None:
    """Record that a job no longer waits, and return the decision, if there is one."""
    decision: Decision | None = await connection.fetchval(
        "UPDATE control.job_review SET awaits_until = NULL WHERE job_id = $1 RETURNING decision", job_id
    )
    return decision


async def decide(connection: asyncpg.Connection, job_id: int, decision: Decision, actor: str) -> bool:
    """Record a decision, in the caller's transaction; return False if the job does not wait for one (any more)."""
    decided = await connection.fetchval(
        "UPDATE control.job_review AS review SET decision = $2, decided_by = $3, decided_at = now() "  # noqa: S608 - constant
        f"FROM control.job WHERE job.job_id = review.job_id AND review.job_id = $1 AND {_AWAITS} RETURNING true",
        job_id,
        decision,
        actor,
    )
    return bool(decided)


async def forget(connection: asyncpg.Connection, text: str) -> None:
    """Remove the reports that contain a text, such as an erased customer's id, in the caller's transaction."""
    await connection.execute(
        "UPDATE control.job_review SET report = report - 'tables' WHERE strpos(lower(report::text), $1) > 0", text
    )
