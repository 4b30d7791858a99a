"""The commands `membership rebuild`, `verify` and `rollback`: their prompts, output and exit codes."""

import json
import sys

import asyncpg

from ops.actor import actor
from ops.rebuild.compare import NOT_COMPARED, ROWS_READ_MAX, Findings
from ops.rebuild.gate import Approve, not_compared
from ops.rebuild.job import GenerationJob, Kind, Result
from ops.rebuild.progress import JsonProgressReporter, ProgressReporter
from ops.rebuild.throttle import Pace, Throttle
from ops.row_diff import describe_difference
from ops.stream_check import only_copy_warning
from ops.terminal import confirm, fail
from projections.maintenance import audit, sentences
from projections.settings import Settings
from projections.store import checkpoint as checkpoints
from projections.store import generations

REPAIRS_ADVISED_MAX = 10
SHOWN = 20
"""Differing rows printed; `--json` prints all rows that were read."""


def pace_for(settings: Settings, max_rate: int | None, *, throttled: bool) -> Pace:
    """Return how fast a job may work."""
    return Throttle(settings.database_url, max_rate) if throttled else Pace(max_rate)


async def rebuild(settings: Settings, pace: Pace, *, yes: bool, as_json: bool) -> int:
    """Fill a new generation, compare it with the live one, and switch to it; return the exit code."""

    async def approve(findings: Findings) -> bool:
        if not as_json:
            print_findings(findings)
        if yes:
            return True
        if as_json or not sys.stdin.isatty():
            return False
        differ = sentences.differing(findings.count)
        if findings.not_compared:
            differ = "The new generation was not compared with the live one"
        return await confirm(f"{differ}. Switch to the new generation anyway?")

    result = await _run(settings, "rebuild", pace, approve, as_json=as_json)
    if as_json:
        _print_json(result)
    else:
        print(switched_sentence(result, settings.rollback_window_s / 3600))
    return 0


def switched_sentence(result: Result, hours: float) -> str:
    """Return what a rebuild did."""
    findings = result.findings
    compared = findings is not NOT_COMPARED and not findings.not_compared
    unchanged = ", row for row as before" if compared and not findings.count else ""
    rollback_hint = f"`membership rollback` can return to {result.was} for {hours:g} hours."
    if not result.can_roll_back:
        rollback_hint = (
            f"{result.was} is broken and no longer follows, so a rollback cannot return to it; it is dropped after "
            f"{hours:g} hours."
        )
    return f"{result.switched_to} is live{unchanged}. {rollback_hint}"


async def verify(settings: Settings, pace: Pace, *, as_json: bool) -> int:
    """Fold the whole stream again and compare the live rows with the result; return 1 when any row differs."""

    async def never(_findings: Findings) -> bool:
        return False

    result = await _run(settings, "verify", pace, never, as_json=as_json)
    findings = result.findings
    if as_json:
        _print_json(result)
    elif findings.count:
        print_findings(findings)
        print_advice(findings)
    elif not findings.not_compared:
        print(sentences.matching(findings.position))
    if findings.not_compared:
        advice = only_copy_warning(findings.acknowledged) or "`membership rebuild --yes` replaces it with a new one."
        return fail(f"{not_compared(result.was, findings)} {advice}")
    return 1 if findings.count else 0


async def rollback(connection: asyncpg.Connection) -> int:
    """Switch readers back to the previous generation."""
    print(await roll_back(connection, actor()))
    return 0


async def roll_back(connection: asyncpg.Connection, by: str) -> str:
    """Switch readers back to the previous generation, and return a sentence that says so. Owns the transaction."""
    async with connection.transaction():
        # Two concurrent rollbacks must not both start from the same generation.
        await generations.lock_checkpoints(connection)
        was = await checkpoints.live_generation(connection)
        to = await generations.previous(connection)
        await generations.switch(connection, to, old_follows_s=None)
        await generations.clear_expiry(connection, was)
        await audit.record(connection, by, "rollback", f"switched from {was} back to {to}")
    return sentences.rolled_back(to, was)


def print_findings(findings: Findings) -> None:
    """Print the differing rows, column by column; nothing if there was no comparison."""
    if findings.not_compared:
        return
    for difference in findings.differences[:SHOWN]:
        print(describe_difference(difference))
    if findings.count > SHOWN:
        print(f"… and {findings.count - SHOWN:,} more rows; --json has up to {ROWS_READ_MAX:,}.")
    print(sentences.differing_at(findings.count, findings.position))
    if findings.count and findings.acknowledged:
        print(only_copy_warning(findings.acknowledged))


def print_advice(findings: Findings) -> None:
    """Print the commands that correct the differences: a repair for each of a few entities, a rebuild for many.

    Print none after a loss was acknowledged: these commands could overwrite the only copy of the data.
    """
    if findings.acknowledged:
        return
    entities = {("customer", row.key["customer_id"]) for row in findings.differences if "customer_id" in row.key}
    entities |= {("campaign", row.key["campaign_id"]) for row in findings.differences if row.table == "campaign"}
    if len(entities) > REPAIRS_ADVISED_MAX or findings.count > len(findings.differences):
        print("`membership rebuild` corrects all of them.")
    for kind, entity_id in sorted(entities if len(entities) <= REPAIRS_ADVISED_MAX else ()):
        print(f"  membership repair --{kind} {entity_id} --dry-run")


async def _run(settings: Settings, kind: Kind, pace: Pace, approve: Approve, *, as_json: bool) -> Result:
    reporter = JsonProgressReporter(pace) if as_json else ProgressReporter(pace)

    async def approved(findings: Findings) -> bool:
        with reporter.paused():
            return await approve(findings)

    async with pace:
        with reporter:
            return await GenerationJob(settings, kind, pace, reporter).run(actor(), approved)


def _print_json(result: Result) -> None:
    report = {
        "generation": result.switched_to,
        "position": result.findings.position,
        "differences": None if result.findings.not_compared else result.findings.count,
        "not_compared": result.findings.not_compared or None,
        "rows": [
            {"table": row.table, "key": row.key, "held": row.held or None, "wanted": row.expected or None}
            for row in result.findings.differences
        ],
    }
    print(json.dumps(report))
