"""Subcommands about events: `publish` and `parked`."""

from typing import IO

import rich_click as click

from ops.cli.group import JSON, POSITION, ParkingReason, Rate, Text, cli, run_command, with_database
from ops.environment import operator_settings


@cli.command()
@click.argument("file", type=click.File("rb"))
@click.option("--skip-bad", is_flag=True, help="Publish the good lines even if others are bad.")
@JSON
def publish(file: IO[bytes], skip_bad: bool, as_json: bool) -> None:
    """Publish CloudEvents from FILE, one JSON object a line; `-` reads standard input.

    Every line is checked first, with the very code that reads the stream. Subject and message id follow from the
    event, so publishing a file twice changes nothing. If any line is bad, nothing is sent.
    """
    from ops.publish import publish as run  # noqa: PLC0415

    run_command(run(operator_settings("nats_url", optional={"database_url"}), file, skip_bad=skip_bad, as_json=as_json))


@cli.group()
def parked() -> None:
    """Look at events that could not be applied. They are kept whole; the projection goes on without them."""


REASON = click.option("--reason", type=ParkingReason(), help="Only those parked for it, such as invalid_field.")
SUBJECT = click.option("--subject", "subject_prefix", type=Text(), help="Only those whose subject begins like this.")


@parked.command("list")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000), help="Rows at most.")
@REASON
@SUBJECT
def parked_list(limit: int, reason: str | None, subject_prefix: str | None) -> None:
    """Count the parked events by reason and list the newest."""
    from ops.parked import list_parked  # noqa: PLC0415
    from projections.maintenance.parking import Filter  # noqa: PLC0415

    wanted = Filter(reason, subject_prefix)
    url = operator_settings("database_url").database_url
    run_command(with_database(url, lambda each: list_parked(each, wanted, limit)))


@parked.command("show")
@click.argument("position", type=POSITION)
def parked_show(position: int) -> None:
    """Print the parked event at a stream POSITION whole: subject, headers, reason, body."""
    from ops.parked import show_parked  # noqa: PLC0415

    run_command(with_database(operator_settings("database_url").database_url, lambda each: show_parked(each, position)))


@parked.command("retry")
@click.argument("positions", type=POSITION, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of them, or all that the filters leave.")
@REASON
@SUBJECT
@click.option("--max-rate", default=1000, show_default=True, type=Rate(), help="Events a second at most.")
@click.option("--yes", is_flag=True, help="With --all: do not ask.")
def parked_retry(  # noqa: PLR0917 - click passes them by name
    positions: tuple[int, ...],
    everything: bool,
    reason: str | None,
    subject_prefix: str | None,
    max_rate: int,
    yes: bool,
) -> None:
    """Read parked events again, through the code of this release; what it can read is applied.

    Name POSITIONS, or --all. Exits 1 if any is still parked. Every retry leaves an audit row.
    """
    from ops import parked as events  # noqa: PLC0415
    from projections.maintenance.parking import Filter  # noqa: PLC0415

    if bool(positions) == everything:
        raise click.UsageError("Name the positions to retry, or --all.")
    if positions and (reason or subject_prefix):
        raise click.UsageError("--reason and --subject go with --all; positions are exact already.")
    url = operator_settings("database_url").database_url
    if everything:
        wanted = Filter(reason, subject_prefix)
        run_command(with_database(url, lambda each: events.retry_all(each, wanted, max_rate, yes=yes)))
    run_command(with_database(url, lambda each: events.retry(each, sorted(set(positions)), max_rate)))


@parked.command("discard")
@click.argument("positions", type=POSITION, nargs=-1, required=True)
@click.option("--reason", required=True, type=Text(), help="Why they are never to be applied; kept in the audit.")
def parked_discard(positions: tuple[int, ...], reason: str) -> None:
    """Take the events at these POSITIONS off the list for good. The stream keeps them, the audit says why.

    A rebuild does not park them again. A release that can read them applies them when it next rebuilds.
    """
    from ops.parked import discard  # noqa: PLC0415

    if not reason.strip():
        raise click.BadParameter("say why; it is all that the next operator will know.", param_hint="--reason")
    url = operator_settings("database_url").database_url
    run_command(with_database(url, lambda each: discard(each, sorted(set(positions)), reason.strip())))
