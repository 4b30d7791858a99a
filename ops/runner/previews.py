"""Describes the plans whose actions depend on the stream: repairs and erasures.

Reads: the stream, the live generation. Writes nothing: a repair is derived in a transaction that is rolled back.
Fails: `NothingToPlan`, and the refusals of the commands.
"""

from collections.abc import Sequence
from typing import Final

import asyncpg
import msgspec

from ops import erase, repair
from ops.erase import Erased
from ops.stream_check import only_copy_warning
from projections.maintenance import reviews, sentences
from projections.maintenance.differences import Difference
from projections.maintenance.sentences import counted
from projections.plans.actions import Erase, Repair
from projections.plans.previews import digest
from projections.plans.records import SAMPLE_MAX, Plan, Preview
from projections.plans.refusals import NothingToPlan
from projections.settings import Settings

ERASED_UNIT: Final = "item"
"""What an erasure counts: messages and rows together."""


async def preview(connection: asyncpg.Connection, settings: Settings, plan: Plan) -> Preview:
    """Describe a plan."""
    action = plan.what
    if isinstance(action, Repair):
        return await _repair(connection, settings, action)
    if isinstance(action, Erase):
        return await _erase(connection, settings, action)
    raise TypeError(f"{plan.action} needs no stream")


async def _repair(connection: asyncpg.Connection, settings: Settings, action: Repair) -> Preview:
    entity = action.entity
    repaired, acknowledged = await repair.derive(connection, settings, entity, by="a plan, rolled back", dry_run=True)
    differences, position = repaired
    if not differences:
        raise NothingToPlan(sentences.nothing_differs(entity.kind, entity.id, position))
    rows = counted(len(differences), "row")
    sentence = f"Writes {rows} of {entity.kind} {entity.id} as the stream has them; nothing else is changed."
    details = [sentences.would_repair(len(differences), position)]
    if acknowledged:
        details.append(only_copy_warning(acknowledged))
    samples = [sample for row in differences[:SAMPLE_MAX] for sample in reviews.samples_of(row)]
    sample = [msgspec.to_builtins(each) for each in samples[:SAMPLE_MAX]]
    return Preview(len(differences), "row", repair_fingerprint(differences), sentence, sample, details)


def repair_fingerprint(differences: Sequence[Difference]) -> str:
    """Return a digest of what a repair writes."""
    return digest("repair", [(row.table, row.held_json, row.expected_json) for row in differences])


async def _erase(connection: asyncpg.Connection, settings: Settings, action: Erase) -> Preview:
    customer_id = str(action.customer_id)
    counts = await erase.count(connection, settings, customer_id)
    if not any(counts):
        raise NothingToPlan(sentences.nothing_to_erase(customer_id))
    messages, rows = counted(counts.messages, "message"), counted(counts.rows, "row")
    sentence = f"Erases {messages} from the stream and {rows} of customer {customer_id}, for good."
    details = ["Backups are not touched.", "An event published afterwards creates the customer again."]
    return Preview(sum(counts), ERASED_UNIT, erase_fingerprint(counts), sentence, details=details)


def erase_fingerprint(counts: Erased) -> str:
    """Return a digest of what an erasure removes."""
    return digest("erase", *counts)
