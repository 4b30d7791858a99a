"""The issuer's current keys: read in the background, and at once for an unknown key id, but rarely.

Invariants: one read at a time; tokens cause at most one in UNKNOWN_KEY_PAUSE_S; a failed read keeps the keys that are
known, for `jwks_stale_max_s` after they were last read; whoever remembers verified tokens is told when a key changes.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import structlog
from msgspec import Struct

from projections.error_text import error_text
from projections.errors import SettingsInvalid
from projections.log_once import LogOnce
from projections.settings import Settings
from service import metrics
from service.identity import key_set
from service.identity.key_set import KeySet, KeySetInvalid, VerificationKey
from service.identity.key_sources import FileSource, KeySetUnavailable, KeySource, UrlSource, authorities

REFRESH_EVERY_S: Final = 25.0
"""From the end of one read to the next, which takes FETCH_DEADLINE_S at most: a key that the issuer adds is known, and
one that it removes is refused, within 30 s."""
RETRY_EVERY_S: Final = 3.0
"""Between two reads while the keys of a source are not known."""
UNKNOWN_KEY_PAUSE_S: Final = 30.0
"""After a read that a token's unknown key id caused, before the next such read."""
UNKNOWN_KEY_WAIT_S: Final = 2.0
"""How long a token with an unknown key id waits for that read."""
START_WAIT_S: Final = 2.0
"""How long a starting process waits for the first read; then it starts without keys."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class _KnownKeys(Struct):
    """The last key set of one source."""

    source: KeySource
    key_set: KeySet
    read_at: float
    failure: LogOnce


class IssuerKeys:
    """The keys of all configured sources."""

    def __init__(
        self,
        sources: Sequence[KeySource],
        algorithms: Sequence[str],
        stale_max_s: float,
        *,
        refresh_every_s: float = REFRESH_EVERY_S,
    ) -> None:
        self._known = [_KnownKeys(source, KeySet(()), -stale_max_s, LogOnce()) for source in sources]
        self._algorithms = frozenset(algorithms)
        self._stale_max_s = stale_max_s
        self._refresh_every_s = refresh_every_s
        self._requested = asyncio.Event()
        self._reading = False
        self._read = asyncio.Event()
        """Set when the read in progress, or the next one, has ended; then replaced."""
        self._next_request_at = 0.0
        self._announced: frozenset[object] = frozenset()
        self.on_change: Callable[[], None] = lambda: None
        """Called after a key was added, changed or removed."""

    @property
    def configured(self) -> bool:
        """Whether there is a source at all."""
        return bool(self._known)

    @property
    def complete(self) -> bool:
        """Whether the keys of every source are known; before its first read, or long after the last, they are not."""
        return all(self._is_valid(known) for known in self._known)

    def current(self) -> list[VerificationKey]:
        """Return the keys that are valid now, of the sources whose keys are known."""
        return [key for known in self._known if self._is_valid(known) for key in known.key_set.keys]

    def _is_valid(self, known: _KnownKeys) -> bool:
        return time.monotonic() - known.read_at < self._stale_max_s

    async def wait_for_first_read(self) -> None:
        """Wait until every source was read once, or failed, but not for long."""
        if self._known:
            await self._wait(self._read, START_WAIT_S)

    async def refresh_for_unknown_key(self) -> None:
        """Have the sources read again, unless a token has caused that recently; wait for a read in progress."""
        now = time.monotonic()
        if now >= self._next_request_at:
            self._next_request_at = now + UNKNOWN_KEY_PAUSE_S
            self._requested.set()
        if self._requested.is_set() or self._reading:
            await self._wait(self._read, UNKNOWN_KEY_WAIT_S)

    async def keep_fresh(self) -> None:
        """Read the sources again and again; run it under supervision."""
        while True:
            self._requested.clear()
            self._reading = True
            for known in self._known:
                await self._refresh(known)
            self._reading = False
            self._announce()
            read, self._read = self._read, asyncio.Event()
            read.set()
            await self._wait(self._requested, self._refresh_every_s if self.complete else RETRY_EVERY_S)

    async def close(self) -> None:
        """Close all sources."""
        for known in self._known:
            await known.source.close()

    async def _refresh(self, known: _KnownKeys) -> None:
        try:
            known.key_set = key_set.parse(await known.source.read(), self._algorithms)
        except (KeySetUnavailable, KeySetInvalid) as problem:
            metrics.KEY_SET_READS.labels("failed").inc()
            known.failure.warning("key_set_unavailable", f"{known.source.name}: {problem}")
            return
        known.read_at = time.monotonic()
        known.failure.reset()
        metrics.KEY_SET_READS.labels("read").inc()

    def _announce(self) -> None:
        keys = frozenset(key.identity for key in self.current())
        if keys == self._announced:
            return
        self._announced = keys
        self.on_change()
        if keys:
            ignored = [reason for known in self._known for reason in known.key_set.ignored]
            log.info("issuer_keys_changed", keys=len(keys), ignored=ignored)
        else:
            log.warning("issuer_keys_expired")

    @staticmethod
    async def _wait(event: asyncio.Event, limit_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await event.wait()


def from_settings(settings: Settings) -> IssuerKeys:
    """Return the keys of a configuration; raises `SettingsInvalid` for a file that is no key set or no certificate.

    An unreachable URL is no error: the process starts, and tokens that need its keys get 503.
    """
    require_usable(settings)
    sources: list[KeySource] = []
    if settings.jwks_file:
        sources.append(FileSource(settings.jwks_file))
    if settings.jwks_url:
        sources.append(UrlSource(settings.jwks_url, authorities(settings.jwks_ca_file)))
    return IssuerKeys(sources, settings.jwks_algorithms, settings.jwks_stale_max_s)


def require_usable(settings: Settings) -> None:
    """Raise `SettingsInvalid` if a file that the settings name cannot be used."""
    if problems := [*_key_set_problems(settings), *_certificate_problems(settings)]:
        raise SettingsInvalid(problems)


def _certificate_problems(settings: Settings) -> list[str]:
    path = settings.jwks_ca_file
    if not (path or settings.jwks_url):
        return []
    try:
        authorities(path)
    except OSError as problem:  # ssl.SSLError is one
        name = f"MEMBERSHIP_JWKS_CA_FILE ({path!r})" if path else "The file in SSL_CERT_FILE"
        return [f"{name} has no readable PEM certificates: {error_text(problem)}."]
    return []


def _key_set_problems(settings: Settings) -> list[str]:
    if not settings.jwks_file:
        return []
    try:
        key_set.parse(FileSource(settings.jwks_file).read_now(), settings.jwks_algorithms)
    except KeySetUnavailable as problem:
        return [f"MEMBERSHIP_JWKS_FILE: {problem}."]
    except KeySetInvalid as problem:
        return [f"MEMBERSHIP_JWKS_FILE: {settings.jwks_file!r} cannot be used as a key set: {problem}."]
    return []
