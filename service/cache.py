"""A bounded memory of answers in one API process, emptied of exactly what a commit of the projector has changed.

What an answer depends on is a set of tags: its customer, and the campaigns on its page. The projector's notices carry
the tags a batch has touched, and arrive in the order of the commits; so an answer that is still held after the notice
of position N is exact at N, whatever position it was read at.

Invariants: an answer read from a snapshot is remembered only if no notice that was heard since says otherwise; while
the listening connection is down nothing is held and nothing is answered.
Source of the two queues: a newcomer has to be asked for twice before it can push out what is asked for often, so a
flood of distinct requests passes through the small queue only.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, NamedTuple

from msgspec import Struct

from service.representation import Representation

BYTES_MAX: Final = 128 * 1024 * 1024
"""What answers, both queues together, may take; a share of the 300 MB a process may have."""
PROBATION_SHARE: Final = 0.2
ENTRY_OVERHEAD_BYTES: Final = 1_500
"""What Python keeps around an answer: its key, tags and places in four dictionaries. Measured, rounded up."""
TAG_BYTES: Final = 150
"""What a tag of an answer takes, in its own set and in the index."""
CHANGED_TAGS_MAX: Final = 100_000
"""Tags whose last change is remembered; beyond, all that is older than now counts as changed."""


class Key(NamedTuple):
    """What makes two requests the same: who may see what, and the very bytes of the request."""

    scope: str | None
    path: str
    query: bytes
    gzip: bool


class _Tag(Struct, gc=False):
    """A tag that held answers depend on. The answers share this object, so its text exists once and goes with them."""

    name: str
    keys: set[Key]


class _Entry(Struct, gc=False):
    representation: Representation
    tags: tuple[_Tag, ...]
    size: int


class Cache:
    """Remembers answers. Not thread-safe: one event loop, and no method waits."""

    def __init__(self, bytes_max: int = BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._probation: OrderedDict[Key, _Entry] = OrderedDict()
        self._protected: OrderedDict[Key, _Entry] = OrderedDict()
        self._by_tag: dict[str, _Tag] = {}
        self._changed: dict[str, int] = {}
        self._floor = 0
        self._applied_through = 0
        self._enabled = False
        self._flushes = 0
        self.bytes_used = 0
        """What is held now, overhead included."""

    # --- What the listener tells -------------------------------------------------------------------------------------

    def enable(self, position: int) -> None:
        """Begin: every commit after `position` will be told of."""
        self.flush()
        self._enabled = True
        self._applied_through = self._floor = position

    def disable(self) -> None:
        """Stop: commits may pass unheard from now on."""
        self.flush()
        self._enabled = False

    def flush(self, position: int = 0) -> None:
        """Forget everything, answers that are being read at this moment included.

        With a `position`, anything may have changed up to it: an older snapshot, of a lagging server, is not kept.
        """
        self._flushes += 1
        for held in (self._probation, self._protected, self._by_tag, self._changed):
            held.clear()
        self._floor = max(self._applied_through, position)
        self.bytes_used = 0

    def invalidate(self, tags: Iterable[str], position: int) -> None:
        """Forget the answers that depend on any of `tags`, which the batch that ends at `position` changed."""
        for tag in tags:
            self._changed[tag] = position
            held = self._by_tag.get(tag)
            for key in list(held.keys) if held is not None else ():
                self._remove(key)
        if len(self._changed) > CHANGED_TAGS_MAX:
            self._changed.clear()
            self._floor = position

    def advance(self, position: int) -> None:
        """Say that all changes up to `position` have been told."""
        self._applied_through = max(self._applied_through, position)

    @property
    def applied_through(self) -> int:
        """The position up to which changes have been told."""
        return self._applied_through

    def limit(self, bytes_max: int) -> None:
        """Take no more than this from now on."""
        self._bytes_max = bytes_max
        self._evict()

    # --- What requests ask -------------------------------------------------------------------------------------------

    def get(self, key: Key) -> tuple[Representation, int] | None:
        """Return an answer and the position it is exact at."""
        held = self._protected.get(key)
        if held is not None:
            self._protected.move_to_end(key)
        else:
            held = self._probation.pop(key, None)
            if held is None:
                return None
            self._protected[key] = held
        return held.representation, max(self._applied_through, held.representation.position)

    def begin_read(self) -> int | None:
        """Return what `remember` wants to know; None while nothing may be remembered."""
        return self._flushes if self._enabled else None

    def put(self, key: Key, answer: Representation, tags: frozenset[str], before: int | None) -> None:
        """Hold an answer, unless something it depends on has changed since its snapshot."""
        changed = any(self._changed.get(tag, 0) > answer.position for tag in tags)
        if before != self._flushes or not self._enabled or answer.position < self._floor or changed:
            return
        size = len(answer.body) + len(key.query) + ENTRY_OVERHEAD_BYTES + TAG_BYTES * len(tags)
        if size > self._bytes_max * PROBATION_SHARE:
            return
        self._remove(key)
        shared = tuple(self._by_tag.setdefault(tag, _Tag(tag, set())) for tag in tags)
        self._probation[key] = _Entry(answer, shared, size)
        self.bytes_used += size
        for tag in shared:
            tag.keys.add(key)
        self._evict()

    def _evict(self) -> None:
        while self.bytes_used > self._bytes_max:
            # The small queue gives way first, until it is small; then the answer that was not asked for longest.
            few = len(self._probation) <= PROBATION_SHARE * (len(self._probation) + len(self._protected))
            queue = self._protected if few and self._protected else self._probation
            self._remove(next(iter(queue)))

    def _remove(self, key: Key) -> None:
        held = self._probation.pop(key, None) or self._protected.pop(key, None)
        if held is None:
            return
        self.bytes_used -= held.size
        for tag in held.tags:
            tag.keys.discard(key)
            if not tag.keys:
                del self._by_tag[tag.name]
