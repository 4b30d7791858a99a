"""The commands as an operator runs them: their output, error messages and exit codes."""

import asyncio
import json
import os
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import httpx
import msgspec
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey

from ops.jobs import stopped_sentence
from projections.maintenance import jobs
from projections.maintenance.job_summary import summary
from projections.maintenance.status import read_status, stuck_sentence
from projections.store.leader import LOCK_KEY
from tests.support.builders import published
from tests.support.command import membership
from tests.support.processes import JWT_SECRET, System, eventually

USER = "ad000000-0000-4000-8000-00000000000a"


async def test_status_shows_the_read_model_and_the_stream(system: System) -> None:
    bad = ("membership.customer.nobody", b"{}")
    position = await system.publish([published("customer.upserted.v1", 1), bad])
    await system.wait_until_applied(position)
    ended = await membership(system.environment, "status", "--json")
    found = json.loads(ended.out)
    assert (ended.code, found["generation"], found["jobs"]) == (0, "g1", [])
    assert found["position"] == found["stream_position"] >= position
    assert found["stream_first_position"] == 1
    assert (found["lag_events"], found["lag_s"], found["parked"] >= 1) == (0, 0.0, True)
    assert "position" in (await membership(system.environment, "status")).out


async def test_status_shows_the_lag_after_the_projector_has_died(own_system: System) -> None:
    await own_system.wait_until_applied(await own_system.publish([published("customer.upserted.v1", 1)]))
    own_system.kill("project")
    await own_system.publish([published("customer.upserted.v1", n) for n in range(2, 5)])
    found = json.loads((await membership(own_system.environment, "status", "--json")).out)
    assert found["lag_events"] == 3
    assert found["lag_s"] > 0
    own_system.broker.stop()
    ended = await membership(own_system.environment, "status", "--json")
    found = json.loads(ended.out)
    assert (ended.code, found["stream_position"], found["lag_events"]) == (1, None, None)
    assert "broker" in ended.err


async def test_status_names_a_leader_that_applies_nothing_while_events_wait(own_system: System) -> None:
    await own_system.wait_until_applied(await own_system.publish([published("customer.upserted.v1", 1)]))
    own_system.kill("project")
    await own_system.publish([published("customer.upserted.v1", 2)])
    await own_system.fetch("UPDATE control.checkpoint SET applied_at = now() - interval '2 minutes'")
    holder = await asyncpg.connect(own_system.database_url)
    try:
        await holder.fetchval("SELECT pg_advisory_lock($1)", LOCK_KEY)
        waiting = await membership(own_system.environment, "status", "--json")
        assert (waiting.code, json.loads(waiting.out)["leader"]) == (0, True), waiting.err
        status = await read_status(holder)
        assert 120 <= status.applied_ago_s < 240
        assert stuck_sentence(status, json.loads(waiting.out)["lag_s"]) == ""
        assert "applied nothing for 61 s" in stuck_sentence(status, 61.0)
        assert stuck_sentence(msgspec.structs.replace(status, applied_ago_s=1.0), 61.0) == ""
        assert stuck_sentence(msgspec.structs.replace(status, leader=False), 61.0) == ""
    finally:
        await holder.close()


async def test_parked_events_are_counted_by_reason_and_shown_in_full(system: System) -> None:
    body = b'{"not": "an [event]"}'
    position = await system.publish([("membership.unknown.subject", body)])
    await system.wait_until_applied(position)
    listed = await membership(system.environment, "parked", "list")
    assert "unknown_subject" in listed.out
    assert "membership.unknown.subject" in listed.out
    shown = await membership(system.environment, "parked", "show", str(position))
    assert shown.code == 0
    assert body.decode() in shown.out
    missing = await membership(system.environment, "parked", "show", "999999")
    assert (missing.code, "No event is parked at position 999999" in missing.err) == (1, True)


async def test_an_api_key_works_until_it_is_revoked(system: System) -> None:
    created = await membership(system.environment, "api-key", "create", "--user", USER, "--admin", "--label", "ci [x]")
    key = created.out.strip()

    async def status() -> int:
        async with httpx.AsyncClient(base_url=system.api_url) as client:
            path = "/customers/c0000000-0000-4000-8000-0000000000ff/campaigns"
            return (await client.get(path, headers={"X-API-Key": key})).status_code

    assert await status() == 404
    listed = await membership(system.environment, "api-key", "list")
    assert key not in listed.out
    assert "ci [x]" in listed.out
    key_id = key.split("_")[1]
    assert key_id in listed.out
    assert (await membership(system.environment, "api-key", "revoke", key_id)).code == 0
    again = await membership(system.environment, "api-key", "revoke", key_id)
    assert (again.code, f"{key_id} was already revoked, at 20" in again.out) == (0, True)
    assert "+00:00" not in (await membership(system.environment, "api-key", "list")).out

    async def key_is_refused() -> bool:
        return await status() == 401

    await eventually(key_is_refused, "the revoked key is refused", deadline_s=5)
    assert (await membership(system.environment, "api-key", "revoke", "nothing")).code == 1


def test_the_outcome_of_a_cancelled_job_gives_no_advice() -> None:
    now = datetime.now(UTC)
    reason = "cancelled in phase gate; 3 differing rows. Look at them. `membership jobs cancel` drops g2."
    job = jobs.Job(
        1, "rebuild", "cancelled", "gate", 0, 0, None, "g2", "1", None, True, "me", now, now, now, outcome=reason
    )
    assert summary(job, running=False).outcome == "cancelled in phase gate; 3 differing rows. Look at them."


async def test_a_token_is_a_jwt_of_the_user(system: System) -> None:
    ended = await membership(system.environment, "token", "--user", USER, "--admin", "--ttl", "60")
    claims = jwt.decode(ended.out.strip(), OctKey.import_key(JWT_SECRET), algorithms=["HS256"]).claims
    assert (claims["sub"], claims["role"]) == (USER, "admin")


@pytest.mark.parametrize(
    ("command", "settings"),
    [
        ("serve", ["MEMBERSHIP_DATABASE_URL", "MEMBERSHIP_JWT_SECRET"]),
        ("project", ["MEMBERSHIP_DATABASE_URL", "MEMBERSHIP_NATS_URL"]),
        ("migrate", ["MEMBERSHIP_DATABASE_URL"]),
        ("status", ["MEMBERSHIP_DATABASE_URL", "MEMBERSHIP_NATS_URL"]),
    ],
)
async def test_all_missing_settings_are_named_with_exit_code_2(
    tmp_path: Path, command: str, settings: list[str]
) -> None:
    ended = await membership({"PYTHONPATH": str(Path.cwd())}, command, cwd=tmp_path)
    assert ended.code == 2
    assert [name for name in settings if name in ended.err] == settings


def dev_stack(folder: Path, pid: int) -> None:
    """Describe a dev stack whose servers have this process id."""
    (folder / ".membership").mkdir()
    stack = {"database_url": "postgresql://a@127.0.0.1:1/a", "nats_url": "nats://127.0.0.1:1", "jwt_secret": "x" * 40}
    pids = {"postgres": pid, "nats": pid}
    (folder / ".membership" / "dev.json").write_text(json.dumps(stack | {"pids": pids}))


async def test_missing_settings_without_a_dev_stack_say_that_none_runs(tmp_path: Path) -> None:
    ended = await membership({"PYTHONPATH": str(Path.cwd())}, "status", cwd=tmp_path)
    assert (ended.code, "No dev stack runs in ./.membership" in ended.err) == (2, True), ended.err


async def test_a_running_dev_stack_that_is_not_used_is_explained(tmp_path: Path) -> None:
    dev_stack(tmp_path, os.getpid())
    environment = {"PYTHONPATH": str(Path.cwd()), "MEMBERSHIP_NATS_URL": "nats://127.0.0.1:1"}
    ended = await membership(environment, "status", cwd=tmp_path)
    assert ended.code == 2
    assert "The dev stack in ./.membership is not used, because MEMBERSHIP_NATS_URL is set." in ended.err


async def test_an_unreachable_database_is_reported_in_a_sentence(system: System) -> None:
    environment = system.environment | {"MEMBERSHIP_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/x"}
    ended = await membership(environment, "migrate")
    assert ended.code == 1
    assert "PostgreSQL cannot be used" in ended.err


@pytest.mark.parametrize(
    "command",
    [
        "migrate",
        "status",
        "rebuild --yes",
        "verify",
        "repair --customer ad000000-0000-4000-8000-00000000000a",
        "rollback",
        "jobs list",
        "audit",
        "parked list",
        "erase --yes --customer ad000000-0000-4000-8000-00000000000a",
        "api-key list",
    ],
)
async def test_every_command_names_the_database_it_cannot_reach(system: System, command: str) -> None:
    environment = system.environment | {"MEMBERSHIP_DATABASE_URL": "postgresql://me:hunter2@127.0.0.1:1/members"}
    ended = await membership(environment, *command.split())
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.strip() == "PostgreSQL cannot be used: Connection refused (127.0.0.1:1, database members)."


async def test_an_invalid_database_url_is_reported_in_a_sentence(system: System) -> None:
    environment = system.environment | {"MEMBERSHIP_DATABASE_URL": f"{system.database_url}?sslmode=sometimes"}
    ended = await membership(environment, "audit")
    assert (ended.code, "MEMBERSHIP_DATABASE_URL" in ended.err, "sslmode" in ended.err) == (2, True, True)


@pytest.mark.parametrize("command", ["serve", "project", "migrate", "status", "dev"])
async def test_a_misspelt_setting_is_refused_by_every_command(system: System, command: str, tmp_path: Path) -> None:
    environment = system.environment | {"MEMBERSHIP_HTTP_POTR": "8080", "PYTHONPATH": str(Path.cwd())}
    ended = await membership(environment, command, cwd=tmp_path)
    assert ended.code == 2
    assert "MEMBERSHIP_HTTP_POTR is not a setting; did you mean MEMBERSHIP_HTTP_PORT." in ended.err


async def test_a_stopped_command_reports_whether_a_job_can_be_resumed(
    database_url: str, connection: asyncpg.Connection
) -> None:
    assert await stopped_sentence(database_url, "rebuild") == (
        "Stopped before the job began; there is nothing to resume."
    )
    job = await jobs.open_or_resume(connection, "rebuild", "fill", "test")
    assert f"Run the same command to resume job {job.job_id}, or" in await stopped_sentence(database_url, "rebuild")
    assert "nothing to resume" in await stopped_sentence(database_url, "verify")
    unknown = await stopped_sentence("postgresql://me@127.0.0.1:1/x", "rebuild")
    assert unknown == "Stopped. If `membership jobs list` shows an open job, run the same command to resume it."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["parked", "show", str(2**63)], "is not in the range"),
        (["parked", "retry", str(10**30)], "is not in the range"),
        (["parked", "list", "--reason", "invalid_feild"], "allowed: oversize, unknown_subject"),
        (["api-key", "create", "--user", USER, "--label", "a\x1bb"], "without control characters"),
        (["api-key", "revoke", "\udcff"], "without control characters"),
    ],
)
async def test_arguments_that_the_database_cannot_store_are_wrong_usage(
    system: System, arguments: list[str], message: str
) -> None:
    ended = await membership(system.environment, *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert message in " ".join(ended.err.replace("│", " ").split())


async def test_ctrl_c_before_a_job_begins_reports_nothing_to_resume(
    system: System, connection: asyncpg.Connection, database_url: str
) -> None:
    environment = system.environment | {"MEMBERSHIP_DATABASE_URL": database_url}
    await connection.execute("SELECT pg_advisory_lock($1, $2)", jobs.LOCK_CLASS, jobs.HELPERS_LOCK_ID)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ops", "verify", env=environment, stderr=asyncio.subprocess.PIPE
    )
    waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)"
    await eventually(lambda: connection.fetchval(waiting), "the command waits for the lock")
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert process.returncode == 130
    assert "Stopped before the job began" in err.decode()


async def test_created_and_revoked_api_keys_are_in_the_audit(system: System) -> None:
    created = await membership(system.environment, "api-key", "create", "--user", USER, "--label", "audited")
    key_id = created.out.split("_")[1]
    assert (await membership(system.environment, "api-key", "revoke", key_id)).code == 0
    listed = (await membership(system.environment, "audit", "--limit", "2")).out
    assert "api_key.create" in listed
    assert "api_key.revoke" in listed
    assert listed.count(f"key {key_id} of user {USER}, label 'audited'") == 2
    assert created.out.strip() not in listed


async def test_a_key_is_created_with_limits_rotated_and_listed_as_json(system: System) -> None:
    limits = ["--name", "console", "--scope", "operate", "--scope", "read", "--ttl", "3600"]
    created = await membership(system.environment, "api-key", "create", "--user", USER, *limits)
    key_id = created.out.split("_")[1]
    rotated = await membership(system.environment, "api-key", "rotate", key_id, "--grace", "60")
    assert (rotated.code, f"{key_id} stays valid for 60 s" in rotated.err) == (0, True)
    new_id = rotated.out.split("_")[1]
    listed = await membership(system.environment, "api-key", "list", "--json")
    keys = {key["key_id"]: key for key in json.loads(listed.out)}
    assert keys[key_id]["replaced_by"] == new_id
    assert (keys[new_id]["label"], sorted(keys[new_id]["scopes"])) == ("console", ["operate", "read"])
    assert keys[key_id]["expires_at"] < keys[new_id]["expires_at"]
    for key in (created.out.strip(), rotated.out.strip()):
        assert key not in listed.out
    assert f"valid, replaced by {new_id}" in (await membership(system.environment, "api-key", "list")).out
    again = await membership(system.environment, "api-key", "rotate", key_id)
    assert (again.code, "rotated before" in again.err) == (1, True)


async def test_a_subject_has_the_same_owner_id_everywhere(tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(Path.cwd())}
    printed = await membership(environment, "owner-id", "auth0|123", cwd=tmp_path)
    assert (printed.code, printed.out) == (0, "e8450465-cbac-5d2b-a94f-de5934e3313a\n")
    assert (await membership(environment, "owner-id", USER.upper(), cwd=tmp_path)).out == f"{USER}\n"
    assert (await membership(environment, "owner-id", " ", cwd=tmp_path)).code == 2


async def test_migrate_reports_that_the_database_is_up_to_date(system: System) -> None:
    ended = await membership(system.environment, "migrate")
    assert (ended.code, ended.out) == (0, "The database is up to date.\n")


async def test_an_unmigrated_database_is_reported_in_a_sentence(
    system: System, database_url: str, connection: asyncpg.Connection
) -> None:
    await connection.execute("DROP SCHEMA control CASCADE; DROP TABLE membership_migration")
    environment = system.environment | {"MEMBERSHIP_DATABASE_URL": database_url}
    for command in (["status"], ["parked", "list"], ["api-key", "list"]):
        ended = await membership(environment, *command)
        assert (ended.code, "membership migrate" in ended.err) == (1, True), command


async def test_help_is_available_for_each_command(system: System) -> None:
    for command in ([], ["parked"], ["api-key"], ["api-key", "create"], ["owner-id"], ["publish"], ["dev"]):
        ended = await membership(system.environment, *command, "--help")
        assert (ended.code, "Usage" in ended.out) == (0, True)


async def test_a_port_in_use_is_reported_in_a_sentence(system: System) -> None:
    ended = await membership(system.environment, "serve")  # the system's API uses this port
    assert (ended.code, "MEMBERSHIP_HTTP_PORT" in ended.err) == (1, True)
