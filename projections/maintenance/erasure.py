"""Deletes a customer's rows from every generation, and counts the messages that erasures removed from the stream.

Writes: every table that can contain rows of the customer, in every generation, including partly filled ones;
control.erasure and control.acknowledged_loss, which contain numbers of messages and never a customer.
Invariants: a batch read earlier cannot bring a row back: the projector starts a new term and reads again.
"""

import hashlib
from collections.abc import Iterable
from typing import Final

import asyncpg
from msgspec import Struct

from projections.maintenance import reviews
from projections.maintenance.jobs import Job
from projections.model.events import SUBJECT_ROOT
from projections.store import generations, notices
from projections.store.queries import Generation, for_generation, generation

OWNED: Final = ("customer_summary", "membership", "customer", "fill_target", "fill_customer")
"""Tables with a customer_id; the `fill_` tables exist only while a generation is being filled."""
SHOWN: Final = ("customer_summary", "membership", "customer")
"""Those of a live generation."""
ERASED: Final = "an erased customer"
"""What replaces the customer's id in texts that are kept."""


class Tally(Struct, frozen=True):
    """How many positions of a stream are known to have no message, and why."""

    erased: int = 0
    """Messages removed by finished erasures."""
    acknowledged: int = 0
    """Messages lost for another reason and accepted as lost by an operator."""
    erasing_from: int | None = None
    """How many positions had no message when the running erasure began; None without one."""
    erasing_customer: str | None = None
    """The `fingerprint` of the customer of the running erasure; kept only in the stream."""

    def unexplained(self, missing: int) -> int:
        """Return how many of `missing` positions are neither erased nor acknowledged.

        Positions that lost their message since a running erasure began are attributed to it.
        """
        before = missing if self.erasing_from is None else min(missing, self.erasing_from)
        return max(0, before - self.erased - self.acknowledged)

    def returned(self, missing: int) -> int:
        """Return how many messages recorded as erased or lost are in the stream again, as after a restore."""
        return max(0, self.erased + self.acknowledged - missing)

    def completed(self, missing: int) -> "Tally":
        """Return the tally after the running erasure, when `missing` positions have no message.

        After a restore the erasure is a repeated one: the messages that had returned are counted already.
        """
        if self.erasing_from is None:
            return self
        purged = missing - self.erasing_from
        return Tally(self.erased + max(0, purged - self.returned(self.erasing_from)), self.acknowledged)

    def lowered(self, missing: int) -> "Tally":
        """Return the tally reduced to what is missing, for a stream that was restored."""
        if not self.returned(missing):
            return self
        erased = min(self.erased, missing)
        return Tally(erased, missing - erased, self.erasing_from, self.erasing_customer)

    def raised(self, other: "Tally") -> "Tally":
        """Return the larger of each count, and the running erasure of this tally only."""
        erased, acknowledged = max(self.erased, other.erased), max(self.acknowledged, other.acknowledged)
        return Tally(erased, acknowledged, self.erasing_from, self.erasing_customer)

    def merged(self, other: "Tally") -> "Tally":
        """Return the larger of each count, and the running erasure recorded in either of the two."""
        running = [tally.erasing_from for tally in (self, other) if tally.erasing_from is not None]
        customer = self.erasing_customer or other.erasing_customer
        counts = self.raised(other)
        return Tally(counts.erased, counts.acknowledged, min(running, default=None), customer)


FINGERPRINT_DIGITS: Final = 16
"""64 bits: no two customers of a stream share them by accident."""


def fingerprint(stream_created: str, customer_id: str) -> str:
    """Return what the stream keeps about the customer being erased; the id cannot be derived from it."""
    return hashlib.sha256(f"{stream_created} {customer_id}".encode()).hexdigest()[:FINGERPRINT_DIGITS]


def roots(customer_id: str) -> tuple[str, ...]:
    """Return the root subjects of a customer's messages, with the id in lower case and in upper case."""
    spellings = dict.fromkeys((customer_id, customer_id.upper()))
    return tuple(f"{SUBJECT_ROOT}.{family}.{spelling}" for spelling in spellings for family in ("customer", "target"))


def root_of(subject: str, customer_id: str) -> str | None:
    """Return the root of a subject if it names the customer, in any mix of upper and lower case; otherwise None."""
    root = ".".join(subject.split(".")[:3])
    return root if root.lower() in roots(customer_id.lower()) else None


def subjects(roots: Iterable[str]) -> tuple[str, ...]:
    """Return the subject filters that all messages below the roots match; no message matches two of them."""
    return tuple(subject for root in roots for subject in (root, f"{root}.>"))


async def parked_subjects(connection: asyncpg.Connection, customer_id: str) -> set[str]:
    """Return the subjects of the customer's parked events; an id that is not in lower case is always parked."""
    subjects: set[str] = set()
    for status in await generations.statuses(connection):
        query = for_generation(
            f"SELECT subject FROM {{generation}}.parked_event WHERE {_OF_CUSTOMER}",  # noqa: S608
            generation(status.generation),
        )
        subjects |= {row["subject"] for row in await connection.fetch(query, *_of_customer(customer_id))}
    return subjects


async def discarded_positions(connection: asyncpg.Connection) -> list[int]:
    """Return the positions of discarded events: their messages are still in the stream."""
    return [row["position"] for row in await connection.fetch("SELECT position FROM control.discarded_event")]


_OF_CUSTOMER: Final = "lower(subject) = any($1::text[]) OR lower(subject) ^@ any($2::text[])"


def _of_customer(customer_id: str) -> tuple[list[str], list[str]]:
    lowered = [root for root in roots(customer_id) if root == root.lower()]
    return lowered, [f"{root}." for root in lowered]


async def recorded(connection: asyncpg.Connection, stream_created: str) -> Tally:
    """Return the tally recorded in this database; the stream's own metadata may record more."""
    row = await connection.fetchrow(
        "SELECT coalesce(sum(messages), 0)::bigint AS erased, "
        "min(missing_before) FILTER (WHERE messages IS NULL) AS erasing_from, "
        "(SELECT coalesce(max(messages_in_all), 0) FROM control.acknowledged_loss WHERE stream_created = $1) "
        "AS acknowledged FROM control.erasure WHERE stream_created = $1",
        stream_created,
    )
    assert row is not None  # noqa: S101 - an aggregate
    return Tally(row["erased"], row["acknowledged"], row["erasing_from"])


async def acknowledge(
    connection: asyncpg.Connection, stream_created: str, messages: int, in_all: int, *, reason: str, actor: str
) -> None:
    """Record that an operator accepts `messages` as lost, in the caller's transaction."""
    await connection.execute(
        "INSERT INTO control.acknowledged_loss (stream_created, messages, messages_in_all, reason, acknowledged_by) "
        "VALUES ($1, $2, $3, $4, $5)",
        stream_created,
        messages,
        in_all,
        reason,
        actor,
    )


async def begin(connection: asyncpg.Connection, job: Job, customer_id: str, stream_created: str, missing: int) -> None:
    """Record, before the purge, how many messages the stream lacks; idempotent."""
    async with connection.transaction():
        await connection.execute(
            "UPDATE control.job SET erased_customer = $2 WHERE job_id = $1", job.job_id, customer_id
        )
        await connection.execute(
            "INSERT INTO control.erasure (job_id, stream_created, missing_before) "
            "SELECT $1, $2, $3 WHERE NOT EXISTS (SELECT FROM control.erasure WHERE job_id = $1)",
            job.job_id,
            stream_created,
            missing,
        )


async def count_started(connection: asyncpg.Connection) -> int:
    """Return the number of all erasures so far, including a running one."""
    return int(await connection.fetchval("SELECT count(*) FROM control.erasure"))


async def conclude(connection: asyncpg.Connection, job: Job, stream_created: str, missing: int) -> int:
    """Record that the purge is complete; return the number of purged messages. In the caller's transaction."""
    tally = await recorded(connection, stream_created)
    return int(
        await connection.fetchval(
            "UPDATE control.erasure SET messages = $2, erased_at = now() WHERE job_id = $1 "
            "RETURNING $3 - missing_before",
            job.job_id,
            tally.completed(missing).erased - tally.erased,
            missing,
        )
    )


async def lower(connection: asyncpg.Connection, stream_created: str, missing: int, *, reason: str, actor: str) -> None:
    """Reduce this database's record to what is missing, in the caller's transaction; the audit keeps the history."""
    tally = await recorded(connection, stream_created)
    lowered = tally.lowered(missing)
    if lowered == tally:
        return
    await connection.execute(
        "UPDATE control.erasure SET messages = greatest(0, least(messages, $2 - earlier.messages_before)) FROM ("
        "SELECT erasure_id, sum(messages) OVER (ORDER BY erasure_id) - messages AS messages_before "
        "FROM control.erasure "
        "WHERE stream_created = $1 AND messages IS NOT NULL) AS earlier WHERE erasure.erasure_id = earlier.erasure_id",
        stream_created,
        lowered.erased,
    )
    await connection.execute("DELETE FROM control.acknowledged_loss WHERE stream_created = $1", stream_created)
    if lowered.acknowledged:
        count = lowered.acknowledged
        await acknowledge(connection, stream_created, count, count, reason=reason, actor=actor)


async def remove_rows(connection: asyncpg.Connection, customer_id: str) -> int:
    """Delete all rows of the customer, in the caller's transaction; return how many the live generation had."""
    await generations.bump_epochs(connection)
    await notices.notify_flush(connection)
    removed = 0
    for status in await generations.statuses(connection):
        rows = await _remove_from(connection, generation(status.generation), customer_id)
        removed += rows if status.live else 0
    await reviews.forget(connection, customer_id)
    await _forget_plans(connection, customer_id)
    return removed


async def count_rows(connection: asyncpg.Connection, customer_id: str) -> int:
    """Return how many rows of the customer the live generation has, parked events included."""
    live = next(status.generation for status in await generations.statuses(connection) if status.live)
    counts = [f"(SELECT count(*) FROM {live}.{table} WHERE customer_id = $1)" for table in SHOWN]  # noqa: S608 - closed sets
    count = await connection.fetchval(f"SELECT {' + '.join(counts)}", customer_id)
    parked = await connection.fetchval(
        for_generation(
            f"SELECT count(*) FROM {{generation}}.parked_event WHERE {_OF_CUSTOMER}",  # noqa: S608 - constants
            generation(live),
        ),
        *_of_customer(customer_id),
    )
    return int(count + parked)


async def _forget_plans(connection: asyncpg.Connection, customer_id: str) -> None:
    """Remove what names the customer from plans, such as the sample of a repair; the plan of this erasure included.

    Plans to repair or erase the customer end: nothing is left that they could do.
    """
    await connection.execute(
        "UPDATE control.plan SET state = 'failed', outcome_code = 'customer_erased', ended_at = now(), "
        "outcome = 'The customer was erased meanwhile. This plan changed nothing.' "
        "WHERE action IN ('repair', 'erase') AND strpos(lower(parameters::text), $1) > 0 "
        "AND (state IN ('planning', 'ready', 'queued') OR state = 'running' AND action = 'repair')",
        customer_id,
    )
    await connection.execute(
        "UPDATE control.plan SET sample = '[]', details = '[]', sentence = action, "
        "parameters = CASE WHEN strpos(lower(parameters::text), $1) > 0 THEN '{}' ELSE parameters END, "
        "outcome = replace(lower(outcome), $1, $2), reason = replace(lower(reason), $1, $2) "
        "WHERE strpos(lower(concat(parameters, sample, details, sentence, outcome, reason)), $1) > 0",
        customer_id,
        ERASED,
    )


async def _remove_from(connection: asyncpg.Connection, name: Generation, customer_id: str) -> int:
    removed = 0
    for table in OWNED:
        if await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", f"{name}.{table}"):
            # Both names come from closed sets.
            command_tag = await connection.execute(f"DELETE FROM {name}.{table} WHERE customer_id = $1", customer_id)  # noqa: S608
            removed += int(command_tag.rpartition(" ")[2])
    command_tag = await connection.execute(
        for_generation(f"DELETE FROM {{generation}}.parked_event WHERE {_OF_CUSTOMER}", name),  # noqa: S608 - constants
        *_of_customer(customer_id),
    )
    return removed + int(command_tag.rpartition(" ")[2])
