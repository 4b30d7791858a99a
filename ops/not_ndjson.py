"""Recognises input for `membership publish` that is no NDJSON at all, so that it gets one error and not one a line."""

import json
from typing import Final

from ops.terminal import counted

HEAD_BYTES_MAX: Final = 256 * 1024
"""How much of the input is looked at; an event has at most this many bytes, so one that spans lines fits."""
EXCERPT_CHARS: Final = 60
"""How much of the first line is repeated, enough to recognise it."""
EXPECTED: Final = "`membership publish` reads NDJSON: one event a line, each line one JSON object."


def reason_of_text(head: bytes, lines: int) -> str:
    """Describe input of which no line is a JSON object, and what is expected; `head` is how it begins."""
    text = head.decode(errors="replace").lstrip()
    if "\0" in text or "\ufffd" in text[:EXCERPT_CHARS]:
        return f"The input is no text in UTF-8. {EXPECTED}"
    first = text.splitlines()[0]
    separated = next((name for mark, name in ((",", "CSV"), ("\t", "TSV"), (";", "CSV")) if mark in first), "")
    what = f"looks like {separated}" if separated else "is in another format"
    return f"None of the {counted(lines, 'line')} is a JSON object; the input {what}: {_excerpt(first)}. {EXPECTED}"


def reason_of_json(head: bytes) -> str:
    """Name the way out for a JSON array, and for an object that spans lines; empty for anything else.

    The first value decides: whoever pretty-prints one pretty-prints all.
    """
    text = head.decode(errors="replace").lstrip()
    if text.startswith("["):
        return f"The input is a JSON array. {EXPECTED} `jq -c '.[]' FILE` converts it."
    spanned = _lines_of_first_object(text) if text.startswith("{") else 1
    return f"The first JSON object spans {spanned} lines. {EXPECTED} `jq -c . FILE` converts it." if spanned > 1 else ""


def _lines_of_first_object(text: str) -> int:
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return 1
    return text.count("\n", 0, end) + 1


def _excerpt(first: str) -> str:
    return repr(first if len(first) <= EXCERPT_CHARS else f"{first[:EXCERPT_CHARS]}…")
