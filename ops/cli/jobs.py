"""Subcommands that inspect and maintain the read model: `status`, `verify`, `repair`, `rebuild`, `jobs` and others."""

import rich_click as click

from ops.cli.group import JSON, Rate, cli, run_command, until_stopped, with_database, with_job
from ops.environment import operator_settings


@cli.command()
@JSON
@click.option("--watch", is_flag=True, help="Show it again every 2 seconds, until Ctrl-C.")
def status(as_json: bool, watch: bool) -> None:
    """Show how far the read model is behind the stream, and how many events are parked.

    Exits 1 with a sentence on standard error when no projector leads, when the stream has lost messages that no
    erasure removed, or when PostgreSQL or the broker does not answer.
    """
    from ops import status as run  # noqa: PLC0415

    settings = operator_settings("database_url", "nats_url")
    if watch:
        run_command(until_stopped(run.watch(settings, as_json=as_json)))
    run_command(run.show(settings, as_json=as_json))


MAX_RATE = click.option("--max-rate", type=Rate(), help="Events a second at most.")
UNTHROTTLED = click.option(
    "--no-throttle", "unthrottled", is_flag=True, help="Do not yield to readers: as fast as it goes."
)


@cli.command()
@click.option("--verify-only", is_flag=True, help="Only compare, as `membership verify` does; change nothing.")
@MAX_RATE
@UNTHROTTLED
@click.option("--yes", is_flag=True, help="Switch even if rows differ; without it you are asked.")
@JSON
def rebuild(verify_only: bool, max_rate: int | None, unthrottled: bool, yes: bool, as_json: bool) -> None:
    """Make a new copy of the read model from the stream, compare it with the live one, and switch to it.

    Readers notice nothing: the live generation serves and follows meanwhile, the job yields to reads, and the switch
    is one row. The old generation follows for MEMBERSHIP_ROLLBACK_WINDOW_S, ready for `membership rollback`. If this
    command dies, run it again: it goes on where it was.
    """
    from ops.rebuild import command as job  # noqa: PLC0415

    settings = operator_settings("database_url", "nats_url")
    pace = job.pace_for(settings, max_rate, throttled=not unthrottled)
    if verify_only:
        run_command(with_job(settings, "verify", job.verify(settings, pace, as_json=as_json)))
    run_command(with_job(settings, "rebuild", job.rebuild(settings, pace, yes=yes, as_json=as_json)))


@cli.command()
@MAX_RATE
@UNTHROTTLED
@JSON
def verify(max_rate: int | None, unthrottled: bool, as_json: bool) -> None:
    """Fold the stream afresh and compare the live rows with it, every column of every table.

    Names each row and column that differs, and exits 1 if any does or the comparison was not possible, which it then
    says on standard error. Changes nothing, and live traffic raises no
    false alarm: both sides are seen at one position. `membership repair` mends what it finds.
    """
    from ops.rebuild import command as job  # noqa: PLC0415

    settings = operator_settings("database_url", "nats_url")
    pace = job.pace_for(settings, max_rate, throttled=not unthrottled)
    run_command(with_job(settings, "verify", job.verify(settings, pace, as_json=as_json)))


@cli.command()
@click.option("--customer", "customer_id", type=click.UUID, help="Re-derive this customer and its memberships.")
@click.option("--campaign", "campaign_id", type=click.UUID, help="Re-derive this campaign and its memberships.")
@click.option("--dry-run", is_flag=True, help="Show the row diff and change nothing.")
@JSON
def repair(customer_id: object, campaign_id: object, dry_run: bool, as_json: bool) -> None:
    """Re-derive the rows of one customer or one campaign from its events in the stream, and mend those that differ.

    Shows each row as it is (-) and as it is written (+), the very JSON that PostgreSQL is given. A second run finds
    nothing.
    """
    from ops.repair import repair as run  # noqa: PLC0415
    from projections.maintenance.repair import Entity  # noqa: PLC0415

    if (customer_id is None) == (campaign_id is None):
        raise click.UsageError("Name one thing to repair: --customer ID or --campaign ID.")
    entity = Entity("campaign", str(campaign_id)) if customer_id is None else Entity("customer", str(customer_id))
    settings = operator_settings("database_url", "nats_url")
    work = lambda each: run(each, settings, entity, dry_run=dry_run, as_json=as_json)  # noqa: E731
    run_command(with_database(settings.database_url, work))


@cli.command()
def rollback() -> None:
    """Point readers back at the previous generation, at once. It has followed the stream, so nothing is lost."""
    from ops.rebuild.command import rollback as run  # noqa: PLC0415

    run_command(with_database(operator_settings("database_url").database_url, run))


@cli.group()
def jobs() -> None:
    """Look at long work (rebuild, verify, erase) and end it. One job runs at a time."""


@jobs.command("list")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 10_000), help="Rows at most.")
@JSON
def jobs_list(limit: int, as_json: bool) -> None:
    """List the jobs, the newest first: what runs, what waits to be resumed, what was."""
    from ops.jobs import list_jobs  # noqa: PLC0415

    url = operator_settings("database_url").database_url
    run_command(with_database(url, lambda each: list_jobs(each, limit, as_json=as_json)))


@jobs.command("cancel")
def jobs_cancel() -> None:
    """End the job that runs, or give up one that was interrupted; what it had made is dropped."""
    from ops.jobs import cancel  # noqa: PLC0415

    run_command(with_database(operator_settings("database_url").database_url, cancel))


@cli.command()
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000), help="Rows at most.")
def audit(limit: int) -> None:
    """List what operators did: switches, repairs, retries, discards, erasures, API keys; the newest first."""
    from ops.jobs import list_audit  # noqa: PLC0415

    run_command(with_database(operator_settings("database_url").database_url, lambda each: list_audit(each, limit)))


@cli.command("acknowledge-missing")
@click.option("--reason", required=True, help="Why the messages are gone; kept in the audit.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def acknowledge_missing(reason: str, yes: bool) -> None:
    """Accept that the stream has lost messages that no erasure removed, so that work goes on without them.

    Shows how many are missing. Afterwards the projector passes the hole, and verify, repair and rebuild work again on
    what the stream still holds. Only the number is recorded: a later loss is noticed again.
    """
    from ops.acknowledge_missing import acknowledge_missing as run  # noqa: PLC0415

    if not reason.strip():
        raise click.BadParameter("say why; it is all that the next operator will know.", param_hint="--reason")
    settings = operator_settings("database_url", "nats_url")
    run_command(with_database(settings.database_url, lambda each: run(each, settings, reason.strip(), yes=yes)))
