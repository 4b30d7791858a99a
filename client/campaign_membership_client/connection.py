"""The connection of a publisher: it knows why the broker refuses, and whether a stream owns the subjects.

Reads: nothing of the stream. The check at connect publishes, on each subject family, a message that the broker must
refuse because it names another stream: nothing is stored, and the reply proves that a stream owns the subject and that
the account may publish there. It needs no right but that of publishing.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from nats.aio.client import Client
from nats.errors import AuthorizationError, NoRespondersError
from nats.errors import Error as NatsError

from campaign_membership_client.batches import Unstored, stream_exists
from campaign_membership_client.contract.events import SUBJECT_IDS, SUBJECT_ROOT
from campaign_membership_client.errors import (
    BrokerFull,
    BrokerUnavailable,
    JetStreamOff,
    NotPermitted,
    PublishError,
    StreamNotFound,
)

CONNECT_TIMEOUT_S: Final = 2
PROBE_TIMEOUT_S: Final = 5.0
RECONNECT_S: Final = 0.25
VIOLATIONS_MAX: Final = 1_000
"""Refused subjects that are remembered; a message about a later one says less."""
_NO_ID: Final = "00000000-0000-0000-0000-000000000000"
_ANOTHER_STREAM: Final = "no-stream-of-this-name"
_OTHER_STREAM_CODE: Final = 10060
_VIOLATION: Final = re.compile(r'permissions violation for (publish|subscription) to "([^"]+)"', re.IGNORECASE)


class Connection:
    """A nats-py client that remembers which subjects the server refused."""

    def __init__(self, servers: str | Sequence[str], options: Mapping[str, Any], stream: str) -> None:
        self._servers = [server.strip() for server in servers.split(",")] if isinstance(servers, str) else list(servers)
        self._options = dict(options)
        self._stream = stream
        self._violations: dict[str, str] = {}
        self._refused = asyncio.Condition()
        self.client = Client()

    async def open(self, name: str) -> None:
        """Connect, and check that a stream owns the subjects; raises a `PublishError`."""
        try:
            await self._connect_once(name)
            await self.client.connect(
                self._servers,
                name=name,
                max_reconnect_attempts=-1,
                connect_timeout=CONNECT_TIMEOUT_S,
                **(self._options | {"error_cb": self._note, "reconnect_time_wait": RECONNECT_S}),
            )
        except (NatsError, OSError) as problem:
            raise BrokerUnavailable(self._why(problem)) from None
        try:
            await self._check_subjects()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close; events without a receipt may or may not be stored."""
        if not self.client.is_connected:
            # nats-py would write what is pending to a closed socket, and its error would hide the caller's.
            self.client._pending.clear()  # noqa: SLF001 - has no public way; the version of nats-py is bounded
            self.client._pending_data_size = 0  # noqa: SLF001 - the same
        await self.client.close()

    async def _connect_once(self, name: str) -> None:
        """Find out within seconds whether the broker can be used: nats-py would retry a first connect without limit."""
        probe = Client()
        options = self._options | {"error_cb": _ignore_error}
        try:
            await probe.connect(
                self._servers,
                name=name,
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=CONNECT_TIMEOUT_S,
                **options,
            )
        finally:
            await probe.close()

    async def _check_subjects(self) -> None:
        """Raise unless the account may publish on one family at least: a producer may own only some of them."""
        outcomes = await asyncio.gather(*(self._subject_error(family) for family in SUBJECT_IDS))
        errors = [error for error in outcomes if error is not None]
        decisive = [error for error in errors if not isinstance(error, NotPermitted)]
        if decisive or len(errors) == len(outcomes):
            raise (decisive or errors)[0]

    async def _subject_error(self, family: str) -> PublishError | None:
        subject = ".".join([SUBJECT_ROOT, family, *[_NO_ID] * len(SUBJECT_IDS[family])])
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                reply = await self._reply_or_violation(subject)
        except NoRespondersError as problem:
            return await self.explain(Unstored(problem, subject))
        except (NatsError, OSError) as problem:
            return BrokerUnavailable(self._why(problem))
        if isinstance(reply, NotPermitted):
            return reply
        answer = msgspec.json.decode(reply)
        owner = answer.get("stream", "") if isinstance(answer, dict) else ""
        return None if owner in {"", self._stream} else StreamNotFound(self._stream, subject, owner)

    async def _reply_or_violation(self, subject: str) -> bytes | NotPermitted:
        headers = {"Nats-Expected-Stream": _ANOTHER_STREAM}
        request = asyncio.ensure_future(
            self.client.request(subject, b"", timeout=PROBE_TIMEOUT_S, headers=headers),
        )
        refusal = asyncio.ensure_future(self._refusal_of(subject))
        try:
            await asyncio.wait({request, refusal}, return_when=asyncio.FIRST_COMPLETED)
            return refusal.result() if refusal.done() else (await request).data
        finally:
            for task in (request, refusal):
                task.cancel()
            await asyncio.gather(request, refusal, return_exceptions=True)

    async def _refusal_of(self, subject: str) -> NotPermitted:
        async with self._refused:
            await self._refused.wait_for(lambda: self._violation_of(subject))
        return NotPermitted(subject, self._violation_of(subject))

    async def explain(self, unstored: Unstored) -> PublishError:
        """Return why events were not stored before the deadline, as far as the broker tells."""
        if violation := self._violation_of(unstored.subject):
            return NotPermitted(unstored.subject, violation)
        exists = await stream_exists(self.client, self._stream)
        if unstored.unanswered:
            # JetStream's own API does not answer where it is off; it may also be forbidden to a producer.
            silent = exists is None and not self._violation_of("$JS.API")
            return JetStreamOff() if silent else StreamNotFound(self._stream, unstored.subject)
        if exists:
            reason = (
                "it answers, but stores nothing. nats-server stops storing when its disk is full, and stores again "
                "only after a restart: check its log and its /healthz, free disk space, restart it"
            )
            return BrokerFull(reason)
        return BrokerUnavailable(self._why(unstored.problem))

    def _violation_of(self, subject: str) -> str:
        return next(
            (text for refused, text in self._violations.items() if refused.startswith((subject, "_INBOX."))), ""
        )

    def _why(self, problem: BaseException) -> str:
        hosts = ", ".join(re.sub(r"^[a-z]+://(?:[^@/]*@)?", "", server) for server in self._servers)
        if isinstance(problem, AuthorizationError) or "authorization violation" in str(problem).lower():
            return f"The broker at {hosts} rejects the credentials"
        text = " ".join(str(problem).split()).removeprefix("nats: ").rstrip(".")
        return f"The broker at {hosts} does not answer: {text or 'no answer in time'}"

    async def _note(self, problem: Exception) -> None:
        """Remember a refused subject: the server reports it outside of the request that it refuses."""
        found = _VIOLATION.search(str(problem))
        if found and len(self._violations) < VIOLATIONS_MAX:
            self._violations[found[2]] = found[0]
            async with self._refused:
                self._refused.notify_all()
        if "error_cb" in self._options:
            await self._options["error_cb"](problem)


async def _ignore_error(_problem: Exception) -> None:
    """Silence nats-py, which logs every attempt; the exception says the same."""
