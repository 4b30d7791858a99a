"""The text of an exception is never empty, whatever library raised it."""

import asyncio
import errno
import socket

import asyncpg
import nats.errors
import pytest

from projections.error_text import error_text


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (TimeoutError(), "no answer in time"),
        (asyncio.IncompleteReadError(b"", 4), "0 bytes read on a total of 4 expected bytes"),
        (ConnectionResetError(), "ConnectionResetError"),
        (OSError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 1)"), "Connection refused"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.txt"), "No such file or directory: a.txt"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service not known"),
        (nats.errors.TimeoutError(), "nats: timeout"),
        (asyncpg.PostgresConnectionError("unexpected\n  end."), "unexpected end"),
        (Exception(" . "), "Exception"),
        ("timeout.", "timeout"),
    ],
)
def test_an_error_always_has_a_text_without_a_full_stop(error: object, text: str) -> None:
    assert error_text(error) == text
