"""The text of an exception for use inside a sentence: never empty, one line, no full stop at the end.

`str(error)` is not enough: asyncio's timeouts and some socket errors have no text. An exception is truthy even then,
so `error or "timeout"` prints nothing.
"""

import os
import ssl


def error_text(error: object) -> str:
    """Return the cause as the end of a sentence; a string instead of an exception is normalized the same way."""
    # `str` of a JetStream API error lists its fields; `description` is the broker's message.
    description = getattr(error, "description", None)
    return _one_line(_system_text(error) or str(description or error)) or _text_of_kind(error)


def _system_text(error: object) -> str:
    """Return the operating system's text for an error number: asyncio replaces it with the address alone."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if not isinstance(error, OSError) or error.errno is None or isinstance(error, ssl.SSLError):
        return ""  # an SSLError's number is OpenSSL's
    file = f": {error.filename}" if error.filename else ""
    text = os.strerror(error.errno)
    if text.startswith("Unknown error"):  # a resolver's errors (negative) have their own numbers
        text = error.strerror or text
    return f"{text}{file}"


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(". ")


def _text_of_kind(error: object) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
