"""Subcommands about access and privacy: `token`, `api-key`, `erase`."""

import sys

import rich_click as click

from ops.cli.group import ADMIN, USER, Text, cli, run_command, with_database
from ops.environment import operator_settings


@cli.command()
@USER
@ADMIN
@click.option("--ttl", "ttl_s", default=3600, show_default=True, type=click.IntRange(1), help="Seconds it is valid.")
def token(user_id: object, is_admin: bool, ttl_s: int) -> None:
    """Print a development token, a JWT signed with the configured secret."""
    from ops.token import sign  # noqa: PLC0415

    print(sign(operator_settings("jwt_secret").jwt_secret, str(user_id), is_admin, ttl_s))


@cli.command()
@click.option("--customer", "customer_id", required=True, type=click.UUID, help="The customer's id, a UUID.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def erase(customer_id: object, yes: bool) -> None:
    """Erase a customer: its events from the stream, its rows from every generation. This cannot be undone.

    A rebuild does not restore the customer, and accepts the gap in the stream. The audit records how many messages and
    rows were removed, not which customer's.
    """
    from ops.erase import erase as run  # noqa: PLC0415

    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("Erasing cannot be undone; add --yes to erase without a prompt.")
        click.confirm(f"Erase customer {customer_id} from the stream and every generation, permanently?", abort=True)
    settings = operator_settings("database_url", "nats_url")
    run_command(with_database(settings.database_url, lambda connection: run(connection, settings, str(customer_id))))


@cli.group("api-key")
def api_key() -> None:
    """Create, list and revoke API keys for servers that call the API."""


@api_key.command("create")
@USER
@ADMIN
@click.option("--label", default="", type=Text(), help="What the key is for, to recognise it later.")
def api_key_create(user_id: object, is_admin: bool, label: str) -> None:
    """Create a key and print it; it cannot be shown again."""
    from ops.api_keys import create  # noqa: PLC0415

    run_command(
        with_database(
            operator_settings("database_url").database_url,
            lambda connection: create(connection, str(user_id), is_admin, label),
        )
    )


@api_key.command("list")
def api_key_list() -> None:
    """List all keys, revoked ones included, without their secrets."""
    from ops.api_keys import list_keys  # noqa: PLC0415

    run_command(with_database(operator_settings("database_url").database_url, list_keys))


@api_key.command("revoke")
@click.argument("key_id", type=Text())
def api_key_revoke(key_id: str) -> None:
    """Revoke the key with this KEY_ID; every API process refuses it within seconds."""
    from ops.api_keys import revoke  # noqa: PLC0415

    run_command(
        with_database(operator_settings("database_url").database_url, lambda connection: revoke(connection, key_id))
    )
