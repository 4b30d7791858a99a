"""Free ports of 127.0.0.1 that stay free while a server restarts."""

import random
import socket
from typing import Final

PORTS: Final = range(10_000, 32_768)
"""Below Linux's ephemeral range: a client that reconnects to a stopped server must not get that port as its own."""
TRIES_MAX: Final = 200


def is_free(port: int) -> bool:
    """Return whether a server could listen on this port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """Return a port that is free now; nothing keeps it free."""
    for port in random.sample(PORTS, TRIES_MAX):
        if is_free(port):
            return port
    raise OSError(f"none of {TRIES_MAX} ports from {PORTS.start} to {PORTS.stop - 1} is free")
