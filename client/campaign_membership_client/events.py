"""One function per event type: it returns the event, which a publisher sends or an outbox stores.

Ids are UUIDs, as objects or as lower-case hyphenated text. `version` rises with every change of the entity: a row
version, or the row's update time in microseconds. The docstrings name the entity that a version counts for.
"""

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from campaign_membership_client.contract.events import CallWindow, Channel, GoalSpec, Stage, Status
from campaign_membership_client.derived_ids import derived_id
from campaign_membership_client.event import Event

EntityId = uuid.UUID | str


def customer_upserted(
    customer: EntityId,
    owner: EntityId,
    *,
    version: int,
    deleted: bool | None = None,
    event_id: str | None = None,
    time: datetime | None = None,
) -> Event:
    """Return: a customer exists, belongs to an owner, and is deleted or not. Versions count per customer."""
    data = {"customer_id": customer, "version": version, "owner_id": owner, "deleted": deleted}
    return Event("customer.upserted.v1", data, event_id, time)


def campaign_upserted(
    campaign: EntityId,
    owner: EntityId,
    *,
    version: int,
    name: str,
    status: Status,
    agent_id: EntityId,
    first_contact_channel: Channel,
    whatsapp_after_attempts: int,
    created_at: datetime | None = None,
    agent_name: str | None = None,
    phone_number_id: EntityId | None = None,
    phone_number: str | None = None,
    whatsapp_channel_id: EntityId | None = None,
    goal: str | None = None,
    goal_spec: GoalSpec | Mapping[str, Any] | None = None,
    call_opening_message: str | None = None,
    whatsapp_first_message: str | None = None,
    call_attempt_delays: Sequence[int] | None = None,
    call_working_hours: CallWindow | Mapping[str, Any] | None = None,
    stages: Sequence[Stage | Mapping[str, Any]] | None = None,
    event_id: str | None = None,
    time: datetime | None = None,
) -> Event:
    """Return: a campaign's full definition with its status. Versions count per campaign."""
    data = {
        "campaign_id": campaign,
        "version": version,
        "owner_id": owner,
        "name": name,
        "status": status,
        "agent_id": agent_id,
        "first_contact_channel": first_contact_channel,
        "whatsapp_after_attempts": whatsapp_after_attempts,
        "created_at": created_at,
        "agent_name": agent_name,
        "phone_number_id": phone_number_id,
        "phone_number": phone_number,
        "whatsapp_channel_id": whatsapp_channel_id,
        "goal": goal,
        "goal_spec": goal_spec,
        "call_opening_message": call_opening_message,
        "whatsapp_first_message": whatsapp_first_message,
        "call_attempt_delays": call_attempt_delays,
        "call_working_hours": call_working_hours,
        "stages": stages,
    }
    return Event("campaign.upserted.v1", data, event_id, time)


def campaign_status_changed(
    campaign: EntityId, status: Status, *, version: int, event_id: str | None = None, time: datetime | None = None
) -> Event:
    """Return: a campaign's status changed. Versions count per campaign."""
    data = {"campaign_id": campaign, "version": version, "status": status}
    return Event("campaign.status_changed.v1", data, event_id, time)


def campaign_deleted(
    campaign: EntityId, *, version: int, event_id: str | None = None, time: datetime | None = None
) -> Event:
    """Return: a campaign is no longer listed by default. Versions count per campaign."""
    return Event("campaign.deleted.v1", {"campaign_id": campaign, "version": version}, event_id, time)


def campaign_restored(
    campaign: EntityId, *, version: int, event_id: str | None = None, time: datetime | None = None
) -> Event:
    """Return: a deleted campaign is listed again. Versions count per campaign."""
    return Event("campaign.restored.v1", {"campaign_id": campaign, "version": version}, event_id, time)


def campaign_counters_changed(
    campaign: EntityId,
    *,
    version: int,
    contacts_total: int,
    contacts_contacted: int,
    contacts_remaining: int,
    contacts_to_recall: int,
    contacts_failed: int,
    contacts_succeeded: int,
    progress: float,
    event_id: str | None = None,
    time: datetime | None = None,
) -> Event:
    """Return: a campaign's counters, as absolute values. Versions count per campaign, for its counters alone."""
    data = {
        "campaign_id": campaign,
        "version": version,
        "contacts_total": contacts_total,
        "contacts_contacted": contacts_contacted,
        "contacts_remaining": contacts_remaining,
        "contacts_to_recall": contacts_to_recall,
        "contacts_failed": contacts_failed,
        "contacts_succeeded": contacts_succeeded,
        "progress": progress,
    }
    return Event("campaign.counters_changed.v1", data, event_id, time)


def enrolled(
    customer: EntityId,
    campaign: EntityId,
    *,
    version: int,
    at: datetime,
    source: str | None = None,
    target: EntityId | None = None,
    event_id: str | None = None,
    time: datetime | None = None,
) -> Event:
    """Return: a customer is in a campaign since `at`. Versions count per customer and campaign.

    `source` says where the enrolment came from. Without `target`, its id is derived from customer and campaign.
    """
    data = _target(customer, campaign, target) | {"version": version, "enrolled_at": at, "source": source}
    return Event("target.enrolled.v1", data, event_id, time)


def removed(
    customer: EntityId,
    campaign: EntityId,
    *,
    version: int,
    reason: str | None = None,
    target: EntityId | None = None,
    event_id: str | None = None,
    time: datetime | None = None,
) -> Event:
    """Return: a customer is out of a campaign. Versions count per customer and campaign."""
    data = _target(customer, campaign, target) | {"version": version, "reason": reason}
    return Event("target.removed.v1", data, event_id, time)


def restored(
    customer: EntityId,
    campaign: EntityId,
    *,
    version: int,
    reason: str | None = None,
    target: EntityId | None = None,
    event_id: str | None = None,
    time: datetime | None = None,
) -> Event:
    """Return: a removed customer is in the campaign again. Versions count per customer and campaign."""
    data = _target(customer, campaign, target) | {"version": version, "reason": reason}
    return Event("target.restored.v1", data, event_id, time)


def _target(customer: EntityId, campaign: EntityId, target: EntityId | None) -> dict[str, Any]:
    target_id = derived_id("target", customer, campaign) if target is None else target
    return {"target_id": target_id, "customer_id": customer, "campaign_id": campaign}
