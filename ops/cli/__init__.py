"""The `membership` command. Importing this package registers every subcommand."""

from ops.cli import access, contracts, events, jobs, processes, recovery
from ops.cli.group import cli, main

__all__ = ["access", "cli", "contracts", "events", "jobs", "main", "processes", "recovery"]
