"""Where key sets are read from: the issuer's URL, or a file. Every read has a deadline and a size limit.

Fails: `KeySetUnavailable`, with the cause as the end of a sentence.
"""

import asyncio
import ssl
from pathlib import Path
from typing import Final, Protocol

import httpx

from projections.error_text import error_text
from service.identity.key_set import KEY_SET_BYTES_MAX

FETCH_DEADLINE_S: Final = 5.0
"""From the lookup of the host's name to the last byte."""
_HEADERS: Final = {"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"}
"""Uncompressed: a few bytes could otherwise expand to any amount of memory."""


class KeySetUnavailable(Exception):
    """A key set could not be read."""


class KeySource(Protocol):
    """A place that a key set is read from."""

    name: str
    """For messages: the setting that names the place."""

    async def read(self) -> bytes:
        """Return the document; raises `KeySetUnavailable`."""

    async def close(self) -> None:
        """Close what the source has opened."""


def authorities(path: str) -> ssl.SSLContext:
    """Return the authorities in a PEM file, or the public ones; raises OSError for an unreadable file.

    The public ones are those of `certifi`, unless `SSL_CERT_FILE` or `SSL_CERT_DIR` replaces them.
    """
    return ssl.create_default_context(cafile=path) if path else httpx.create_ssl_context()


class UrlSource:
    """The URL at which an issuer publishes its keys. Redirects are refused: only the configured URL is trusted."""

    name = "MEMBERSHIP_JWKS_URL"

    def __init__(self, url: str, trusted: ssl.SSLContext) -> None:
        self._url = url
        self._client = httpx.AsyncClient(
            verify=trusted, headers=_HEADERS, follow_redirects=False, timeout=FETCH_DEADLINE_S
        )

    async def read(self) -> bytes:
        """Return the document."""
        try:
            async with asyncio.timeout(FETCH_DEADLINE_S), self._client.stream("GET", self._url) as response:
                _require_document(response)
                return await _body(response)
        except (httpx.HTTPError, OSError, TimeoutError) as problem:
            raise KeySetUnavailable(f"{self._url} cannot be read: {error_text(problem)}") from problem
        except _Unusable as problem:
            raise KeySetUnavailable(f"{self._url} {problem}") from None

    async def close(self) -> None:
        """Close the connection to the issuer."""
        await self._client.aclose()


class FileSource:
    """A file with a key set, such as a mounted secret; it is read again like a URL."""

    name = "MEMBERSHIP_JWKS_FILE"

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    async def read(self) -> bytes:
        """Return the document, read in a thread: the file may be on a network."""
        try:
            async with asyncio.timeout(FETCH_DEADLINE_S):
                return await asyncio.to_thread(self.read_now)
        except TimeoutError as problem:
            raise KeySetUnavailable(f"the file cannot be read: {error_text(problem)}") from problem

    def read_now(self) -> bytes:
        """Return the document."""
        try:
            with self._path.open("rb") as file:
                return file.read(KEY_SET_BYTES_MAX + 1)
        except OSError as problem:
            raise KeySetUnavailable(f"the file cannot be read: {error_text(problem)}") from problem

    async def close(self) -> None:
        """Do nothing: the file is closed after each read."""


class _Unusable(Exception):
    """A response is not a document; the text continues a sentence that begins with the URL."""


def _require_document(response: httpx.Response) -> None:
    if response.is_redirect:
        raise _Unusable("redirects, which is refused: configure the URL that it redirects to")
    if response.status_code != httpx.codes.OK:
        raise _Unusable(f"answered {response.status_code}")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise _Unusable("is compressed, although it was requested uncompressed")


async def _body(response: httpx.Response) -> bytes:
    body = bytearray()
    async for part in response.aiter_raw():
        body += part
        if len(body) > KEY_SET_BYTES_MAX:
            raise _Unusable(f"is larger than {KEY_SET_BYTES_MAX:,} bytes")
    return bytes(body)
