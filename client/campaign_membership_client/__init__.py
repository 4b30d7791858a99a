"""Publishes the events of Campaign Membership, and reads which campaigns a customer is in.

`campaign_membership_client.outbox` and `.relay` need asyncpg (extra `outbox`); `.reading` needs httpx (extra `reader`).
"""

from campaign_membership_client import events
from campaign_membership_client.batches import Deadlines, Receipt
from campaign_membership_client.contract.events import CallWindow, GoalSpec, Stage
from campaign_membership_client.errors import (
    BrokerFull,
    BrokerUnavailable,
    EventRefused,
    FieldError,
    InvalidEvent,
    JetStreamOff,
    MembershipClientError,
    NotPermitted,
    PublishError,
    StreamNotFound,
    VersionReused,
)
from campaign_membership_client.event import Event, Publication, prepare
from campaign_membership_client.publisher import EventMethods, Publisher
from campaign_membership_client.recorder import Recorder
from campaign_membership_client.versions import implausible_version, now_us

__all__ = [
    "BrokerFull",
    "BrokerUnavailable",
    "CallWindow",
    "Deadlines",
    "Event",
    "EventMethods",
    "EventRefused",
    "FieldError",
    "GoalSpec",
    "InvalidEvent",
    "JetStreamOff",
    "MembershipClientError",
    "NotPermitted",
    "Publication",
    "PublishError",
    "Publisher",
    "Receipt",
    "Recorder",
    "Stage",
    "StreamNotFound",
    "VersionReused",
    "events",
    "implausible_version",
    "now_us",
    "prepare",
]
