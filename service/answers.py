"""Turns a page into the bytes and headers of an answer: body, entity tag, compression, revalidation."""

import asyncio
import gzip
import hashlib
import zlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

import msgspec

from service.parameters import ListRequest
from service.reads import Page, deletion_wanted

COMPRESS_BYTES_MIN: Final = 1_000
"""Below, a network packet is saved by nothing."""
COMPRESS_IN_THREAD_BYTES: Final = 500_000
"""Above, compressing would hold up other requests of this process."""
GZIP_LEVEL: Final = 4
GZIP_FORMAT: Final = 31
"""zlib's `wbits` for the largest window and a gzip header, which holds no time."""
ACCEPT_ENCODING_CHARS_MAX: Final = 500
"""Browsers send some 30. A longer list is not parsed, and the answer is not compressed: what was parsed is kept."""


def body_of(request: ListRequest, page: Page, next_cursor: str | None) -> list[bytes]:
    """Return the contract's JSON in parts. Items are as they came from PostgreSQL, neither parsed nor checked again."""
    wanted = deletion_wanted(request)
    statuses = page.matching(deleted=wanted)
    total = sum(statuses.values())
    sort = {"field": request.sort_field, "direction": request.sort_dir}
    meta: dict[str, Any] = {"total": total, "limit": request.limit, "offset": request.offset, "sort": sort}
    if next_cursor is not None:
        meta["next_cursor"] = next_cursor
    parts = [b'{"data":[', *_items(page), b'],"meta":', _json(meta), b',"query":', _json(_query(request, sort))]
    if request.include_aggregations:
        deleted = sum(page.matching(deleted=True).values())
        filters = {"all": total, **statuses}
        parts += [b',"aggregations":', _json({"quick_filters": filters, "extra": {"deleted": deleted}})]
    return [*parts, b"}"]


def _items(page: Page) -> list[bytes]:
    if isinstance(page.items, bytes):
        return [page.items]
    return [part for item in page.items for part in (b",", item)][1:]


def total_of(request: ListRequest, page: Page) -> int:
    """Return how many memberships match the request, before paging."""
    return sum(page.matching(deleted=deletion_wanted(request)).values())


def entity_tag(body: Iterable[bytes], *, compressed: bool) -> str:
    """Return the strong tag of a representation, given in parts; the compressed one is another representation."""
    hashed = hashlib.blake2b(digest_size=16)
    for part in body:
        hashed.update(part)
    digest = hashed.hexdigest()
    return f'"{digest}-gzip"' if compressed else f'"{digest}"'


def is_current(tag: str, if_none_match: str) -> bool:
    """Say whether the caller's tags hold this one: `*`, or a list, compared weakly (RFC 9110, 13.1.2)."""
    if if_none_match.strip() == "*":
        return True
    return any(candidate.strip().removeprefix("W/") == tag for candidate in if_none_match.split(","))


def accepts_gzip(accept_encoding: str) -> bool:
    """Say whether gzip may be sent (RFC 9110, 12.5.3): named, or by `*`, and not with a weight of zero."""
    return len(accept_encoding) <= ACCEPT_ENCODING_CHARS_MAX and _accepts_gzip(accept_encoding)


@lru_cache(maxsize=1_000)
def _accepts_gzip(accept_encoding: str) -> bool:
    weights: dict[str, float] = {}
    for part in accept_encoding.lower().split(","):
        coding, _, parameters = part.partition(";")
        weights[coding.strip()] = _weight(parameters)
    return weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0))) > 0


async def compress(body: bytes) -> bytes:
    """Return the body gzipped, the same bytes for the same body."""
    if len(body) > COMPRESS_IN_THREAD_BYTES:
        return await asyncio.to_thread(_gzip, body)
    return _gzip(body)


def _gzip(body: bytes) -> bytes:
    return gzip.compress(body, GZIP_LEVEL, mtime=0)


class GzipParts:
    """Compresses a body that comes in parts; may be called from another thread, one call at a time."""

    def __init__(self) -> None:
        self._compressor = zlib.compressobj(GZIP_LEVEL, wbits=GZIP_FORMAT)

    def add(self, part: bytes) -> bytes:
        """Return what is compressed so far and was not returned before; it may be nothing."""
        return self._compressor.compress(part)

    def end(self) -> bytes:
        """Return the rest."""
        return self._compressor.flush()


def _weight(parameters: str) -> float:
    name, _, value = parameters.partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 0.0


def _query(request: ListRequest, sort: Mapping[str, str]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    if request.q is not None:
        given["q"] = request.q
    given["filters"] = {"include_deleted": request.include_deleted, "only_deleted": request.only_deleted}
    dates: tuple[tuple[str, datetime | None], ...] = (("date_from", request.date_from), ("date_to", request.date_to))
    given |= {name: date for name, date in dates if date is not None}
    return given | {"sort": sort}


_json: Final = msgspec.json.Encoder().encode
