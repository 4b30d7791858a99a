"""Subcommands about recovery: `backup`, `restore` and `correct`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import rich_click as click

from ops.cli.group import JSON, Text, cli, run_command, with_database
from ops.environment import operator_settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

INT64_MAX = 2**63 - 1
ONLY = click.option("--only", type=click.Choice(["stream", "database"]), help="Only this part of it.")


@cli.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@ONLY
@JSON
def backup(folder: Path, only: Any, as_json: bool) -> None:  # noqa: ANN401 - click's choice
    """Back up the stream and the control tables into a new DIR, while everything runs.

    The read model is not in it: a projector writes it again from the stream. The control tables hold what the stream
    does not: API keys, audit, discarded events, ended jobs and erasures. DIR holds personal data; store it encrypted.
    """
    from ops.backup.command import backup as run  # noqa: PLC0415

    _run(only, lambda connection, settings: run(connection, settings, folder, only, as_json=as_json))


@cli.command()
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@ONLY
@click.option("--replicas", type=click.IntRange(1, 5), help="Replicas of the restored stream, if not as before.")
@click.option("--check", is_flag=True, help="Only verify that the backup is complete and unchanged.")
@JSON
def restore(folder: Path, only: Any, replicas: int | None, check: bool, as_json: bool) -> None:  # noqa: ANN401
    """Restore the backup in DIR into a broker without the stream, and into an empty, migrated database.

    Positions are restored too. The backup is verified first, and nothing is written if
    it is damaged or the target is in use. Stop the projectors before; afterwards start them, and the read model is
    written again.
    """
    from ops.backup import command  # noqa: PLC0415

    if check:
        raise SystemExit(command.check(folder, as_json=as_json))
    _run(
        only,
        lambda connection, settings: command.restore(connection, settings, folder, only, replicas, as_json=as_json),
    )


def _run(only: str | None, work: "Callable[[asyncpg.Connection | None, Any], Awaitable[int]]") -> None:
    """Run with a database connection if there is one to use: the stream alone needs none."""
    if only == "stream":
        settings = operator_settings("nats_url", optional={"database_url"})
    else:
        settings = operator_settings(*(["database_url"] if only == "database" else ["database_url", "nats_url"]))
    if settings.database_url:
        run_command(with_database(settings.database_url, lambda connection: work(connection, settings)))
    run_command(work(None, settings))  # type: ignore[arg-type]  # a coroutine is awaitable


@cli.command()
@click.option("--customer", "customer_id", type=click.UUID, help="The customer; with --campaign: its target there.")
@click.option("--campaign", "campaign_id", type=click.UUID, help="The campaign's definition, status and deletion.")
@click.option("--counters", is_flag=True, help="With --campaign alone: its counters instead.")
@click.option("--above", type=click.IntRange(0, INT64_MAX), help="Default: a day ahead of the clock, in microseconds.")
@click.option("--reason", required=True, type=Text(), help="Why; kept in the audit.")
@click.option("--dry-run", is_flag=True, help="Show which events would be removed and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def correct(  # noqa: PLR0917 - click passes them by name
    customer_id: object,
    campaign_id: object,
    counters: bool,
    above: int | None,
    reason: str,
    dry_run: bool,
    yes: bool,
) -> None:
    """Remove the events of one customer, campaign, target or counters whose version is too high.

    Until versions exceed it, a too high version makes all later events of its entity superseded. This removes such
    events from the stream, stores the entity's other events again, unchanged, and derives its rows again. Every rebuild
    agrees.
    """
    from campaign_membership_client.versions import AHEAD_MAX_US, now_us  # noqa: PLC0415
    from ops.correct import correct as run  # noqa: PLC0415
    from ops.correction_plan import versioned  # noqa: PLC0415

    if customer_id is None and campaign_id is None:
        raise click.UsageError("Name what to correct: --customer ID, --campaign ID, or both for a target.")
    if counters and (campaign_id is None or customer_id is not None):
        raise click.UsageError("--counters needs --campaign alone.")
    if not dry_run and not yes:
        raise click.UsageError("Removed events cannot be brought back; look at --dry-run first, then add --yes.")
    ids = [None if one is None else str(one) for one in (customer_id, campaign_id)]
    what = versioned(ids[0], ids[1], counters=counters)
    limit = now_us() + AHEAD_MAX_US if above is None else above
    settings = operator_settings("database_url", "nats_url")
    work = lambda connection: run(connection, settings, what, limit, reason=reason, dry_run=dry_run)  # noqa: E731
    run_command(with_database(settings.database_url, work))
