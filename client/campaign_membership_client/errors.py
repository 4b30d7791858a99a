"""The errors of the client: one tree, each class with a stable `code`.

MembershipClientError
├── InvalidEvent           invalid_event          refused before it is sent; every wrong field is named
├── PublishError           publish_error          the broker has not stored an event
│   ├── BrokerUnavailable  broker_unavailable     it does not answer, or rejects the credentials
│   ├── StreamNotFound     stream_not_found       no stream owns the subject
│   ├── JetStreamOff       jetstream_off          it runs without JetStream
│   ├── NotPermitted       not_permitted          the account may not publish on the subject
│   ├── BrokerFull         broker_full            it has no room, or no longer writes to its disk
│   ├── EventRefused       event_refused          it refuses this event; a retry would be refused too
│   └── VersionReused      version_reused         another event with this id or version is already stored
└── ReadError              …                      see `reading/errors.py`
"""

from collections.abc import Sequence
from typing import ClassVar, Final, NamedTuple

VALUE_CHARS_MAX: Final = 80
"""Characters of a wrong value that a message repeats."""
PUBLISH_AGAIN: Final = "Publish again once it works: events already stored are not stored twice."


class MembershipClientError(Exception):
    """The root: an error with a stable code; its text says what the caller can do."""

    code: ClassVar[str] = "membership_client_error"


class FieldError(NamedTuple):
    """One wrong field of an event."""

    field: str
    """The path in the event, such as `data.version` or `data.stages[0].name`."""
    value: str
    """The value as JSON, cut if it is long; empty if the field is missing."""
    allowed: str
    """What the field allows, as a noun phrase."""

    def __str__(self) -> str:
        what = f"{self.value} is not allowed" if self.value else "it is missing"
        return f"{self.field}: {what}; expected {self.allowed}"


class InvalidEvent(MembershipClientError):
    """An event that the service would park. Nothing was sent."""

    code = "invalid_event"

    def __init__(self, event_type: str, errors: Sequence[FieldError]) -> None:
        self.event_type = event_type
        self.errors = tuple(errors)
        super().__init__(f"{event_type} was not sent: {'. '.join(map(str, self.errors))}.")


class PublishError(MembershipClientError):
    """The broker has not stored an event."""

    code = "publish_error"


class BrokerUnavailable(PublishError):
    """The broker does not answer, or rejects the credentials."""

    code = "broker_unavailable"

    def __init__(self, sentence: str) -> None:
        super().__init__(f"{sentence}. {PUBLISH_AGAIN}")


class StreamNotFound(PublishError):
    """No stream owns the subject, so nothing would be stored."""

    code = "stream_not_found"

    def __init__(self, stream: str, subject: str, owner: str = "") -> None:
        self.stream = stream
        self.subject = subject
        self.owner = owner
        """The stream that owns the subject instead; empty if there is none."""
        super().__init__(
            f"Subject {subject} belongs to stream {owner}, not to {stream}: this is another broker or account."
            if owner
            else f"No stream owns subject {subject}: the broker has no stream {stream} in this account. `membership "
            "project` creates it in a new installation; otherwise check the broker's address and the account."
        )


class JetStreamOff(PublishError):
    """The broker answers, but JetStream does not."""

    code = "jetstream_off"

    def __init__(self) -> None:
        super().__init__(
            "The broker runs without JetStream: it is not enabled, or nats-server disabled it after an error, such as "
            f"a full disk; nats-server's log names the error. {PUBLISH_AGAIN}"
        )


class NotPermitted(PublishError):
    """The account may not publish on the subject, or may not receive the acknowledgement."""

    code = "not_permitted"

    def __init__(self, subject: str, violation: str) -> None:
        self.subject = subject
        super().__init__(
            f"The account may not publish on {subject}: {violation}. A producer needs the right to publish on "
            "`membership.>` and to subscribe to `_INBOX.>`."
        )


class BrokerFull(PublishError):
    """The broker has no room for events, or no longer writes to its disk."""

    code = "broker_full"

    def __init__(self, reason: str) -> None:
        super().__init__(f"The broker stores no more events: {reason}. {PUBLISH_AGAIN}")


class EventRefused(PublishError):
    """The broker refuses to store this event; a retry would be refused too."""

    code = "event_refused"

    def __init__(self, msg_id: str, subject: str, reason: str) -> None:
        self.msg_id = msg_id
        self.subject = subject
        self.reason = reason
        super().__init__(f"The broker refused event {msg_id} on {subject}: {reason}.")


class VersionReused(PublishError):
    """Another event with the same id is already stored, so this one was not: it needs a higher version."""

    code = "version_reused"

    def __init__(self, msg_id: str, position: int) -> None:
        self.msg_id = msg_id
        self.position = position
        super().__init__(
            f"The event was not stored: another event with its id {msg_id} is stored at position {position}. An id is "
            "made from source, type, entity and version, so raise the version with every change of the entity."
        )
