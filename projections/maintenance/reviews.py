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


class Review(Struct, frozen=True):
    """The report of a job's comparison, and whether the job waits for a decision."""

    job_id: int
    report: dict[str, Any]
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


def report_of(
    differences: Sequence[Difference],
    by_table: Mapping[str, int],
    sentences: Iterable[str],
    **facts: Any,  # noqa: ANN401
) -> dict[str, Any]:
    """Return the report of a comparison. `by_table`: all differing rows; `differences`: the first of them.

    Columns, sides and samples are those of `differences`.
    """
    tables = [_table(table, count, differences) for table, count in by_table.items() if count]
    return facts | {"differing_rows": sum(by_table.values()), "tables": tables, "sentences": list(sentences)}


def _table(table: str, count: int, differences: Sequence[Difference]) -> dict[str, Any]:
    rows = [row for row in differences if row.table == table]
    columns = Counter(column for row in rows if row.held_json and row.expected_json for column, _, _ in row.columns())
    return {
        "table": table,
        "differing": count,
        "only_live": sum(not row.expected_json for row in rows),
        "only_new": sum(not row.held_json for row in rows),
        "columns": [{"column": column, "rows": number} for column, number in columns.most_common()],
        "samples": [sample for row in rows for sample in samples_of(row)][:SAMPLES_MAX],
    }


def samples_of(row: Difference) -> list[dict[str, Any]]:
    """Return one sample for each differing column of a row, or one without a column for a row of one side only."""
    named = {"table": row.table, "key": row.key}
    if row.held_json and row.expected_json:
        return [
            named | {"column": column, "live": _short(held), "new": _short(expected)}
            for column, held, expected in row.columns()
        ]
    return [named | {"live": _short(row.held or None), "new": _short(row.expected or None)}]


def _short(value: Any) -> Any:  # noqa: ANN401 - any column
    if isinstance(value, dict):
        return {name: _short(part) for name, part in value.items()}
    return value[:TEXT_MAX] + "…" if isinstance(value, str) and len(value) > TEXT_MAX else value


async def keep(connection: asyncpg.Connection, job: Job, report: dict[str, Any]) -> None:
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
    return {row["job_id"]: Review(**{**dict(row), "report": msgspec.json.decode(row["report"])}) for row in rows}


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
