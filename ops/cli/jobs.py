"""Subcommands that inspect and maintain the read model: `status`, `verify`, `repair`, `explain`, `jobs` and others."""

import rich_click as click

from ops.cli.group import JSON, Rate, cli, run_command, until_stopped, with_database, with_job
from ops.environment import operator_settings, process_settings


@cli.command()
@JSON
@click.option("--watch", is_flag=True, help="Repeat every 2 seconds, until Ctrl-C.")
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


MAX_RATE = click.option("--max-rate", type=Rate(), help="Maximum events per second.")
UNTHROTTLED = click.option(
    "--no-throttle", "unthrottled", is_flag=True, help="Do not yield to readers; work at full speed."
)


@cli.command()
@click.option("--verify-only", is_flag=True, help="Only compare, as `membership verify` does; change nothing.")
@MAX_RATE
@UNTHROTTLED
@click.option("--yes", is_flag=True, help="Switch even if rows differ; otherwise the command asks.")
@JSON
def rebuild(verify_only: bool, max_rate: int | None, unthrottled: bool, yes: bool, as_json: bool) -> None:
    """Build a new copy of the read model from the stream, compare it with the live one, and switch to it.

    Readers are not affected: the live generation keeps serving and applying events, the job yields to reads, and the
    switch updates one row. The old generation keeps applying events for MEMBERSHIP_ROLLBACK_WINDOW_S seconds, so that
    `membership rollback` can return to it. If this command dies, run it again to resume.
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
    """Fold the whole stream again and compare the live rows with the result, every column of every table.

    Prints each row and column that differs. Exits 1 if any row differs, or if the comparison failed, with the reason on
    standard error. Changes nothing. Live traffic causes no false differences: both sides are read at one position.
    `membership repair` corrects the differing rows.
    """
    from ops.rebuild import command as job  # noqa: PLC0415

    settings = operator_settings("database_url", "nats_url")
    pace = job.pace_for(settings, max_rate, throttled=not unthrottled)
    run_command(with_job(settings, "verify", job.verify(settings, pace, as_json=as_json)))


@cli.command()
@click.option("--customer", "customer_id", type=click.UUID, help="Repair this customer and its memberships.")
@click.option("--campaign", "campaign_id", type=click.UUID, help="Repair this campaign and its memberships.")
@click.option("--dry-run", is_flag=True, help="Show the row diff and change nothing.")
@JSON
def repair(customer_id: object, campaign_id: object, dry_run: bool, as_json: bool) -> None:
    """Derive the rows of one customer or campaign again from its events in the stream, and correct those that differ.

    Shows each row as stored (-) and as corrected (+), as the JSON passed to PostgreSQL. A second run finds no
    differences.
    """
    from ops.repair import repair as run  # noqa: PLC0415
    from projections.maintenance.repair import Entity  # noqa: PLC0415

    if (customer_id is None) == (campaign_id is None):
        raise click.UsageError("Give one entity to repair: --customer ID or --campaign ID.")
    entity = Entity("campaign", str(campaign_id)) if customer_id is None else Entity("customer", str(customer_id))
    settings = operator_settings("database_url", "nats_url")
    work = lambda connection: run(connection, settings, entity, dry_run=dry_run, as_json=as_json)  # noqa: E731
    run_command(with_database(settings.database_url, work))


@cli.command()
@click.option("--customer", "customer_id", required=True, type=click.UUID, help="The customer's id, a UUID.")
@click.option("--campaign", "campaign_id", type=click.UUID, help="Only this campaign, with every event.")
@JSON
def explain(customer_id: object, campaign_id: object, as_json: bool) -> None:
    """Explain why a customer is, or is not, shown in its campaigns, or with --campaign in one, event by event.

    Each event of the membership and its campaign is shown with its outcome: applied, superseded by a later one, a
    duplicate, or parked. Reads the stream and changes nothing. Exits 1 if there is no such customer or campaign.
    """
    from ops import explain as run  # noqa: PLC0415

    settings = operator_settings("database_url", "nats_url")
    customer, campaign = str(customer_id), None if campaign_id is None else str(campaign_id)
    work = lambda connection: run.explain(connection, settings, customer, campaign, as_json=as_json)  # noqa: E731
    run_command(with_database(settings.database_url, work))


@cli.command()
def rollback() -> None:
    """Switch readers back to the previous generation, immediately. It has followed the stream, so nothing is lost."""
    from ops.rebuild.command import rollback as run  # noqa: PLC0415

    run_command(with_database(operator_settings("database_url").database_url, run))


@cli.group()
def jobs() -> None:
    """List and cancel jobs (rebuild, verify, erase), one of which runs at a time; run those of the console."""


@jobs.command("run")
def jobs_run() -> None:
    """Run the process that executes what operators start at the console; one is active, further ones stand by.

    SIGTERM ends it after the current step. Another runner continues what was not finished.
    """
    from ops.logs import configure  # noqa: PLC0415
    from ops.runner.process import run  # noqa: PLC0415

    settings = process_settings("database_url", "nats_url")
    configure(settings)
    run_command(run(settings))


@jobs.command("check")
def jobs_check() -> None:
    """Say whether a job runner is alive, on any machine. Exits 1 if none is: for health checks."""
    from ops.jobs import check_runner  # noqa: PLC0415

    run_command(with_database(operator_settings("database_url").database_url, check_runner))


@jobs.command("list")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 10_000), help="Maximum number of rows.")
@JSON
def jobs_list(limit: int, as_json: bool) -> None:
    """List running, interrupted and past jobs, newest first."""
    from ops.jobs import list_jobs  # noqa: PLC0415

    url = operator_settings("database_url").database_url
    run_command(with_database(url, lambda connection: list_jobs(connection, limit, as_json=as_json)))


@jobs.command("cancel")
def jobs_cancel() -> None:
    """Cancel the running or interrupted job and drop its partial results."""
    from ops.jobs import cancel  # noqa: PLC0415

    run_command(with_database(operator_settings("database_url").database_url, cancel))


@cli.command()
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000), help="Maximum number of rows.")
def audit(limit: int) -> None:
    """List the actions of operators, newest first: switches, repairs, retries, discards, erasures, API keys."""
    from ops.jobs import list_audit  # noqa: PLC0415

    run_command(
        with_database(operator_settings("database_url").database_url, lambda connection: list_audit(connection, limit))
    )


@cli.command("acknowledge-missing")
@click.option("--reason", required=True, help="Why the messages are gone; kept in the audit.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def acknowledge_missing(reason: str, yes: bool) -> None:
    """Accept that the stream has lost messages that no erasure removed, and continue without them.

    Shows how many are missing. Afterwards the projector passes the gap, and verify, repair and rebuild work again, on
    the remaining messages. Only the number is recorded, so a later loss is detected again.
    """
    from ops.acknowledge_missing import acknowledge_missing as run  # noqa: PLC0415

    if not reason.strip():
        raise click.BadParameter("give a reason; the next operator has no other record.", param_hint="--reason")
    settings = operator_settings("database_url", "nats_url")
    run_command(
        with_database(settings.database_url, lambda connection: run(connection, settings, reason.strip(), yes=yes))
    )
