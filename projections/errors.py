"""The shared errors of this project: one tree, so that each entry point maps them in one place.

MembershipError
├── SettingsInvalid            settings_invalid
├── DatabaseNotMigrated        database_not_migrated
├── DatabaseTooOld             database_too_old
├── MigrationChanged           migration_changed
├── Fenced                     fenced
├── TablesRefuse               tables_refuse
├── NothingToRollBackTo        nothing_to_roll_back_to
├── GenerationNotReady         generation_not_ready
├── JobRefused                 job_refused
├── JobCancelled               job_cancelled
├── GateRefused                gate_refused
└── StreamRefused              stream_refused
    ├── ReplicasRefused        replicas_refused
    ├── StreamMissing          stream_missing
    ├── StreamRecreated        stream_recreated
    ├── StreamWentBack         stream_went_back
    ├── StreamBackupTooOld     stream_backup_too_old
    ├── StreamRestored         stream_restored
    ├── StreamRestoring        stream_restoring
    ├── StreamIncomplete       stream_incomplete
    ├── StreamLostMessages     stream_lost_messages
    └── StreamUnsafe           stream_unsafe

A class's docstring states when it is raised; an instance's message states what an operator can do. Errors of a single
module are defined there, as subclasses.
"""

from collections.abc import Sequence
from typing import ClassVar, Final


class MembershipError(Exception):
    """The root: an error with a stable code and a message for the operator."""

    code: ClassVar[str] = "membership_error"


class SettingsInvalid(MembershipError):
    """One or more environment variables are missing or invalid; the message names all of them."""

    code = "settings_invalid"

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        super().__init__(f"These settings are missing or invalid:\n{lines}")


class DatabaseNotMigrated(MembershipError):
    """The database lacks tables that this release needs."""

    code = "database_not_migrated"

    def __init__(self, missing: Sequence[str]) -> None:
        self.missing = tuple(missing)
        super().__init__(f"The database lacks {', '.join(missing)}. Run `membership migrate` first.")


class DatabaseTooOld(MembershipError):
    """PostgreSQL is older than the statements require."""

    code = "database_too_old"

    def __init__(self, needed: int, found: str) -> None:
        self.needed = needed
        self.found = found
        super().__init__(f"PostgreSQL {needed} or newer is needed; this server is {found}.")


class MigrationChanged(MembershipError):
    """A migration file differs from the one applied under its name."""

    code = "migration_changed"

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"Migration {name} was edited after it was applied. Restore the file and put the change into a new one."
        )


class Fenced(MembershipError):
    """Another projector has taken over: the checkpoint is no longer the one that this projector holds."""

    code = "fenced"

    def __init__(self, generation: str, position: int, epoch: int) -> None:
        self.generation = generation
        self.position = position
        self.epoch = epoch
        super().__init__(
            f"Generation {generation} has left position {position} of epoch {epoch}: another projector took over, "
            "or an operator's command asked for a new term. Nothing was written."
        )


class TablesRefuse(MembershipError):
    """The tables cannot be written, whatever the message: damaged, changed by hand, or not granted."""

    code = "tables_refuse"

    def __init__(self, generation: str, problem: str, *, damaged: bool) -> None:
        self.generation = generation
        self.problem = problem
        self.damaged = damaged
        """Whether the cause is this generation's own tables, so that another generation may replace it."""
        super().__init__(
            f"The tables of generation {generation} cannot be written: {problem}. Nothing is applied until they "
            "can; reads return what was applied before. Correct the tables or the rights by hand, or make a new "
            "generation with `membership rebuild`."
        )


class NothingToRollBackTo(MembershipError):
    """No earlier generation still follows the stream."""

    code = "nothing_to_roll_back_to"


class GenerationNotReady(MembershipError):
    """A generation cannot become the live one: it is not at the live generation's position."""

    code = "generation_not_ready"

    def __init__(self, generation: str, reason: str) -> None:
        self.generation = generation
        super().__init__(
            f"Generation {generation} cannot become the live one: {reason}. Nothing was switched. "
            "Is a projector running (`membership project`)? `membership status` shows each generation's position."
        )


class JobRefused(MembershipError):
    """A job cannot start or continue in the current state."""

    code = "job_refused"


class JobCancelled(MembershipError):
    """An operator cancelled the running job."""

    code = "job_cancelled"


class GateRefused(MembershipError):
    """A new generation must not become the live one; the message lists every reason with its remedy."""

    code = "gate_refused"

    def __init__(self, reasons: Sequence[str]) -> None:
        self.reasons = tuple(reasons)
        lines = "\n".join(f"  {reason}" for reason in self.reasons)
        super().__init__(f"The new generation was not made the live one:\n{lines}")


class StreamRefused(MembershipError):
    """The stream does not match the checkpoint, so applying it could corrupt the read model."""

    code = "stream_refused"


_RESTORE_WARNING: Final = (
    "A backup made before an erasure brings the erased customer back: repeat such erasures after restoring it."
)
_RESTORE_OR_ACKNOWLEDGE: Final = (
    f"Restore the stream from its backup, or accept the loss with `membership acknowledge-missing`. {_RESTORE_WARNING}"
)


class ReplicasRefused(StreamRefused):
    """The broker has too few servers for the configured number of replicas."""

    code = "replicas_refused"

    def __init__(self, stream: str, replicas: int, reason: str) -> None:
        self.stream = stream
        self.replicas = replicas
        super().__init__(
            f"The broker cannot keep {replicas} replicas of stream {stream}: {reason}. Each replica needs a server of "
            "its own, with JetStream and free storage. Start more servers, or set MEMBERSHIP_STREAM_REPLICAS to at "
            "most their number."
        )


class StreamMissing(StreamRefused):
    """The stream no longer exists, although events of it were applied."""

    code = "stream_missing"

    def __init__(self, stream: str, position: int) -> None:
        self.stream = stream
        self.position = position
        super().__init__(
            f"Stream {stream} does not exist, but the read model has applied it up to position {position}. "
            "Restore the stream from its backup, or start with an empty database if its events are gone for good. "
            f"{_RESTORE_WARNING}"
        )


class StreamRecreated(StreamRefused):
    """A stream of the same name was created at another time: its positions have other meanings."""

    code = "stream_recreated"

    def __init__(self, stream: str, expected_created: str, found_created: str) -> None:
        self.stream = stream
        self.expected_created = expected_created
        self.found_created = found_created
        super().__init__(
            f"Stream {stream} was created at {found_created}, but the checkpoint belongs to the stream created at "
            f"{expected_created}. It is another stream under the same name; its events were not applied. "
            "Restore the original stream, or start with an empty database to read the new one from its beginning. "
            f"{_RESTORE_WARNING}"
        )


class StreamWentBack(StreamRefused):
    """The stream lost messages that were already applied, so their positions will be reused for new ones."""

    code = "stream_went_back"

    def __init__(self, stream: str, position: int, found: str) -> None:
        self.stream = stream
        self.position = position
        self.found = found
        super().__init__(
            f"Stream {stream} went back: the read model has applied position {position}, but {found}. "
            "The broker lost acknowledged messages (see nats-server's sync_interval). Restore the stream from its "
            "backup, or start with an empty database to read the remaining messages from the beginning. "
            f"{_RESTORE_WARNING}"
        )


class StreamBackupTooOld(StreamRefused):
    """The stream was restored from a backup that ends before what the read model has applied."""

    code = "stream_backup_too_old"

    def __init__(self, stream: str, restored: int, position: int) -> None:
        self.stream = stream
        self.restored = restored
        self.position = position
        super().__init__(
            f"Stream {stream} was restored from a backup that ends at position {restored}, but the read model has "
            f"applied position {position}. The positions between belong to events that only this database still shows: "
            "keep it (`pg_dump`). Restore a newer backup of the stream, or continue with an empty database. "
            f"{_RESTORE_WARNING}"
        )


class StreamRestored(StreamRefused):
    """Messages recorded as erased or lost are in the stream again: it was restored from an earlier backup."""

    code = "stream_restored"

    def __init__(self, stream: str, returned: int) -> None:
        self.stream = stream
        self.returned = returned
        super().__init__(
            f"Stream {stream} was restored from a backup made before an erasure: at least {returned:,} messages "
            "recorded as erased or lost are in it again. Repeat the erasures made since that backup with `membership "
            "erase` (`membership audit` shows their times). If this message remains when all are repeated, run "
            "`membership acknowledge-missing`."
        )


class StreamRestoring(StreamRefused):
    """The stream is being restored from a backup, or a restore was interrupted: it is incomplete."""

    code = "stream_restoring"

    def __init__(self, stream: str) -> None:
        self.stream = stream
        super().__init__(
            f"Stream {stream} is being restored from a backup, or the restore was interrupted, so it is incomplete. "
            "Wait for `membership restore` to end, or run it again: it then starts from the beginning."
        )


class StreamIncomplete(StreamRefused):
    """The stream lacks messages that no recorded erasure removed, so rows derived from it would be incomplete."""

    code = "stream_incomplete"

    def __init__(self, stream: str, missing: int, first: int, last: int) -> None:
        self.stream = stream
        self.missing = missing
        super().__init__(
            f"Stream {stream} lacks {missing:,} messages that no erasure took out (its first is {first}, its last "
            f"{last}), so rows derived from it would be incomplete. Nothing was changed. The live generation keeps the "
            f"rows of everything it has applied. {_RESTORE_OR_ACKNOWLEDGE}"
        )


class StreamLostMessages(StreamRefused):
    """Messages not applied yet are missing from the stream, and no erasure removed them."""

    code = "stream_lost_messages"

    def __init__(self, stream: str, lost: int, after: int, before: int) -> None:
        self.stream = stream
        self.lost = lost
        self.after = after
        self.before = before
        super().__init__(
            f"Stream {stream} has lost {lost:,} messages that were not applied yet, between positions {after} and "
            f"{before}, and no erasure removed them. Nothing was applied beyond position {after}. "
            f"{_RESTORE_OR_ACKNOWLEDGE}"
        )


class StreamUnsafe(StreamRefused):
    """The stream is configured so that it may lose events."""

    code = "stream_unsafe"

    def __init__(self, stream: str, problems: Sequence[str]) -> None:
        self.stream = stream
        self.problems = tuple(problems)
        super().__init__(
            f"Stream {stream} is configured so that events can be lost: {'; '.join(problems)}. "
            "Correct it with `nats stream edit`, then start again."
        )
