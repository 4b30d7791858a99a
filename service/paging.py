"""Cursors and links: how a caller gets from one page to the next.

A cursor names the row after which the next page starts, by that row's sort key and campaign id, so it stays correct
while rows come and go and when another generation goes live. It is signed, and bound to everything that determines the
rows and their order; so it cannot be forged, and the cursor of another request is rejected.
"""

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from service.auth import Principal
from service.parameters import ListRequest, Pair

LINK_BYTES_MAX: Final = 6_000
"""Common proxies reject longer headers, so a longer Link is left out."""
_SIGNATURE_BYTES: Final = 16


class Cursor(Struct, frozen=True, array_like=True):
    """The last row of a page, and the request it belongs to."""

    form: int
    """Incremented when the meaning of the other fields changes: cursors of another form are rejected."""
    request: bytes
    """The fingerprint of the request."""
    key: str | None
    """The last row's sort key as PostgreSQL writes it, truncated if it is long; None for a null."""
    campaign_id: str


class DatedCursor(Cursor, frozen=True, array_like=True):
    """A cursor that states its age, in its own form. Written only while the age of cursors is limited."""

    issued_s: int
    """The beginning of the period in which the page was read, in seconds since 1970."""


FORM: Final = 1
DATED_FORM: Final = 2
PERIODS: Final = 4
"""Periods in the greatest age. Within one, equal pages have equal cursors, so that their tags are equal too."""
_DECODER: Final = msgspec.msgpack.Decoder(Cursor)
_DATED_DECODER: Final = msgspec.msgpack.Decoder(DatedCursor)


class CursorAges:
    """Limits the age of cursors; without a limit, they state none."""

    def __init__(self, max_s: int, now_s: Callable[[], float] = time.time) -> None:
        self._max_s = max_s
        self._period_s = max(1, max_s // PERIODS)
        self._now_s = now_s

    def cursor(self, fingerprint: bytes, key: str | None, campaign_id: str) -> Cursor:
        """Return the cursor of a row that is read now."""
        if not self._max_s:
            return Cursor(FORM, fingerprint, key, campaign_id)
        return DatedCursor(DATED_FORM, fingerprint, key, campaign_id, self._period() * self._period_s)

    def is_too_old(self, cursor: Cursor) -> bool:
        """Return whether a cursor is older than the limit, or does not state its age."""
        if not self._max_s:
            return False
        return not isinstance(cursor, DatedCursor) or self._now_s() - cursor.issued_s > self._max_s

    def cached_query(self, query: bytes) -> bytes:
        """Return a query as the cache knows it: a page of an earlier period, with its older cursor, is not found."""
        return b"%b\n%d" % (query, self._period()) if self._max_s else query

    def _period(self) -> int:
        return int(self._now_s() // self._period_s)


def fingerprint(request: ListRequest, principal: Principal) -> bytes:
    """Digest what a cursor is bound to: caller scope, customer, filters and order; not limit or aggregations."""
    deletion = "only" if request.only_deleted else "both" if request.include_deleted else "not"
    bound = (
        principal.scope,
        request.customer_id,
        deletion,
        request.q,
        request.date_from,
        request.date_to,
        request.sort_field,
        request.sort_dir,
    )
    return hashlib.blake2b(msgspec.msgpack.encode(bound), digest_size=12).digest()


def write_cursor(cursor: Cursor, signing_key: bytes) -> str:
    """Return the cursor as opaque text."""
    payload = msgspec.msgpack.encode(cursor)
    return base64.urlsafe_b64encode(_sign(payload, signing_key) + payload).rstrip(b"=").decode()


def read_cursor(text: str, signing_key: bytes) -> Cursor | None:
    """Return the cursor that `write_cursor` made with this key; None for anything else."""
    try:
        raw = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        signature, payload = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, _sign(payload, signing_key)):
            return None
        cursor = _DECODER.decode(payload)
        if cursor.form == DATED_FORM:
            cursor = _DATED_DECODER.decode(payload)
    except (ValueError, binascii.Error, msgspec.DecodeError):
        return None
    canonical = write_cursor(cursor, signing_key) == text  # base64 text may differ in unused bits
    return cursor if canonical and cursor.form in (FORM, DATED_FORM) else None


def kept_parameters(pairs: list[Pair]) -> str | None:
    """Return the parameters that every link repeats, escaped; None if they are too long for a link."""
    kept = [(name, value) for name, value in pairs if name not in {"cursor", "offset"}]
    if sum(len(name) + len(value) + 1 for name, value in kept) > LINK_BYTES_MAX:  # escaping only adds
        return None
    return urlencode(kept, encoding="latin-1") + "&" if kept else ""  # a character of a pair is one byte


def links(kept: str | None, request: ListRequest, customer_id: str, total: int, next_cursor: str | None) -> str:
    """Return the Link header's value, RFC 8288, relative to this host; empty if there is no link or it is too long."""
    if kept is None:
        return ""
    if request.cursor is not None:
        targets = [("next", f"cursor={next_cursor}")] if next_cursor else []
    else:
        targets = [(relation, f"offset={offset}") for relation, offset in _offsets(request, total)]
    beginning = f"</customers/{customer_id}/campaigns?{kept}"
    header = ", ".join([f'{beginning}{target}>; rel="{relation}"' for relation, target in targets])
    return header if len(header) <= LINK_BYTES_MAX else ""


def _offsets(request: ListRequest, total: int) -> list[tuple[str, int]]:
    limit, offset = request.limit, request.offset
    last = max(total - 1, 0) // limit * limit
    offsets = [("first", 0), ("last", last)]
    if offset > 0:
        offsets.append(("prev", min(max(offset - limit, 0), last)))
    if offset + limit < total:
        offsets.append(("next", offset + limit))
    return offsets


def _sign(payload: bytes, signing_key: bytes) -> bytes:
    return hmac.digest(signing_key, payload, "sha256")[:_SIGNATURE_BYTES]
