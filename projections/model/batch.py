"""A batch: messages in stream order, decoded and folded, ready to be written in one transaction. No I/O."""

from collections.abc import Iterable, Sequence

from msgspec import Struct

from projections.model.decode import decode
from projections.model.events import CampaignId, CampaignUpserted, Event, Message, Position, Unreadable
from projections.model.membership import Registers, fold
from projections.model.rows import Columns, Row, definition_row, register_columns, row_bytes


class Parked(Struct, frozen=True):
    """A message that could not be read, or that the tables refuse, and why."""

    message: Message
    why: Unreadable


class Batch(Struct, frozen=True):
    """Messages in stream order, decoded and folded: what one transaction will write."""

    messages: Sequence[Message]
    registers: Registers
    columns: Columns
    """The registers as statements take them, made before the transaction opens: PostgreSQL ends a silent leader."""
    parked: tuple[Parked, ...]
    position: Position
    time_ns: int


class BatchBuilder:
    """A batch that grows: messages in stream order, decoded, folded and unfolded as they come. No I/O."""

    def __init__(self, after: Position) -> None:
        self.after = after
        """The position that the first message follows upon."""
        self.position = after
        self.time_ns = 0
        self.bytes = 0
        """Of all bodies, and of the texts made of them: a search key may be many times as long as its text."""
        self.messages: list[Message] = []
        self.registers = Registers()
        self.definitions: dict[CampaignId, Row] = {}
        """The columns of the definitions in `registers`."""
        self.parked: list[Parked] = []

    @property
    def events(self) -> int:
        """How many messages were added."""
        return len(self.messages)

    def add(self, messages: Sequence[Message]) -> None:
        """Decode and fold the next messages; at least one."""
        events: list[Event] = []
        for message in messages:
            event = decode(message.subject, message.body)
            if isinstance(event, Unreadable):
                self.parked.append(Parked(message, event))
            else:
                events.append(event)
        fold(events, self.registers)
        self._make_definitions(events)
        self.bytes += sum([len(message.body) for message in messages])
        self.messages += messages
        self.position = messages[-1].position
        self.time_ns = messages[-1].time_ns

    def _make_definitions(self, events: Iterable[Event]) -> None:
        """Make the columns of those definitions among `events` that won their register."""
        for event in events:
            if isinstance(event, CampaignUpserted) and self.registers.definitions[event.campaign_id] is event:
                made = definition_row(event)
                self.bytes += row_bytes(made) - row_bytes(self.definitions.get(event.campaign_id, ()))
                self.definitions[event.campaign_id] = made

    def batch(self) -> Batch:
        """Return what was added so far, at least one message, as the batch it is."""
        columns_ = register_columns(self.registers, self.definitions)
        return Batch(self.messages, self.registers, columns_, tuple(self.parked), self.position, self.time_ns)


def read_batch(messages: Sequence[Message]) -> Batch:
    """Decode and fold messages in stream order; at least one. Pure."""
    gathered = BatchBuilder(Position(0))
    gathered.add(messages)
    return gathered.batch()
