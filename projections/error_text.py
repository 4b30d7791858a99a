"""The text of an exception inside a sentence: never empty, one line, no full stop at its end.

`str(error)` is not enough: asyncio's timeouts and some socket errors have no text, and an exception is true even
without one, so `error or "timeout"` prints nothing.
"""

import os


def error_text(error: object) -> str:
    """Return what went wrong as the end of a sentence; a text given instead of an exception is cleaned likewise."""
    # An error of JetStream's API prints itself as its fields; `description` is the broker's own sentence.
    described = getattr(error, "description", None)
    return _one_line(_system_text(error) or str(described or error)) or _text_of_kind(error)


def _system_text(error: object) -> str:
    """Return the operating system's words for an error number: asyncio replaces them by the address alone."""
    if not isinstance(error, OSError) or error.errno is None:
        return ""
    named = f": {error.filename}" if error.filename else ""
    known = os.strerror(error.errno)  # but a resolver's errors (negative) have their own numbers
    return f"{error.strerror or known}{named}" if known.startswith("Unknown error") else f"{known}{named}"


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(". ")


def _text_of_kind(error: object) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
