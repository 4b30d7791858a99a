"""Content codings: which one a caller prefers, and bodies compressed with it.

Invariants: `compress` is called on the event loop's thread only, because its zstd compressor is reused; two threads at
once would crash the process.
Source: RFC 9110, 12.5.3 for the negotiation; RFC 8878 for zstd, and RFC 9659 for its window of at most 8 MB.
"""

import gzip
import zlib
from functools import lru_cache
from typing import Final, Literal, NamedTuple, assert_never

from zstandard import ZstdCompressor

ContentCoding = Literal["gzip", "zstd"]

CodingInParts = Literal["gzip"]
"""A body that is compressed as it is sent needs a compressor of its own: 0.3 MB for gzip, 1 to 1.4 MB for zstd."""

GZIP_LEVEL: Final = 4
"""Level 1 takes 22 % less time for 6 % more bytes on a page of 10 cards, and 35 % less for 15 % more on one of 200."""
GZIP_FORMAT: Final = 31
"""zlib's `wbits` for the largest window and a gzip header without a time."""
ZSTD_LEVEL: Final = 1
"""Limits the window to 512 KB. Level 3 takes a quarter longer: 1 % fewer bytes for 10 cards, and 2 % more for 200."""
COMPRESS_BYTES_MIN: Final = 1_000
"""Smaller bodies fit one network packet; compression gains nothing."""
ACCEPT_ENCODING_CHARS_MAX: Final = 500
"""Browsers send about 30. A longer value is not parsed, because results are cached; its response is not compressed."""


class Weights(NamedTuple):
    """How much a caller prefers each coding, from 0 (not acceptable) to 1."""

    zstd: float
    """Only if named: a caller who sends `*` may be older than zstd."""
    gzip: float
    identity: float
    """0 if not named: a body without coding is acceptable then, but not preferred."""


class GzipParts:
    """Compresses a body that comes in parts; may be called from another thread, one call at a time."""

    def __init__(self) -> None:
        self._compressor = zlib.compressobj(GZIP_LEVEL, wbits=GZIP_FORMAT)

    def add(self, part: bytes) -> bytes:
        """Return the compressed bytes that are ready, possibly none."""
        return self._compressor.compress(part)

    def end(self) -> bytes:
        """Return the remaining bytes."""
        return self._compressor.flush()


def compress(body: bytes, coding: ContentCoding) -> bytes:
    """Return the compressed body; the same bytes every time."""
    match coding:
        case "gzip":
            return gzip.compress(body, GZIP_LEVEL, mtime=0)
        case "zstd":
            # Copied, because zstandard returns bytes whose memory still has the length of the body.
            return bytes(memoryview(_ZSTD.compress(body)))
        case _:
            assert_never(coding)


def negotiated_coding(accept_encoding: str) -> ContentCoding | None:
    """Return the coding with the highest weight; None to send the body as it is.

    Of equal weights zstd is chosen: it takes a quarter of gzip's time, and its bodies are smaller.
    """
    return _remembered_coding(accept_encoding) if len(accept_encoding) <= ACCEPT_ENCODING_CHARS_MAX else None


def negotiated_coding_in_parts(accept_encoding: str) -> CodingInParts | None:
    """Return the coding of a body that is compressed as it is sent; None to send it as it is."""
    if len(accept_encoding) > ACCEPT_ENCODING_CHARS_MAX:
        return None
    weights = _weights(accept_encoding)
    return "gzip" if weights.gzip > 0 and weights.gzip >= weights.identity else None


@lru_cache(maxsize=1_000)
def _remembered_coding(accept_encoding: str) -> ContentCoding | None:
    weights = _weights(accept_encoding)
    highest = max(weights.zstd, weights.gzip)
    if highest <= 0 or highest < weights.identity:
        return None
    return "zstd" if weights.zstd == highest else "gzip"


def _weights(accept_encoding: str) -> Weights:
    sent: dict[str, float] = {}
    for part in accept_encoding.lower().split(","):
        coding, _, parameters = part.partition(";")
        sent[coding.strip()] = _weight(parameters)
    gzip_weight = sent.get("gzip", sent.get("x-gzip", sent.get("*", 0.0)))
    return Weights(sent.get("zstd", 0.0), gzip_weight, sent.get("identity", 0.0))


def _weight(parameters: str) -> float:
    """Return the weight, at most 1; 0 if it is not a number."""
    name, _, value = parameters.partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        weight = float(value)
    except ValueError:
        return 0.0
    return min(weight, 1.0) if weight > 0 else 0.0  # the comparison is false for NaN too


_ZSTD: Final = ZstdCompressor(level=ZSTD_LEVEL)
"""Reused: a new one for each body takes twice as long. It keeps up to 1.4 MB."""
