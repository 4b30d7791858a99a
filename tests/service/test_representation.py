"""Content negotiation keeps nothing that grows with a caller's header; compression in parts is lossless."""

import gzip

from service import representation
from service.representation import ACCEPT_ENCODING_CHARS_MAX, GzipParts, accepts_gzip


def test_a_long_list_of_encodings_is_neither_parsed_nor_cached() -> None:
    size_before = representation._accepts_gzip.cache_info().currsize
    for number in range(100):
        assert not accepts_gzip(f"gzip, x{number};q=0.5" + ", y" * ACCEPT_ENCODING_CHARS_MAX)
    assert representation._accepts_gzip.cache_info().currsize == size_before
    assert accepts_gzip("gzip, deflate, br, zstd")


def test_a_body_compressed_in_parts_decompresses_to_the_body() -> None:
    parts = [b"a" * 100_000, b"", b"b", b"c" * 5]
    compressor = GzipParts()
    assert gzip.decompress(b"".join([*map(compressor.add, parts), compressor.end()])) == b"".join(parts)
