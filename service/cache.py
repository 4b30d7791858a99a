"""The bounded response cache of one API process; each commit of the projector invalidates exactly what it changed.

A response depends on a set of tags: its customer, and the campaigns on its page. The projector's notices carry the tags
that a batch changed, and arrive in commit order. So a response that is still cached after the notice of position N is
exact at N, whatever position it was read at.

Invariants: a response read from a snapshot is cached only if no notice received since then invalidates it; while the
listening connection is down, nothing is cached and nothing is served from the cache.
Why two queues: an entry must be requested twice before it can displace frequently requested ones, so a flood of
distinct requests passes through the small queue only.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, NamedTuple

from msgspec import Struct

from service.representation import Representation

BYTES_MAX: Final = 128 * 1024 * 1024
"""Limit of both queues together; a share of the 300 MB that a process may use."""
PROBATION_SHARE: Final = 0.2
ENTRY_OVERHEAD_BYTES: Final = 1_500
"""What Python adds to a response: its key, its tags and its entries in four dictionaries. Measured, rounded up."""
TAG_BYTES: Final = 150
"""What one tag of a response takes, in the entry and in the index."""
CHANGED_TAGS_MAX: Final = 100_000
"""Tags whose last change is recorded; beyond this number, everything read before now counts as changed."""


class Key(NamedTuple):
    """Requests with equal keys get equal responses: the caller's scope and the exact bytes of the request."""

    scope: str | None
    path: str
    query: bytes
    gzip: bool


class _Tag(Struct, gc=False):
    """A tag on which cached responses depend. They share this object, so its text exists once, as long as they do."""

    name: str
    keys: set[Key]


class _Entry(Struct, gc=False):
    representation: Representation
    tags: tuple[_Tag, ...]
    size: int


class Cache:
    """Caches responses. Not thread-safe: used from one event loop, and no method waits."""

    def __init__(self, bytes_max: int = BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._probation: OrderedDict[Key, _Entry] = OrderedDict()
        self._protected: OrderedDict[Key, _Entry] = OrderedDict()
        self._by_tag: dict[str, _Tag] = {}
        self._changed: dict[str, int] = {}
        self._floor = 0
        """The lowest position of a response that may be cached."""
        self._applied_through = 0
        self._enabled = False
        self._flushes = 0
        self.bytes_used = 0
        """Size of all entries, overhead included."""

    def enable(self, position: int) -> None:
        """Start caching: the listener will report every commit after `position`."""
        self.flush()
        self._enabled = True
        self._applied_through = self._floor = position

    def disable(self) -> None:
        """Stop caching: invalidations may be missed from now on."""
        self.flush()
        self._enabled = False

    def flush(self, position: int = 0) -> None:
        """Drop all entries, and do not cache responses whose read is in progress.

        With a `position`, anything up to it may have changed: an older snapshot, from a lagging server, is not cached.
        """
        self._flushes += 1
        for index in (self._probation, self._protected, self._by_tag, self._changed):
            index.clear()
        self._floor = max(self._applied_through, position)
        self.bytes_used = 0

    def invalidate(self, tags: Iterable[str], position: int) -> None:
        """Drop the responses that depend on any of `tags`, which the batch that ends at `position` changed."""
        for name in tags:
            self._changed[name] = position
            tag = self._by_tag.get(name)
            for key in list(tag.keys) if tag is not None else ():
                self._remove(key)
        if len(self._changed) > CHANGED_TAGS_MAX:
            self._changed.clear()
            self._floor = position

    def advance(self, position: int) -> None:
        """Record that all changes up to `position` have been reported."""
        self._applied_through = max(self._applied_through, position)

    @property
    def applied_through(self) -> int:
        """The position up to which all changes have been reported."""
        return self._applied_through

    def limit(self, bytes_max: int) -> None:
        """Change the size limit; evict entries beyond it."""
        self._bytes_max = bytes_max
        self._evict()

    def get(self, key: Key) -> tuple[Representation, int] | None:
        """Return a response and the position at which it is exact."""
        entry = self._protected.get(key)
        if entry is not None:
            self._protected.move_to_end(key)
        else:
            entry = self._probation.pop(key, None)
            if entry is None:
                return None
            self._protected[key] = entry
        return entry.representation, max(self._applied_through, entry.representation.position)

    def begin_read(self) -> int | None:
        """Return the token that `put` needs after the read; None while nothing may be cached."""
        return self._flushes if self._enabled else None

    def put(self, key: Key, representation: Representation, tags: frozenset[str], token: int | None) -> None:
        """Cache a response, unless something it depends on has changed since its snapshot."""
        position = representation.position
        changed = any(self._changed.get(tag, 0) > position for tag in tags)
        if token != self._flushes or not self._enabled or position < self._floor or changed:
            return
        size = len(representation.body) + len(key.query) + ENTRY_OVERHEAD_BYTES + TAG_BYTES * len(tags)
        if size > self._bytes_max * PROBATION_SHARE:
            return
        self._remove(key)
        shared = tuple(self._by_tag.setdefault(tag, _Tag(tag, set())) for tag in tags)
        self._probation[key] = _Entry(representation, shared, size)
        self.bytes_used += size
        for tag in shared:
            tag.keys.add(key)
        self._evict()

    def _evict(self) -> None:
        while self.bytes_used > self._bytes_max:
            # Evict from probation until it is down to its share; then the least recently used protected entry.
            is_small = len(self._probation) <= PROBATION_SHARE * (len(self._probation) + len(self._protected))
            queue = self._protected if is_small and self._protected else self._probation
            self._remove(next(iter(queue)))

    def _remove(self, key: Key) -> None:
        entry = self._probation.pop(key, None) or self._protected.pop(key, None)
        if entry is None:
            return
        self.bytes_used -= entry.size
        for tag in entry.tags:
            tag.keys.discard(key)
            if not tag.keys:
                del self._by_tag[tag.name]
