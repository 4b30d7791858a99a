"""Recognises input of `membership publish` that is not NDJSON, to report one error instead of one per line."""

import codecs
import json
from typing import Final

from projections.maintenance.sentences import counted

HEAD_BYTES_MAX: Final = 256 * 1024
"""Bytes of the input that are examined; the largest event, so an event that spans lines fits."""
EXCERPT_CHARS: Final = 60
"""Characters of the first line that are quoted, enough to recognise it."""
EXPECTED: Final = "`membership publish` reads NDJSON: one event per line, each a JSON object."


def reason_of_text(head: bytes, lines: int) -> str:
    """Describe input without any JSON object, and the expected format; `head` is its beginning."""
    text = head.decode(errors="replace").lstrip()
    if "\0" in text or "\ufffd" in text[:EXCERPT_CHARS]:
        return f"The input is not UTF-8 text. {EXPECTED}"
    first = text.splitlines()[0]
    delimited = next(
        (name for delimiter, name in ((",", "CSV"), ("\t", "TSV"), (";", "CSV")) if delimiter in first), ""
    )
    what = f"looks like {delimited}" if delimited else "is in another format"
    return f"None of the {counted(lines, 'line')} is a JSON object; the input {what}: {_excerpt(first)}. {EXPECTED}"


def reason_of_json(head: bytes) -> str:
    """Name the conversion for a JSON array, an object that spans lines, or a byte order mark; empty otherwise.

    The first value decides: a file is usually pretty-printed as a whole.
    """
    if head.startswith(codecs.BOM_UTF8):
        return (
            f"The input begins with a byte order mark. {EXPECTED} `sed '1s/^\\xef\\xbb\\xbf//' FILE` removes the mark."
        )
    text = head.decode(errors="replace").lstrip()
    if text.startswith("["):
        return f"The input is a JSON array. {EXPECTED} `jq -c '.[]' FILE` converts it."
    line_count = _lines_of_first_object(text) if text.startswith("{") else 1
    return (
        f"The first JSON object spans {line_count} lines. {EXPECTED} `jq -c . FILE` converts it."
        if line_count > 1
        else ""
    )


def _lines_of_first_object(text: str) -> int:
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return 1
    return text.count("\n", 0, end) + 1


def _excerpt(first: str) -> str:
    return repr(first if len(first) <= EXCERPT_CHARS else f"{first[:EXCERPT_CHARS]}…")
