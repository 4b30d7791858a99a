"""Subcommands about events: `publish` and `parked`."""

import functools
from pathlib import Path
from typing import IO, Final

import rich_click as click

from ops.cli.group import JSON, POSITION, ParkingReason, Rate, Text, cli, run_command, with_database
from ops.environment import operator_settings

FIELD_COLUMN: Final = "FIELD=COLUMN"
FIELD_VALUE: Final = "FIELD=VALUE"


@cli.command()
@click.argument("file", type=click.File("rb"))
@click.option("--skip-bad", is_flag=True, help="Publish the valid lines even if others are bad.")
@click.option("--dry-run", is_flag=True, help="Check everything and send nothing.")
@click.option("--type", "event_type", type=Text(), help="FILE is a table: each row is an event of this type.")
@click.option("--source", type=Text(), help="The system that the rows come from, such as crm.")
@click.option("--map", "columns", multiple=True, metavar=FIELD_COLUMN, help="The column that gives a field.")
@click.option("--set", "constants", multiple=True, metavar=FIELD_VALUE, help="The same value for every row.")
@click.option("--mapping", type=click.Path(path_type=Path), help="A TOML file with type, source, columns, constants.")
@click.option(
    "--format", "table_format", type=click.Choice(["csv", "ndjson"]), help="Of a table; default: by FILE's name."
)
@click.option("--delimiter", default=",", show_default=True, help="Between the columns of a CSV table.")
@JSON
def publish(  # noqa: PLR0917 - click passes them by name
    file: IO[bytes],
    skip_bad: bool,
    dry_run: bool,
    event_type: str | None,
    source: str | None,
    columns: tuple[str, ...],
    constants: tuple[str, ...],
    mapping: Path | None,
    table_format: str | None,
    delimiter: str,
    as_json: bool,
) -> None:
    """Publish CloudEvents from FILE, one JSON object per line; `-` reads standard input.

    Every line is first checked with the code that reads the stream. Subject and message id are derived from the
    event, so publishing a file twice changes nothing. If any line is bad, nothing is sent.

    With --type or --mapping, FILE is a table, CSV with a header or NDJSON. A field is given by the column of its name,
    or as --map and --set say. Dates with an offset may be versions: they become microseconds.
    """
    needed = () if dry_run else ("nats_url",)
    settings = functools.partial(operator_settings, *needed, optional={"database_url"})
    if event_type is None and mapping is None:
        if source or columns or constants or table_format:
            raise click.UsageError("--source, --map, --set and --format describe a table: add --type or --mapping.")
        from ops.publish import publish as run  # noqa: PLC0415

        run_command(run(settings(), file, skip_bad=skip_bad, dry_run=dry_run, as_json=as_json))
    from ops.publish_rows import Table, publish_rows  # noqa: PLC0415
    from ops.row_mapping import MappingFile, RowMapping, pairs, read_mapping  # noqa: PLC0415

    options = MappingFile(event_type or "", source or "", pairs(columns, "--map"), dict(pairs(constants, "--set")))
    rows = RowMapping(read_mapping(mapping, options))
    is_json = table_format == "ndjson" or (table_format is None and file.name.endswith((".ndjson", ".jsonl")))
    table = Table(file, "ndjson" if is_json else "csv", delimiter)
    run_command(publish_rows(settings(), table, rows, skip_bad=skip_bad, dry_run=dry_run, as_json=as_json))


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
