"""Subcommands about access and privacy: `token`, `owner-id`, `api-key`, `erase`."""

import sys
from typing import Literal

import rich_click as click

from ops.cli.group import ADMIN, JSON, USER, Text, cli, run_command, with_database
from ops.environment import operator_settings

LIFETIME_S = click.IntRange(1, 10 * 366 * 86_400)
GRACE_S = click.IntRange(0, 30 * 86_400)


@cli.command()
@USER
@ADMIN
@click.option("--ttl", "ttl_s", default=3600, show_default=True, type=click.IntRange(1), help="Seconds it is valid.")
def token(user_id: object, is_admin: bool, ttl_s: int) -> None:
    """Print a development token, a JWT signed with the configured secret, with the configured claims."""
    from ops.token import sign_for  # noqa: PLC0415

    print(sign_for(operator_settings("jwt_secret"), str(user_id), is_admin, ttl_s))


@cli.command("owner-id")
@click.argument("subject", type=Text())
def owner_id(subject: str) -> None:
    """Print the user id of an identity provider's SUBJECT, such as auth0|123, with MEMBERSHIP_JWT_USER_ID=uuid5.

    Producers publish it as the `owner_id` of what this user owns. A SUBJECT that is a UUID is its own user id.
    """
    from service.identity import subjects  # noqa: PLC0415

    found = subjects.user_id(subject, map_others=True)
    if found is None:
        raise click.UsageError("A blank text is no subject.")
    print(found)


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
    """Create, list, rotate and revoke API keys for servers that call the API."""


@api_key.command("create")
@USER
@ADMIN
@click.option("--name", "--label", "label", default="", type=Text(), help="What the key is for, to recognise it later.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    default=("read",),
    show_default=True,
    type=click.Choice(["read", "operate"]),
    help="read: campaigns and histories; operate: reserved for operators. Repeat it for both.",
)
@click.option("--ttl", "ttl_s", type=LIFETIME_S, help="Seconds it is valid; without a limit by default.")
def api_key_create(
    user_id: object, is_admin: bool, label: str, scopes: tuple[Literal["read", "operate"], ...], ttl_s: int | None
) -> None:
    """Create a key and print it; it cannot be shown again."""
    from ops.api_keys import create  # noqa: PLC0415

    run_command(
        with_database(
            operator_settings("database_url").database_url,
            lambda connection: create(
                connection, str(user_id), is_admin=is_admin, label=label, scopes=scopes, ttl_s=ttl_s
            ),
        )
    )


@api_key.command("list")
@JSON
def api_key_list(as_json: bool) -> None:
    """List all keys, revoked ones included, without their secrets."""
    from ops.api_keys import list_keys  # noqa: PLC0415

    run_command(
        with_database(
            operator_settings("database_url").database_url,
            lambda connection: list_keys(connection, as_json=as_json),
        )
    )


@api_key.command("rotate")
@click.argument("key_id", type=Text())
@click.option(
    "--grace", "grace_s", default=86_400, show_default=True, type=GRACE_S, help="Seconds the old key stays valid."
)
@click.option(
    "--ttl", "ttl_s", type=LIFETIME_S, help="Seconds the new key is valid; by default the old key's lifetime."
)
def api_key_rotate(key_id: str, grace_s: int, ttl_s: int | None) -> None:
    """Create a key like the one with this KEY_ID, which stays valid for a while, and print it."""
    from ops.api_keys import rotate  # noqa: PLC0415

    run_command(
        with_database(
            operator_settings("database_url").database_url,
            lambda connection: rotate(connection, key_id, grace_s=grace_s, ttl_s=ttl_s),
        )
    )


@api_key.command("revoke")
@click.argument("key_id", type=Text())
def api_key_revoke(key_id: str) -> None:
    """Revoke the key with this KEY_ID; every API process refuses it within seconds."""
    from ops.api_keys import revoke  # noqa: PLC0415

    run_command(
        with_database(operator_settings("database_url").database_url, lambda connection: revoke(connection, key_id))
    )
