"""One example of each event type, for the AsyncAPI document; a test decodes them all."""

from typing import Any, Final

CUSTOMER_ID: Final = "c0000000-0000-4000-8000-000000000001"
CAMPAIGN_ID: Final = "ca000000-0000-4000-8000-000000000001"
OWNER_ID: Final = "0e000000-0000-4000-8000-000000000001"
TARGET_ID: Final = "7a000000-0000-4000-8000-000000000001"
VERSION: Final = 1_767_603_600_000_000
"""A version made of an update time: 2026-01-05T09:00:00Z in microseconds."""

_TARGET: Final = {"target_id": TARGET_ID, "customer_id": CUSTOMER_ID, "campaign_id": CAMPAIGN_ID, "version": VERSION}
_CAMPAIGN: Final = {"campaign_id": CAMPAIGN_ID, "version": VERSION}

_DATA: Final[dict[str, dict[str, Any]]] = {
    "customer.upserted.v1": {"customer_id": CUSTOMER_ID, "version": VERSION, "owner_id": OWNER_ID, "deleted": False},
    "campaign.upserted.v1": {
        **_CAMPAIGN,
        "owner_id": OWNER_ID,
        "name": "Spring renewals",
        "status": "running",
        "agent_id": "a0000000-0000-4000-8000-000000000001",
        "agent_name": "Ada",
        "first_contact_channel": "call",
        "whatsapp_after_attempts": 2,
        "created_at": "2026-01-05T08:00:00Z",
        "goal": "Renew before April",
        "goal_spec": {"objectives": [{"type": "contact", "channels": ["call"], "min_count": 1}]},
        "call_attempt_delays": [60, 240],
        "call_working_hours": {"start": "09:00:00", "end": "18:30:00", "weekdays": [1, 2, 3, 4, 5]},
    },
    "campaign.status_changed.v1": {**_CAMPAIGN, "status": "paused"},
    "campaign.deleted.v1": _CAMPAIGN,
    "campaign.restored.v1": _CAMPAIGN,
    "campaign.counters_changed.v1": {
        **_CAMPAIGN,
        "contacts_total": 120,
        "contacts_contacted": 80,
        "contacts_remaining": 40,
        "contacts_to_recall": 6,
        "contacts_failed": 4,
        "contacts_succeeded": 31,
        "progress": 66.7,
    },
    "target.enrolled.v1": {**_TARGET, "enrolled_at": "2026-01-05T09:00:00Z", "source": "import"},
    "target.removed.v1": {**_TARGET, "reason": "asked to be removed"},
    "target.restored.v1": {**_TARGET, "reason": "removed by mistake"},
}

EXAMPLES: Final[dict[str, dict[str, Any]]] = {
    name: {
        "specversion": "1.0",
        "id": f"crm-5f0c2a6e-{number}",
        "source": "crm",
        "type": name,
        "time": "2026-01-05T09:00:00Z",
        "data": data,
    }
    for number, (name, data) in enumerate(_DATA.items(), start=1)
}
"""A complete message for each type."""
