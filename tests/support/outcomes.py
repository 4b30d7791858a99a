"""Which events are applied and which superseded, worked out from the event contract, without the code under test."""

import json
from collections import Counter
from collections.abc import Sequence

Published = tuple[str, bytes]
WRITES = {
    "customer.upserted.v1": ("customer",),
    "campaign.upserted.v1": ("definition", "status"),
    "campaign.status_changed.v1": ("status",),
    "campaign.deleted.v1": ("deletion",),
    "campaign.restored.v1": ("deletion",),
    "campaign.counters_changed.v1": ("counters",),
    "target.enrolled.v1": ("enrolment", "presence"),
    "target.removed.v1": ("presence",),
    "target.restored.v1": ("presence",),
}
"""The registers that each type writes."""


def expected(events: Sequence[Published]) -> tuple[Counter[str], Counter[str]]:
    """Apply one event after the other to registers that hold versions only; return the counts by outcome."""
    held: Counter[tuple[str, str]] = Counter()
    applied: Counter[str] = Counter()
    superseded: Counter[str] = Counter()
    for subject, body in events:
        event = json.loads(body)
        kind, version = event["type"], event["data"]["version"]
        registers = [(register, subject.split(".", 2)[2]) for register in WRITES[kind]]
        won = [register for register in registers if version > held[register]]
        held.update({register: version - held[register] for register in won})
        (applied if won else superseded)[kind] += 1
    return applied, superseded
