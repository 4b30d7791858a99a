"""Subcommands about events: `publish` and `parked`."""

from typing import IO

import rich_click as click

from ops.cli.group import JSON, POSITION, ParkingReason, Rate, Text, cli, run_command, with_database
from ops.environment import operator_settings


@cli.command()
@click.argument("file", type=click.File("rb"))
@click.option("--skip-bad", is_flag=True, help="Publish the valid lines even if others are bad.")
@JSON
def publish(file: IO[bytes], skip_bad: bool, as_json: bool) -> None:
    """Publish CloudEvents from FILE, one JSON object per line; `-` reads standard input.

    Every line is first checked with the code that reads the stream. Subject and message id are derived from the
    event, so publishing a file twice changes nothing. If any line is bad, nothing is sent.
    """
    from ops.publish import publish as run  # noqa: PLC0415

    run_command(run(operator_settings("nats_url", optional={"database_url"}), file, skip_bad=skip_bad, as_json=as_json))


@cli.group()
def parked() -> None:
    """Manage events that could not be applied. They are kept in full; the projection continues without them."""


REASON = click.option(
    "--reason", type=ParkingReason(), help="Only events parked for this reason, such as invalid_field."
)
SUBJECT = click.option("--subject", "subject_prefix", type=Text(), help="Only events whose subject has this prefix.")


@parked.command("list")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000), help="Maximum number of rows.")
@REASON
@SUBJECT
def parked_list(limit: int, reason: str | None, subject_prefix: str | None) -> None:
    """Count the parked events by reason and list the newest."""
    from ops.parked import list_parked  # noqa: PLC0415
    from projections.maintenance.parking import Filter  # noqa: PLC0415

    selection = Filter(reason, subject_prefix)
    url = operator_settings("database_url").database_url
    run_command(with_database(url, lambda connection: list_parked(connection, selection, limit)))


@parked.command("show")
@click.argument("position", type=POSITION)
def parked_show(position: int) -> None:
    """Print the parked event at a stream POSITION: subject, headers, reason, body."""
    from ops.parked import show_parked  # noqa: PLC0415

    run_command(
        with_database(
            operator_settings("database_url").database_url, lambda connection: show_parked(connection, position)
        )
    )


@parked.command("retry")
@click.argument("positions", type=POSITION, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All parked events, or all that match the filters.")
@REASON
@SUBJECT
@click.option("--max-rate", default=1000, show_default=True, type=Rate(), help="Maximum events per second.")
@click.option("--yes", is_flag=True, help="With --all: do not ask for confirmation.")
def parked_retry(  # noqa: PLR0917 - click passes them by name
    positions: tuple[int, ...],
    everything: bool,
    reason: str | None,
    subject_prefix: str | None,
    max_rate: int,
    yes: bool,
) -> None:
    """Retry parked events with the code of this release, and apply those that it can read.

    Give POSITIONS, or --all. Exits 1 if any is still parked. Every retry is recorded in the audit.
    """
    from ops import parked as events  # noqa: PLC0415
    from projections.maintenance.parking import Filter  # noqa: PLC0415

    if positions and everything:
        raise click.UsageError("Give positions or --all, not both.")
    if not positions and not everything:
        raise click.UsageError("Give the positions to retry, or --all.")
    if positions and (reason or subject_prefix):
        raise click.UsageError("--reason and --subject require --all; they do not apply to positions.")
    url = operator_settings("database_url").database_url
    if everything:
        selection = Filter(reason, subject_prefix)
        run_command(with_database(url, lambda connection: events.retry_all(connection, selection, max_rate, yes=yes)))
    run_command(with_database(url, lambda connection: events.retry(connection, sorted(set(positions)), max_rate)))


@parked.command("discard")
@click.argument("positions", type=POSITION, nargs=-1, required=True)
@click.option("--reason", required=True, type=Text(), help="Why they must never be applied; kept in the audit.")
def parked_discard(positions: tuple[int, ...], reason: str) -> None:
    """Discard the parked event at each of these POSITIONS. The stream keeps it, the audit records the reason.

    A rebuild does not park them again. A release that can read them applies them at its next rebuild.
    """
    from ops.parked import discard  # noqa: PLC0415

    if not reason.strip():
        raise click.BadParameter("give a reason; the next operator has no other record.", param_hint="--reason")
    url = operator_settings("database_url").database_url
    run_command(with_database(url, lambda connection: discard(connection, sorted(set(positions)), reason.strip())))
