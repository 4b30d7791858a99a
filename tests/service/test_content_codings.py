"""Codings are negotiated by weight, keep nothing that grows with a caller's header, and are lossless and bounded."""

import gzip
import tracemalloc
from random import Random

import pytest
import zstandard

from service import content_codings
from service.content_codings import (
    ACCEPT_ENCODING_CHARS_MAX,
    ContentCoding,
    GzipParts,
    compress,
    negotiated_coding,
    negotiated_coding_in_parts,
)

WINDOW_BYTES_MAX = 8 * 1024 * 1024
"""RFC 9659: a decoder of `Content-Encoding: zstd` may refuse a larger window, and browsers do."""

NEGOTIATED: dict[str, tuple[ContentCoding | None, ContentCoding | None]] = {
    "": (None, None),
    "identity": (None, None),
    "br": (None, None),
    "gzip": ("gzip", "gzip"),
    "GZip": ("gzip", "gzip"),
    "x-gzip": ("gzip", "gzip"),
    "zstd": ("zstd", None),
    "ZSTD": ("zstd", None),
    "gzip, deflate, br, zstd": ("zstd", "gzip"),
    "zstd,gzip": ("zstd", "gzip"),
    "gzip;q=1.0, zstd;q=0.9": ("gzip", "gzip"),
    "gzip;q=0.8, zstd;q=0.9": ("zstd", "gzip"),
    "gzip;q=0.5, zstd;q=0.5": ("zstd", "gzip"),
    "gzip;q=0, zstd": ("zstd", None),
    "gzip, zstd;q=0": ("gzip", "gzip"),
    "gzip;q=0, zstd;q=0.000": (None, None),
    "br;q=1.0, gzip;q=0.5": ("gzip", "gzip"),
    # `*` includes gzip only; a coding that is named is not affected by it.
    "*": ("gzip", "gzip"),
    "*;q=0": (None, None),
    "*;q=0, zstd": ("zstd", None),
    "gzip;q=0, *": (None, None),
    "zstd;q=0.5, *": ("gzip", "gzip"),
    "zstd;q=0, *": ("gzip", "gzip"),
    # The body as it is is preferred only if it is named with a higher weight.
    "identity, gzip": ("gzip", "gzip"),
    "identity;q=0.5, zstd;q=0.5": ("zstd", None),
    "identity, zstd;q=0.5, gzip;q=0.4": (None, None),
    "identity;q=0.5, zstd, gzip;q=0.1": ("zstd", None),
    "identity;q=0": (None, None),
    # Spaces are allowed; what is no weight counts as 0, and what is beyond 1 as 1.
    " zstd ; q=1 ,\tgzip": ("zstd", "gzip"),
    "zstd;q=x, gzip;q=0.1": ("gzip", "gzip"),
    "zstd;q=, gzip;q=nan": (None, None),
    "zstd;q=-1": (None, None),
    "zstd;q=1e999, gzip": ("zstd", "gzip"),
    "gzip;q=1e999, zstd": ("zstd", "gzip"),
    "zstdx, gzipped, pzstd": (None, None),
    ";q=1,,;,=": (None, None),
    "zstd;q=0, zstd": ("zstd", None),
    "\xff, zstd\xff": (None, None),
}


@pytest.mark.parametrize("accept_encoding", NEGOTIATED)
def test_the_coding_with_the_highest_weight_is_negotiated(accept_encoding: str) -> None:
    assert (negotiated_coding(accept_encoding), negotiated_coding_in_parts(accept_encoding)) == NEGOTIATED[
        accept_encoding
    ]


def test_a_long_list_of_encodings_is_neither_parsed_nor_cached() -> None:
    size_before = content_codings._remembered_coding.cache_info().currsize
    for number in range(100):
        accept_encoding = f"gzip, zstd, x{number};q=0.5" + ", y" * ACCEPT_ENCODING_CHARS_MAX
        assert negotiated_coding(accept_encoding) is None
        assert negotiated_coding_in_parts(accept_encoding) is None
    assert content_codings._remembered_coding.cache_info().currsize == size_before


def test_a_flood_of_distinct_values_is_remembered_within_a_limit() -> None:
    for number in range(3_000):
        assert negotiated_coding(f"zstd, x{number}") == "zstd"
    assert content_codings._remembered_coding.cache_info().currsize == 1_000


def decompressed(packed: bytes, coding: ContentCoding) -> bytes:
    return gzip.decompress(packed) if coding == "gzip" else zstandard.ZstdDecompressor().decompress(packed)


def bodies() -> list[bytes]:
    """Return bodies of very different sizes, one that does not compress and one that does very well."""
    rng = Random(1)
    sizes = (0, 1, 999, 7_000, 140_000, 400_000)
    return [*(rng.randbytes(size) for size in sizes), *(b'{"name":"x"},' * (size // 13) for size in sizes)]


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_a_compressed_body_decompresses_to_the_same_bytes(coding: ContentCoding) -> None:
    first = [compress(body, coding) for body in bodies()]
    assert [decompressed(packed, coding) for packed in first] == bodies()
    again = [compress(body, coding) for body in reversed(bodies())]
    assert again[::-1] == first, "the bytes depend on what was compressed before"


@pytest.mark.parametrize("body_bytes", [1_000, 140_000, 3 * WINDOW_BYTES_MAX])
def test_zstd_frames_have_a_window_that_browsers_accept(body_bytes: int) -> None:
    frame = zstandard.get_frame_parameters(compress(Random(1).randbytes(body_bytes), "zstd"))
    assert 0 < frame.window_size <= WINDOW_BYTES_MAX
    assert (frame.content_size, frame.dict_id) == (body_bytes, 0)


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_compressed_bytes_take_no_more_memory_than_their_length(coding: ContentCoding) -> None:
    body = b'{"name":"x"},' * 10_000
    compress(body, coding)
    tracemalloc.start()
    try:
        kept = [compress(body, coding) for _ in range(100)]
        in_use, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert in_use < 2 * sum(len(packed) + 100 for packed in kept)


def test_a_body_compressed_in_parts_decompresses_to_the_body() -> None:
    parts = [b"a" * 100_000, b"", b"b", b"c" * 5]
    compressor = GzipParts()
    assert gzip.decompress(b"".join([*map(compressor.add, parts), compressor.end()])) == b"".join(parts)
