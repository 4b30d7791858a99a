"""Notifies API processes of every commit: the live generation's position, and what the batch changed.

A notice is sent in the transaction that it describes, so notices arrive in commit order, and none arrives for a batch
that was rolled back. PostgreSQL limits a payload's size, so a large batch sends several; the last one completes it.
"""

from collections.abc import Iterable
from typing import Annotated, Final

import asyncpg
import msgspec
from msgspec import Meta, Struct

from projections.model.events import INT64_MAX
from projections.store.queries import Generation

CHANNEL: Final = "membership_applied"
TAGS_PER_NOTICE_MAX: Final = 500
"""Of 13 characters each: below PostgreSQL's limit of 8,000 bytes."""
NOTICES_MAX: Final = 8
"""A batch that changed more sends a flush: processing more notices would cost readers more than an empty cache."""
TAGS_MAX: Final = NOTICES_MAX * TAGS_PER_NOTICE_MAX
_TAG_CHARS: Final = 13
DEFINITIONS_NAMED: Final = "d------------"
"""Marks the notices of a projector that names changed definitions. Older readers treat it as the tag of no campaign."""


class Notice(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One notice. An unknown field may change its meaning, so it makes the whole notice unreadable."""

    generation: Annotated[str, Meta(pattern="^g[1-9][0-9]*$")]
    position: Annotated[int, Meta(ge=0, le=INT64_MAX)]
    touched: str = ""
    """The tags of what changed, concatenated."""
    more: bool = False
    """Whether another notice of the same batch follows."""
    flush: bool = False
    """Whether everything may have changed, not only what the tags name."""

    @property
    def tags(self) -> list[str]:
        """The tags of what changed. An older projector does not name definitions: then each campaign's may have."""
        tags = [self.touched[at : at + _TAG_CHARS] for at in range(0, len(self.touched), _TAG_CHARS)]
        if DEFINITIONS_NAMED in tags:
            return [tag for tag in tags if tag != DEFINITIONS_NAMED]
        return [*tags, *("d" + tag[1:] for tag in tags if tag[0] == "g")]


def customer_tag(customer_id: str) -> str:
    """Return a customer's tag: the end of its id. Customers that share a tag are only invalidated together."""
    return "c" + customer_id[-12:]


def campaign_tag(campaign_id: str) -> str:
    """Return a campaign's tag: the end of its id."""
    return "g" + campaign_id[-12:]


def definition_tag(campaign_id: str) -> str:
    """Return the tag of a campaign's definition: its texts and its creation time, not its counters."""
    return "d" + campaign_id[-12:]


def encode_notices(name: Generation, position: int, tags: Iterable[str] | None) -> list[str]:
    """Return the payloads for a batch; `tags` of None: it changed more than the tags can name."""
    distinct = set(tags or ())
    if tags is None or len(distinct) > TAGS_MAX:
        return [_encode(Notice(name, position, flush=True))]
    ordered = sorted(distinct)
    parts = [ordered[at : at + TAGS_PER_NOTICE_MAX] for at in range(0, len(ordered), TAGS_PER_NOTICE_MAX)] or [[]]
    return [
        _encode(Notice(name, position, "".join((DEFINITIONS_NAMED, *part)), more=number < len(parts)))
        for number, part in enumerate(parts, start=1)
    ]


async def notify_flush(connection: asyncpg.Connection) -> None:
    """Notify, in the caller's transaction, that rows changed outside a batch: by a repair, an erasure or a switch.

    Such a change leaves the position as it is. So it also writes a new version of the pointer's row, by which a
    replica's answer shows whether it has the change.
    """
    await connection.execute("UPDATE control.live SET generation = generation")
    row = await connection.fetchrow(
        "SELECT generation, position FROM control.live JOIN control.checkpoint USING (generation)"
    )
    if row is not None:
        payload = _encode(Notice(row["generation"], row["position"], flush=True))
        await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, payload)


def decode_notice(payload: str) -> Notice | None:
    """Decode a payload; None for an unknown format: another program's, or a newer release's."""
    try:
        return _DECODER.decode(payload)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return None


def _encode(notice: Notice) -> str:
    return msgspec.json.encode(notice).decode()


_DECODER: Final = msgspec.json.Decoder(Notice)
