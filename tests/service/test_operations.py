"""The operators' API: what each path shows, read from a running system."""

from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest

from projections import api_keys
from projections.maintenance import runner_presence, samples
from projections.maintenance.samples import Sample, StreamReport, StreamSetting, StreamSource
from projections.maintenance.status import NO_LEADER
from service.operations.overview import NO_RUNNER
from tests.support.builders import body_of, customer_id, data_of, owner_id, published, subject_for
from tests.support.operators import ask, require_documented
from tests.support.processes import ADMIN, System, eventually
from tests.support.scenario import bearer, code_of, locs, new_number

OPERATE: tuple[api_keys.Scope, ...] = ("operate",)
ENROLLED = "target.enrolled.v1"


@pytest.fixture
def admin(system: System) -> dict[str, str]:
    return {"Authorization": f"Bearer {system.admin_token}"}


def instant(text: str) -> datetime:
    assert text.endswith("Z"), text
    return datetime.fromisoformat(text)


async def insert(system: System, sample: Sample, age_s: float = 0.0) -> None:
    """Replace the samples by one that is `age_s` old."""
    connection = await asyncpg.connect(system.database_url)
    await connection.execute("DELETE FROM control.sample")
    await samples.write(connection, sample)
    await connection.execute("UPDATE control.sample SET at = at - make_interval(secs => $1)", age_s)
    await connection.close()


def sample_of(position: int, **fields: Any) -> Sample:
    return Sample(generation="g1", position=position, parked=0, fan_outs=0, leader=True, **fields)


async def test_the_session_says_who_and_until_when(client: httpx.AsyncClient, admin: dict[str, str]) -> None:
    session = await ask(client, "/session", admin)
    assert (session["user_id"], session["is_admin"], session["scopes"]) == (ADMIN, True, ["operate", "read"])
    left = instant(session["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=30) < left <= timedelta(hours=1)


async def test_the_session_of_a_key_without_expiry_has_no_end(system: System, client: httpx.AsyncClient) -> None:
    connection = await asyncpg.connect(system.database_url)
    key = await api_keys.create(connection, owner_id(7), is_admin=False, label="", actor="test", scopes=OPERATE)
    ending = await api_keys.create(
        connection, owner_id(7), is_admin=False, label="", actor="test", scopes=OPERATE, ttl=timedelta(hours=2)
    )
    await connection.close()
    session = await ask(client, "/session", {"X-API-Key": key})
    assert (session["scopes"], session["is_admin"], "expires_at" in session) == (["operate"], False, False)
    left = instant((await ask(client, "/session", {"X-API-Key": ending}))["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=119) < left <= timedelta(hours=2)


async def test_a_refusal_of_an_operators_path_is_never_stored(client: httpx.AsyncClient) -> None:
    for headers, status in (({}, 401), (bearer(1), 403)):
        reply = await client.get("/ops/overview", headers=headers)
        assert (reply.status_code, reply.headers.get_list("cache-control")) == (status, ["no-store"])
        assert reply.json().keys() == {"type", "title", "status", "detail", "code", "request_id"}


async def test_a_stranger_does_not_learn_whether_parameters_are_valid(client: httpx.AsyncClient) -> None:
    for path in ("/ops/parked/x", "/ops/jobs?limit=0", "/ops/parked/1"):
        assert code_of(await client.get(path, headers=bearer(1))) == (403, "insufficient_scope")


async def test_every_invalid_parameter_is_reported_at_once(client: httpx.AsyncClient, admin: dict[str, str]) -> None:
    reply = await client.get("/ops/parked", headers=admin, params={"limit": "0", "before": "x", "type": "a\0b"})
    assert locs(reply) == [["query", "type"], ["query", "before"], ["query", "limit"]]
    assert reply.headers.get_list("cache-control") == ["no-store"]
    assert locs(await client.get("/ops/parked/x", headers=admin)) == [["path", "position"]]


async def test_a_method_that_a_path_lacks_names_those_it_has(client: httpx.AsyncClient, admin: dict[str, str]) -> None:
    reply = await client.post("/ops/overview", headers=admin)
    assert code_of(reply) == (405, "method_not_allowed")
    assert reply.headers["allow"] == "GET, HEAD"


async def test_the_overview_shows_the_stream_of_a_recent_sample(
    system: System, client: httpx.AsyncClient, admin: dict[str, str]
) -> None:
    position = await system.publish([published(ENROLLED, 1, customer=new_number())])
    await system.wait_until_applied(position)
    await insert(system, sample_of(position, stream_position=position + 5, lag_events=5, lag_s=0.5, missing_events=0))
    overview = await ask(client, "/overview", admin)
    assert (overview["generation"], overview["position"], overview["leader"]) == ("g1", position, True)
    assert (overview["stream_position"], overview["lag_events"], overview["lag_s"]) == (position + 5, 5, 0.5)
    assert overview["problems"] == []
    assert "sampled_at" in overview


async def test_the_overview_does_not_show_the_stream_of_an_old_sample(
    system: System, client: httpx.AsyncClient, admin: dict[str, str]
) -> None:
    await insert(system, sample_of(1, stream_position=5, lag_events=4, lag_s=0.5), age_s=60)
    overview = await ask(client, "/overview", admin)
    assert overview.keys().isdisjoint({"stream_position", "lag_events", "lag_s", "sampled_at"})
    assert [sentence for sentence in overview["problems"] if "for 6" in sentence] == overview["problems"]
    await system.fetch("DELETE FROM control.sample")
    never = await ask(client, "/overview", admin)
    assert (never["problems"], never["runner"]) == ([NO_RUNNER], {"alive": False})


async def test_the_overview_says_whether_a_job_runner_is_alive(
    system: System, client: httpx.AsyncClient, admin: dict[str, str]
) -> None:
    connection = await asyncpg.connect(system.database_url)
    epoch = await runner_presence.begin(connection, "host:1")
    assert (await ask(client, "/overview", admin))["runner"]["alive"] is True
    await connection.execute("UPDATE control.runner SET seen_at = now() - interval '11 s'")
    assert (await ask(client, "/overview", admin))["runner"]["alive"] is False
    assert await runner_presence.beat(connection, epoch)
    assert (await ask(client, "/overview", admin))["runner"]["alive"] is True
    assert await runner_presence.begin(connection, "host:2") == epoch + 1
    assert not await runner_presence.beat(connection, epoch)
    await connection.execute("DELETE FROM control.runner")
    await connection.close()


async def test_the_overview_repeats_the_problem_of_a_sample(
    system: System, client: httpx.AsyncClient, admin: dict[str, str]
) -> None:
    await insert(system, sample_of(1, problem="The broker cannot be queried: it is on fire."))
    overview = await ask(client, "/overview", admin)
    assert overview["problems"] == ["The broker cannot be queried: it is on fire."]
    assert "stream_position" not in overview


async def test_the_overview_says_that_no_projector_leads(own_system: System) -> None:
    own_system.kill("project")

    async def problems() -> bool:
        found = (await own_system.get("/ops/overview")).json()
        return NO_LEADER in found["problems"] and found["leader"] is False

    await eventually(problems, "the overview says that nobody leads")


async def test_the_rate_of_events_is_that_between_samples(
    system: System, client: httpx.AsyncClient, admin: dict[str, str]
) -> None:
    await system.fetch("DELETE FROM control.sample")
    await system.fetch(
        "INSERT INTO control.sample (at, generation, position, parked, fan_outs, leader) VALUES "
        "(now() - interval '11 s', 'g1', 100, 0, 0, true), (now() - interval '1 s', 'g1', 600, 0, 0, true)"
    )
    assert (await ask(client, "/overview", admin))["events_per_s"] == 50.0
    await system.fetch("UPDATE control.sample SET generation = 'g2' WHERE position = 600")
    assert "events_per_s" not in await ask(client, "/overview", admin)


async def test_the_samples_of_the_last_minutes_come_oldest_first(
    system: System, client: httpx.AsyncClient, admin: dict[str, str]
) -> None:
    await system.fetch("DELETE FROM control.sample")
    await system.fetch(
        "INSERT INTO control.sample (at, generation, position, parked, fan_outs, leader, lag_events) "
        "SELECT now() - age * interval '1 minute', 'g1', 100 - age, 2, 1, true, age "
        "FROM generate_series(5, 55, 10) AS age"
    )
    shown = (await ask(client, "/samples", admin, minutes=30))["samples"]
    assert [(each["position"], each["lag_events"]) for each in shown] == [(75, 25), (85, 15), (95, 5)]
    assert shown[0].keys() == {"at", "position", "lag_events", "parked", "fan_outs"}
    assert len((await ask(client, "/samples", admin))["samples"]) == 6


async def test_reads_are_counted_over_the_last_seconds(client: httpx.AsyncClient, admin: dict[str, str]) -> None:
    await ask(client, "/overview", admin)
    path = f"/customers/{customer_id(new_number())}/campaigns"

    async def counted() -> Any:
        await client.get(path, headers=admin)
        reads = (await ask(client, "/overview", admin))["reads"]
        return reads if reads.get("p50_ms") else None

    reads = await eventually(counted, "reads are measured")
    assert reads["per_s"] > 0
    assert 0 < reads["p50_ms"] <= reads["p99_ms"] < 10_000
    assert 0 <= reads["hit_ratio"] <= 1


async def test_jobs_are_listed_newest_first_and_page_by_page(
    system: System, client: httpx.AsyncClient, admin: dict[str, str]
) -> None:
    await system.fetch(
        "INSERT INTO control.job (kind, state, phase, release, started_by, ended_at, outcome) "
        "SELECT 'verify', 'done', 'compare', '1', 'test', now(), 'No row differs ' || n FROM generate_series(1, 5) AS n"
    )
    first = await ask(client, "/jobs", admin, limit=2)
    second = await ask(client, "/jobs", admin, limit=2, before=first["next_cursor"])
    outcomes = [job["outcome"][-1] for job in first["jobs"] + second["jobs"]]
    assert outcomes == ["5", "4", "3", "2"]
    assert (first["jobs"][0]["kind"], first["jobs"][0]["state"]) == ("verify", "done")
    one = await ask(client, f"/jobs/{first['jobs'][0]['job_id']}", admin)
    assert one == first["jobs"][0]
    assert code_of(await client.get("/ops/jobs/999999", headers=admin)) == (404, "job_not_found")
    last = await ask(client, "/jobs", admin, limit=200)
    assert "next_cursor" not in last


async def test_an_open_job_shows_its_rate_and_whether_it_awaits_approval(
    own_system: System,
) -> None:
    await own_system.fetch(
        "INSERT INTO control.job (kind, phase, release, started_by, done, total, eta_s, outcome) "
        "VALUES ('rebuild', 'gate', '1', 'test', 250, 1000, 15, '3 differing rows.')"
    )
    (job,) = (await own_system.get("/ops/overview")).json()["jobs"]
    assert (job["state"], job["progress"]) == ("refused", "25%")
    assert job["awaits_approval"] is False
    await own_system.fetch(
        "INSERT INTO control.job_review (job_id, report, awaits_until) VALUES ($1, $2, now() + interval '1 hour')",
        job["job_id"],
        '{"differing_rows": 3, "position": 1, "sentences": []}',
    )
    shown = (await own_system.get(f"/ops/jobs/{job['job_id']}")).json()
    assert (shown["awaits_approval"], shown["report"]["differing_rows"]) == (True, 3)
    (waiting,) = (await own_system.get("/ops/overview")).json()["jobs"]
    assert (waiting["awaits_approval"], "report" in waiting) == (True, False)
    assert "eta_s" not in job  # no process runs it
    holder = await asyncpg.connect(own_system.database_url)
    await holder.execute("SELECT pg_advisory_lock($1, $2)", 0x4D454D42, 0x4A4F4253)
    (job,) = (await own_system.get("/ops/generations")).json()["jobs"]
    assert (job["state"], job["eta_s"], job["rate_per_s"]) == ("running", 15.0, 50.0)
    await holder.close()


async def test_generations_show_which_is_live_and_which_would_be_rolled_back_to(own_system: System) -> None:
    await own_system.fetch(
        "INSERT INTO control.generation (generation, state, follows_until) "
        "VALUES ('g7', 'following', now() + interval '1 hour'), ('g8', 'dropped', NULL)"
    )
    await own_system.fetch("INSERT INTO control.checkpoint (generation) VALUES ('g7')")
    await own_system.fetch("UPDATE control.live SET previous = 'g7'")
    generations = (await own_system.get("/ops/generations")).json()
    require_documented("/ops/generations", generations)
    shown = generations["generations"]
    states = [(each["generation"], each["state"], each["is_previous"]) for each in shown]
    assert states == [("g1", "live", False), ("g7", "following", True)]
    assert instant(shown[1]["follows_until"]) > datetime.now(UTC)
    assert "follows_until" not in shown[0]


async def test_the_audit_is_paged_and_filtered_by_action(
    system: System, client: httpx.AsyncClient, admin: dict[str, str]
) -> None:
    await system.fetch(
        "INSERT INTO control.audit (actor, action, position, detail) SELECT 'me@here', "
        "CASE n % 2 WHEN 0 THEN 'parked.retry' ELSE 'parked.discard' END, n, 'x' FROM generate_series(1, 6) AS n"
    )
    first = await ask(client, "/audit", admin, limit=4)
    second = await ask(client, "/audit", admin, limit=4, before=first["next_cursor"])
    assert [entry["position"] for entry in (first["entries"] + second["entries"])[:6]] == [6, 5, 4, 3, 2, 1]
    retried = (await ask(client, "/audit", admin, action="parked.retry"))["entries"]
    assert [entry["position"] for entry in retried] == [6, 4, 2]
    assert len((await ask(client, "/audit", admin, action="parked."))["entries"]) == 6
    assert retried[0] | {"audit_id": 0, "at": ""} == {
        "audit_id": 0, "at": "", "actor": "me@here", "action": "parked.retry", "position": 6, "detail": "x",
    }  # fmt: skip


async def test_keys_are_shown_with_their_state_and_without_their_secret(
    own_system: System,
) -> None:
    connection = await asyncpg.connect(own_system.database_url)
    keys = [
        await api_keys.create(
            connection,
            owner_id(1),
            is_admin=False,
            label=f"key {number}",
            actor="test",
            scopes=api_keys.READ_ONLY,
            ttl=ttl,
        )
        for number, ttl in enumerate((None, timedelta(microseconds=1), timedelta(hours=1)))
    ]
    await api_keys.revoke(connection, keys[0].split("_")[1], actor="test")
    await connection.close()
    reply = await own_system.get("/ops/keys?limit=2")
    require_documented("/ops/keys", reply.json())
    shown, cursor = reply.json()["keys"], reply.json()["next_cursor"]
    rest = (await own_system.get(f"/ops/keys?before={cursor}")).json()
    states = [(key["name"], key["state"]) for key in shown + rest["keys"]]
    assert states == [("key 2", "valid"), ("key 1", "expired"), ("key 0", "revoked")]
    assert "next_cursor" not in rest
    for key in keys:
        assert key.split("_")[2][:40] not in reply.text
    assert shown[0].keys() >= {"key_id", "user_id", "is_admin", "scopes", "created_at", "expires_at", "state"}


async def test_the_stream_is_shown_as_the_job_runner_found_it(own_system: System) -> None:
    missing = await own_system.get("/ops/stream")
    assert code_of(missing) == (503, "stream_unavailable")
    assert "membership jobs run" in missing.json()["detail"]
    report = StreamReport(
        name="MEMBERSHIP",
        first_position=1,
        last_position=9,
        messages=8,
        bytes=1234,
        settings=[StreamSetting("max_age", "0", "60", False, "max_age is 60 instead of 0.")],
        sources=[StreamSource("crm", 9, datetime(2026, 1, 1, tzinfo=UTC))],
    )
    connection = await asyncpg.connect(own_system.database_url)
    await samples.write_stream(connection, report)
    await connection.close()
    shown = (await own_system.get("/ops/stream")).json()
    require_documented("/ops/stream", shown)
    assert instant(shown.pop("at")) <= datetime.now(UTC)
    assert shown == {
        "name": "MEMBERSHIP", "first_position": 1, "last_position": 9, "messages": 8, "bytes": 1234,
        "settings": [
            {"name": "max_age", "wanted": "0", "found": "60", "ok": False, "sentence": "max_age is 60 instead of 0."}
        ],
        "sources": [{"source": "crm", "last_position": 9, "last_at": "2026-01-01T00:00:00Z"}],
    }  # fmt: skip


def parked_events(customer: int) -> list[tuple[str, bytes]]:
    """Return six events that are parked, in four groups."""
    data = data_of(ENROLLED, 1, customer=customer)
    subject = subject_for(ENROLLED, data)
    wrong_type = body_of(ENROLLED, data | {"version": "7"}, source="crm")
    nested = data_of("campaign.upserted.v1", 1, campaign=customer, stages=[{"name": 7}])
    return [
        (subject, wrong_type),
        (subject, wrong_type),
        (subject, body_of(ENROLLED, data | {"version": "7"}, source="import")),
        (subject, b'{"specversion": "1.0", \xff}'),
        (subject, body_of(ENROLLED, {name: value for name, value in data.items() if name != "version"}, source="crm")),
        (subject_for("campaign.upserted.v1", nested), body_of("campaign.upserted.v1", nested, source="crm")),
    ]


async def test_parked_events_are_grouped_by_reason_type_and_source(own_system: System) -> None:
    last = await own_system.publish(parked_events(1))
    await own_system.wait_until_applied(last)
    shown = (await own_system.get("/ops/parked/groups")).json()
    require_documented("/ops/parked/groups", shown)
    assert shown["total"] == 6
    found = [
        (each["reason"], each.get("type"), each.get("source"), each["count"], each["by_hour"][-1], sum(each["by_hour"]))
        for each in shown["groups"]
    ]
    assert found[0] == ("invalid_field", ENROLLED, "crm", 3, 3, 3)
    assert sorted(found[1:], key=str) == sorted(
        [
            ("invalid_field", ENROLLED, "import", 1, 1, 1),
            ("invalid_field", "campaign.upserted.v1", "crm", 1, 1, 1),
            ("invalid_json", None, None, 1, 1, 1),
        ],
        key=str,
    )
    assert {len(each["by_hour"]) for each in shown["groups"]} == {24}
    filtered = (await own_system.get("/ops/parked/groups?source=import")).json()
    assert (filtered["total"], [each["count"] for each in filtered["groups"]]) == (1, [1])
    await own_system.fetch(
        "UPDATE g1.parked_event SET first_seen_at = now() - interval '90 minutes' WHERE position = 1"
    )
    crm = (await own_system.get("/ops/parked/groups?source=crm")).json()["groups"][0]
    assert crm["by_hour"][-2:] == [1, 2]
    assert instant(crm["first_seen_at"]) < instant(crm["last_seen_at"]) - timedelta(hours=1)


async def test_the_count_of_a_filtered_list_is_of_all_pages(own_system: System) -> None:
    last = await own_system.publish(parked_events(1))
    await own_system.wait_until_applied(last)
    first = (await own_system.get("/ops/parked?source=crm&limit=3")).json()
    require_documented("/ops/parked", first)
    rest = (await own_system.get(f"/ops/parked?source=crm&limit=3&before={first['next_cursor']}")).json()
    assert (first["total"], rest["total"]) == (4, 4)
    assert [event["position"] for event in first["events"] + rest["events"]] == [6, 5, 2, 1]
    assert "next_cursor" not in rest
    nameless = (await own_system.get("/ops/parked?type=&source=")).json()
    assert (nameless["total"], [event["position"] for event in nameless["events"]]) == (1, [4])
    assert "type" not in nameless["events"][0]


async def test_a_parked_event_shows_where_its_error_is(own_system: System) -> None:
    last = await own_system.publish(parked_events(1))
    await own_system.wait_until_applied(last)

    async def shown(position: int) -> dict[str, Any]:
        found: dict[str, Any] = (await own_system.get(f"/ops/parked/{position}")).json()
        require_documented(f"/ops/parked/{position}", found)
        return found

    wrong_type = await shown(1)
    assert (wrong_type["error_path"], wrong_type["now"]["outcome"]) == (["data", "version"], "still_parked")
    assert '"version":"7"' in wrong_type["body"]
    assert wrong_type["body_bytes"] == len(wrong_type["body"])
    broken = await shown(4)
    assert (broken["reason"], "error_path" in broken) == ("invalid_json", False)
    assert broken["body"].endswith("\\xff}")
    assert broken["body_bytes"] == len(broken["body"]) - 3
    assert (await shown(5))["error_path"] == ["data", "version"]
    assert (await shown(6))["error_path"][:3] == ["data", "stages", 0]
    assert code_of(await own_system.get("/ops/parked/99")) == (404, "parked_event_not_found")


async def test_a_parked_event_that_this_release_reads_would_apply(own_system: System) -> None:
    subject, body = published(ENROLLED, 1)
    last = await own_system.publish([(subject, b"{}")])
    await own_system.wait_until_applied(last)
    connection = await asyncpg.connect(own_system.database_url)
    await connection.execute("UPDATE g1.parked_event SET body = $1", body)
    assert (await own_system.get(f"/ops/parked/{last}")).json()["now"] == {"outcome": "would_apply"}
    await connection.execute("UPDATE g1.parked_event SET reason = 'refused_by_tables'")
    assert (await own_system.get(f"/ops/parked/{last}")).json()["now"] == {"outcome": "undecided"}
    await connection.close()
