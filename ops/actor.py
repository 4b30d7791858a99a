"""Identifies the operator for the audit: the account and host that run the command."""

import getpass
import socket


def actor() -> str:
    """Return `account@host`."""
    try:
        account = getpass.getuser()
    except (KeyError, OSError):
        account = "unknown"
    return f"{account}@{socket.gethostname()}"
