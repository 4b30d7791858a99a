"""What `membership dev` tells a newcomer: where everything is, two tokens, a question that works, what to try next."""

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
    """Where the stack is."""

    api_url: str
    nats_url: str
    database_url: str
    folder: Path
    projector_pid: int


class DemoUser(NamedTuple):
    """A user of the demo: what they may use and what they may ask for."""

    token: str
    customer_id: str
    trial: Path | None
    """A file with an enrolment that is not published yet."""


def banner(places: Endpoints, admin_token: str, guest: DemoUser | None) -> str:
    """Return the text; a line that is meant to be copied stands alone."""
    addresses = {
        "API": places.api_url,
        "Docs": f"{places.api_url}/docs",
        "NATS": places.nats_url,
        "PostgreSQL": places.database_url,
        "Logs": str(places.folder / "log"),
    }
    lines = [f"{name:<12}{address}" for name, address in addresses.items()]
    lines += ["", "A token of an admin, who sees every customer (30 days):", admin_token, ""]
    lines += _demo_user_lines(places, guest) if guest else _no_demo_lines(places)
    return "\n".join([*lines, "", "Ctrl-C stops everything; the next start finds its data."])


def _demo_user_lines(places: Endpoints, guest: DemoUser) -> list[str]:
    question = f"{places.api_url}/customers/{guest.customer_id}/campaigns"
    publish = f"publish {shlex.quote(str(guest.trial))}"
    trial = [
        "- enrol that customer in one more campaign, then ask again (a second time changes nothing):",
        f"    {_needed(places, 'NATS_URL')}{_command(publish)}",
    ]
    return [
        "A token of a demo user, who sees the customers they own (30 days):",
        guest.token,
        "",
        "Ask which campaigns a customer is in:",
        f"curl -s '{question}' -H 'Authorization: Bearer {guest.token}'",
        "",
        "What to try next:",
        *(trial if guest.trial else []),
        *_experiments(places),
    ]


def _no_demo_lines(places: Endpoints) -> list[str]:
    return [
        "Ask whether reads are answered:",
        f"curl -s '{places.api_url}/health/ready'",
        "",
        "What to try next:",
        "- the demo, in a directory of its own:",
        f"    {_command('dev --port 0 --data-dir .membership-demo')}",
        *_experiments(places),
    ]


def _experiments(places: Endpoints) -> list[str]:
    return [
        "- read the API's documentation:",
        f"    {places.api_url}/docs",
        "- see how far the read model is behind the stream:",
        f"    {_needed(places, 'DATABASE_URL', 'NATS_URL')}{_command('status')}",
        "- kill the projector; it comes back and has lost nothing:",
        f"    kill -9 {places.projector_pid}",
    ]


def _needed(places: Endpoints, *names: str) -> str:
    """Return the variables that a command at a terminal needs, unless it finds this stack by itself."""
    if (places.folder / "dev.json").resolve() == DEV_FILE.resolve():
        return ""
    values = {"NATS_URL": places.nats_url, "DATABASE_URL": places.database_url}
    return "".join(f"MEMBERSHIP_{name}={shlex.quote(values[name])} " for name in names)


def _command(words: str) -> str:
    """Return a command line, with the command as it was called: perhaps it is not on the PATH."""
    called = sys.argv[0] if Path(sys.argv[0]).name == "membership" else "membership"
    return f"{shlex.quote(called)} {words}"


def sample_enrolment(published: Iterable[tuple[str, bytes]], owner_id: str, customer_id: str) -> dict[str, Any] | None:
    """Return an event that enrols the customer in a campaign of their owner; None if they were in each of them.

    `published` holds subjects and bodies.
    """
    campaigns: dict[str, None] = {}
    entered: set[str] = set()
    for subject, body in published:
        event = decode(subject, body)
        if isinstance(event, CampaignUpserted) and event.owner_id == owner_id:
            campaigns[event.campaign_id] = None
        elif isinstance(event, TARGETS) and event.customer_id == customer_id:
            entered.add(event.campaign_id)
    free = (campaign for campaign in campaigns if campaign not in entered)
    campaign = next(free, None)
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
