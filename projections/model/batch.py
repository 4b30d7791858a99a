"""A batch: messages in stream order, decoded and folded, ready to be written in one transaction. No I/O."""

from collections import Counter
from collections.abc import Iterable, Sequence

from msgspec import Struct

from projections.model.arrivals import Arrivals, Tally
from projections.model.decode import decode
from projections.model.events import CampaignId, CampaignUpserted, Event, Message, Position, Unreadable
from projections.model.membership import Contests, Registers, fold
from projections.model.rows import Columns, Row, definition_row, register_columns, row_bytes


class Parked(Struct, frozen=True):
    """A message that could not be decoded or that the tables refused, and the reason."""

    message: Message
    why: Unreadable


class Batch(Struct, frozen=True):
    """Messages in stream order, decoded and folded: the content of one transaction."""

    messages: Sequence[Message]
    registers: Registers
    columns: Columns
    """The registers as statement parameters. They are made before the transaction, because while they are made the
    session is idle, and PostgreSQL ends an idle leader's session."""
    parked: tuple[Parked, ...]
    arrivals: Arrivals
    position: Position
    time_ns: int


class BatchBuilder:
    """Builds a batch incrementally: decodes and folds messages, and makes their columns, as they arrive. No I/O."""

    def __init__(self, after: Position) -> None:
        self.after = after
        """The position before the first message."""
        self.position = after
        self.time_ns = 0
        self.bytes = 0
        """Size of all bodies, headers and derived texts; a search key may be many times as long as its text."""
        self.messages: list[Message] = []
        self.registers = Registers()
        self.definitions: dict[CampaignId, Row] = {}
        """The columns of the definitions in `registers`, by campaign."""
        self.parked: list[Parked] = []
        self._valid: Tally = Counter()
        self._contests = Contests()
        self.made: Batch | None = None
        """The last result of `batch`, until more messages are added."""

    @property
    def events(self) -> int:
        """The number of messages added."""
        return len(self.messages)

    def add(self, messages: Sequence[Message]) -> None:
        """Decode and fold the next messages, at least one."""
        self.made = None
        events: list[Event] = []
        for message in messages:
            event = decode(message.subject, message.body)
            if isinstance(event, Unreadable):
                self.parked.append(Parked(message, event))
            else:
                events.append(event)
        fold(events, self.registers, self._contests)
        self._valid.update(map(type, events))
        self._make_definitions(events)
        self.bytes += sum([len(message.body) + message.header_bytes for message in messages])
        self.messages += messages
        self.position = messages[-1].position
        self.time_ns = messages[-1].time_ns

    def _make_definitions(self, events: Iterable[Event]) -> None:
        """Make the columns of the definitions in `events` that won their register."""
        for event in events:
            if isinstance(event, CampaignUpserted) and self.registers.definitions[event.campaign_id] is event:
                row = definition_row(event)
                self.bytes += row_bytes(row) - row_bytes(self.definitions.get(event.campaign_id, ()))
                self.definitions[event.campaign_id] = row

    def batch(self) -> Batch:
        """Return the messages added so far, at least one, as a batch; their columns are made by the first call."""
        if self.made is None:
            columns = register_columns(self.registers, self.definitions)
            arrivals = Arrivals(self._valid, self._contests)
            self.made = Batch(
                self.messages, self.registers, columns, tuple(self.parked), arrivals, self.position, self.time_ns
            )
        return self.made


def read_batch(messages: Sequence[Message]) -> Batch:
    """Decode and fold messages, at least one, in stream order. Pure."""
    builder = BatchBuilder(Position(0))
    builder.add(messages)
    return builder.batch()
