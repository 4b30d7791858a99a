"""The `membership` command. Importing this package registers every subcommand."""

from ops.cli import access, events, jobs, processes, recovery
from ops.cli.group import cli, main

__all__ = ["access", "cli", "events", "jobs", "main", "processes", "recovery"]
