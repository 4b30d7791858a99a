"""What the projector tells API processes with every commit: how far the live generation is, and what a batch touched.

A notice leaves in the transaction that it speaks of, so notices come in the order of the commits, and none comes for a
batch that was rolled back. PostgreSQL bounds a payload, so a large batch is told in several; the last one completes it.
"""

from collections.abc import Iterable, Iterator
from typing import Annotated, Final

import asyncpg
import msgspec
from msgspec import Meta, Struct

from projections.model.events import INT64_MAX
from projections.store.queries import Generation

CHANNEL: Final = "membership_applied"
TAGS_PER_NOTICE_MAX: Final = 500
"""Of 13 characters each: below PostgreSQL's 8,000 bytes."""
NOTICES_MAX: Final = 8
"""A batch that touched more is told as a flush: hearing it out would cost readers more than forgetting does."""
_TAG_CHARS: Final = 13


class Notice(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One notice. A field that this release does not know may change its meaning, so it makes the whole unreadable."""

    generation: Annotated[str, Meta(pattern="^g[1-9][0-9]*$")]
    position: Annotated[int, Meta(ge=0, le=INT64_MAX)]
    touched: str = ""
    """The tags of what changed, one behind the other."""
    more: bool = False
    """Whether another notice of the same batch follows."""
    flush: bool = False
    """Whether anything may have changed."""

    @property
    def tags(self) -> Iterator[str]:
        """What changed."""
        return (self.touched[at : at + _TAG_CHARS] for at in range(0, len(self.touched), _TAG_CHARS))


def customer_tag(customer_id: str) -> str:
    """Return what stands for a customer: the end of its id. Two that share one are forgotten together, no more."""
    return "c" + customer_id[-12:]


def campaign_tag(campaign_id: str) -> str:
    """Return what stands for a campaign."""
    return "g" + campaign_id[-12:]


def encode_notices(name: Generation, position: int, tags: Iterable[str] | None) -> list[str]:
    """Return the payloads that tell of a batch; `tags` of None: it changed more than can be named."""
    distinct = set(tags or ())
    if tags is None or len(distinct) > NOTICES_MAX * TAGS_PER_NOTICE_MAX:
        return [_encode(Notice(name, position, flush=True))]
    found = sorted(distinct)
    parts = [found[at : at + TAGS_PER_NOTICE_MAX] for at in range(0, len(found), TAGS_PER_NOTICE_MAX)] or [[]]
    return [
        _encode(Notice(name, position, "".join(part), more=number < len(parts)))
        for number, part in enumerate(parts, start=1)
    ]


async def notify_flush(connection: asyncpg.Connection) -> None:
    """Tell, in the caller's transaction, that rows were changed by other than a batch: mended, erased, switched."""
    row = await connection.fetchrow(
        "SELECT generation, position FROM control.live JOIN control.checkpoint USING (generation)"
    )
    if row is not None:
        payload = _encode(Notice(row["generation"], row["position"], flush=True))
        await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, payload)


def decode_notice(payload: str) -> Notice | None:
    """Read a payload; None for one that is not of this release: another program's, or a newer release's."""
    try:
        return _DECODER.decode(payload)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return None


def _encode(notice: Notice) -> str:
    return msgspec.json.encode(notice).decode()


_DECODER: Final = msgspec.json.Decoder(Notice)
