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

from service.replies import Answer

BYTES_MAX: Final = 128 * 1024 * 1024
"""What answers, both queues together, may take; a share of the 300 MB a process may have."""
PROBATION_SHARE: Final = 0.2
ENTRY_OVERHEAD_BYTES: Final = 1_500
"""What Python keeps around an answer: its key, tags and places in four dictionaries. Measured, rounded up."""
TAG_BYTES: Final = 150
"""What a tag of an answer takes, in its own set and in the index."""
TOUCHED_MAX: Final = 100_000
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


class _Held(Struct, gc=False):
    answer: Answer
    tags: tuple[_Tag, ...]
    size: int


class Cache:
    """Remembers answers. Not thread-safe: one event loop, and no method waits."""

    def __init__(self, bytes_max: int = BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._probation: OrderedDict[Key, _Held] = OrderedDict()
        self._proven: OrderedDict[Key, _Held] = OrderedDict()
        self._by_tag: dict[str, _Tag] = {}
        self._touched: dict[str, int] = {}
        self._floor = 0
        self._heard = 0
        self._listening = False
        self._flushes = 0
        self.bytes_held = 0
        """What is held now, overhead included."""

    # --- What the listener tells -------------------------------------------------------------------------------------

    def listen_from(self, position: int) -> None:
        """Begin: every commit after `position` will be told of."""
        self.flush()
        self._listening = True
        self._heard = self._floor = position

    def deaf(self) -> None:
        """Stop: commits may pass unheard from now on."""
        self.flush()
        self._listening = False

    def flush(self, position: int = 0) -> None:
        """Forget everything, answers that are being read at this moment included.

        With a `position`, anything may have changed up to it: an older snapshot, of a lagging server, is not kept.
        """
        self._flushes += 1
        for held in (self._probation, self._proven, self._by_tag, self._touched):
            held.clear()
        self._floor = max(self._heard, position)
        self.bytes_held = 0

    def touched(self, tags: Iterable[str], position: int) -> None:
        """Forget the answers that depend on any of `tags`, which the batch that ends at `position` changed."""
        for tag in tags:
            self._touched[tag] = position
            held = self._by_tag.get(tag)
            for key in list(held.keys) if held is not None else ():
                self._forget(key)
        if len(self._touched) > TOUCHED_MAX:
            self._touched.clear()
            self._floor = position

    def reached(self, position: int) -> None:
        """Say that all changes up to `position` have been told."""
        self._heard = max(self._heard, position)

    @property
    def heard(self) -> int:
        """The position up to which changes have been told."""
        return self._heard

    def limit(self, bytes_max: int) -> None:
        """Take no more than this from now on."""
        self._bytes_max = bytes_max
        self._make_room()

    # --- What requests ask -------------------------------------------------------------------------------------------

    def find(self, key: Key) -> tuple[Answer, int] | None:
        """Return an answer and the position it is exact at."""
        held = self._proven.get(key)
        if held is not None:
            self._proven.move_to_end(key)
        else:
            held = self._probation.pop(key, None)
            if held is None:
                return None
            self._proven[key] = held
        return held.answer, max(self._heard, held.answer.position)

    def before_reading(self) -> int | None:
        """Return what `remember` wants to know; None while nothing may be remembered."""
        return self._flushes if self._listening else None

    def remember(self, key: Key, answer: Answer, tags: frozenset[str], before: int | None) -> None:
        """Hold an answer, unless something it depends on has changed since its snapshot."""
        changed = any(self._touched.get(tag, 0) > answer.position for tag in tags)
        if before != self._flushes or not self._listening or answer.position < self._floor or changed:
            return
        size = len(answer.body) + len(key.query) + ENTRY_OVERHEAD_BYTES + TAG_BYTES * len(tags)
        if size > self._bytes_max * PROBATION_SHARE:
            return
        self._forget(key)
        shared = tuple(self._by_tag.setdefault(tag, _Tag(tag, set())) for tag in tags)
        self._probation[key] = _Held(answer, shared, size)
        self.bytes_held += size
        for tag in shared:
            tag.keys.add(key)
        self._make_room()

    def _make_room(self) -> None:
        while self.bytes_held > self._bytes_max:
            # The small queue gives way first, until it is small; then the answer that was not asked for longest.
            few = len(self._probation) <= PROBATION_SHARE * (len(self._probation) + len(self._proven))
            queue = self._proven if few and self._proven else self._probation
            self._forget(next(iter(queue)))

    def _forget(self, key: Key) -> None:
        held = self._probation.pop(key, None) or self._proven.pop(key, None)
        if held is None:
            return
        self.bytes_held -= held.size
        for tag in held.tags:
            tag.keys.discard(key)
            if not tag.keys:
                del self._by_tag[tag.name]
