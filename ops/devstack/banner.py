"""The text `membership dev` prints once it is ready: addresses, two tokens, a working request, what to try next."""

import shlex
import sys
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from ops.environment import DEV_FILE
from projections.model.decode import decode
from projections.model.events import CampaignUpserted, TargetEnrolled, TargetRemoved, TargetRestored

TARGETS: Final = (TargetEnrolled, TargetRemoved, TargetRestored)


class Endpoints(NamedTuple):
    """Addresses and paths of the running stack."""

    api_url: str
    nats_url: str
    database_url: str
    folder: Path
    projector_pid: int


class DemoUser(NamedTuple):
    """A user of the demo data set: their token and a customer they own."""

    token: str
    customer_id: str
    sample_event: Path | None
    """A file with an enrolment that is not published yet."""


def banner(endpoints: Endpoints, admin_token: str, demo_user: DemoUser | None) -> str:
    """Return the text; everything meant to be copied is on a line of its own."""
    addresses = {
        "API": endpoints.api_url,
        "Docs": f"{endpoints.api_url}/docs",
        "Console": f"{endpoints.api_url}/console",
        "NATS": endpoints.nats_url,
        "PostgreSQL": endpoints.database_url,
        "Logs": str(endpoints.folder / "log"),
    }
    lines = [f"{name:<12}{address}" for name, address in addresses.items()]
    lines += ["", "A token of an admin, who sees every customer (30 days):", admin_token, ""]
    lines += _demo_user_lines(endpoints, demo_user) if demo_user else _no_demo_lines(endpoints)
    return "\n".join([*lines, "", "Ctrl-C stops everything; the data is kept for the next start."])


def _demo_user_lines(endpoints: Endpoints, demo_user: DemoUser) -> list[str]:
    url = f"{endpoints.api_url}/customers/{demo_user.customer_id}/campaigns"
    publish = f"publish {shlex.quote(str(demo_user.sample_event))}"
    enrolment = [
        "- enrol that customer in one more campaign, then ask again (publishing it twice changes nothing):",
        f"    {_environment_prefix(endpoints, 'NATS_URL')}{_command(publish)}",
    ]
    return [
        "A token of a demo user, who sees the customers they own (30 days):",
        demo_user.token,
        "",
        "Ask which campaigns a customer is in:",
        f"curl -s '{url}' -H 'Authorization: Bearer {demo_user.token}'",
        "",
        "What to try next:",
        *(enrolment if demo_user.sample_event else []),
        *_experiments(endpoints),
    ]


def _no_demo_lines(endpoints: Endpoints) -> list[str]:
    return [
        "Check that the API answers reads:",
        f"curl -s '{endpoints.api_url}/health/ready'",
        "",
        "What to try next:",
        "- start the demo in a separate directory:",
        f"    {_command('dev --port 0 --data-dir .membership-demo')}",
        *_experiments(endpoints),
    ]


def _experiments(endpoints: Endpoints) -> list[str]:
    return [
        "- read the API's documentation:",
        f"    {endpoints.api_url}/docs",
        "- look at the read model in the operator's console, with the admin's token:",
        f"    {endpoints.api_url}/console",
        "- see how far the read model is behind the stream:",
        f"    {_environment_prefix(endpoints, 'DATABASE_URL', 'NATS_URL')}{_command('status')}",
        "- kill the projector; it is restarted and loses nothing:",
        f"    kill -9 {endpoints.projector_pid}",
    ]


def _environment_prefix(endpoints: Endpoints, *names: str) -> str:
    """Return the variables a command in a terminal needs; none if it finds this stack by itself (`DEV_FILE`)."""
    if (endpoints.folder / "dev.json").resolve() == DEV_FILE.resolve():
        return ""
    values = {"NATS_URL": endpoints.nats_url, "DATABASE_URL": endpoints.database_url}
    return "".join(f"MEMBERSHIP_{name}={shlex.quote(values[name])} " for name in names)


def _command(arguments: str) -> str:
    """Return a command line, spelled as this command was called: it may not be on the PATH."""
    called = sys.argv[0] if Path(sys.argv[0]).name == "membership" else "membership"
    return f"{shlex.quote(called)} {arguments}"


def sample_enrolment(published: Iterable[tuple[str, bytes]], owner_id: str, customer_id: str) -> dict[str, Any] | None:
    """Return an event that enrols the customer in a campaign of their owner; None if they have joined all.

    `published` holds subjects and bodies.
    """
    campaigns: dict[str, None] = {}
    joined: set[str] = set()
    for subject, body in published:
        event = decode(subject, body)
        if isinstance(event, CampaignUpserted) and event.owner_id == owner_id:
            campaigns[event.campaign_id] = None
        elif isinstance(event, TARGETS) and event.customer_id == customer_id:
            joined.add(event.campaign_id)
    remaining = (campaign for campaign in campaigns if campaign not in joined)
    campaign = next(remaining, None)
    return _enrolment(customer_id, campaign) if campaign else None


def _enrolment(customer_id: str, campaign_id: str) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    target = {"target_id": str(uuid.uuid4()), "customer_id": customer_id, "campaign_id": campaign_id}
    return {
        "specversion": "1.0",
        "id": f"try-{uuid.uuid4()}",
        "source": "membership-dev",
        "type": "target.enrolled.v1",
        "time": now,
        "data": target | {"version": 1, "enrolled_at": now},
    }
