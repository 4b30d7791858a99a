"""Operators' plans, through HTTP and a job runner: each does exactly what it said, once, or nothing."""

import asyncio
from typing import Any

import asyncpg
import pytest

from ops.token import sign
from tests.support.builders import campaign_id, customer_id, owner_id, published
from tests.support.console import REASON, Console
from tests.support.known_outcome import Dataset
from tests.support.operations import live
from tests.support.processes import ADMIN, JWT_SECRET, System, eventually

ACTOR = f"console user {ADMIN}"


@pytest.fixture(scope="module")
async def console(system: System) -> Console:
    """A console whose system is shared by the tests of this module."""
    console = Console(system)
    await console.start_runner()
    return console


@pytest.fixture
async def own_console(own_system: System) -> Console:
    """A console with a dataset, for a test that changes the generations."""
    dataset = Dataset(3, customers=30, campaigns=12, memberships_each=6)
    await own_system.wait_until_applied(await own_system.publish(dataset.events()))
    console = Console(own_system)
    await console.start_runner()
    return console


async def park(system: System, *bodies: bytes) -> list[int]:
    """Publish messages that cannot be applied, and return their positions."""
    last = await system.publish([("membership.nothing", body) for body in bodies])
    await system.wait_until_applied(last)
    return list(range(last - len(bodies) + 1, last + 1))


async def make_readable(system: System, position: int, customer: int) -> None:
    """Simulate a release that reads an event: replace the stored message with a valid one."""
    subject, body = published("customer.upserted.v1", 1, customer=customer, owner_id=owner_id(1))
    await system.fetch(
        "UPDATE g1.parked_event SET subject = $2, body = $3 WHERE position = $1", position, subject, body
    )


async def test_a_retry_says_first_what_would_apply_and_then_does_it(console: Console) -> None:
    system = console.system
    first, second, third = await park(system, b"{", b"{", b"{")
    await make_readable(system, second, customer=901)
    plan = await console.plan("parked_retry", positions=[third, first, second])
    assert (plan["count"], plan["unit"]) == (3, "event")
    assert plan["details"][0] == "1 would apply, 2 still fail."
    outcomes = {sample["position"]: sample["outcome"] for sample in plan["sample"]}
    assert outcomes == {first: "still_parked", second: "would_apply", third: "still_parked"}
    assert not await system.fetch("SELECT FROM g1.customer WHERE customer_id = $1", customer_id(901))
    await console.run(plan)
    ended = await console.ended(plan)
    assert (ended["state"], ended["outcome"]) == ("done", "Applied 1, still parked 2.")
    assert await system.fetch("SELECT FROM g1.customer WHERE customer_id = $1", customer_id(901))
    assert second not in await system.parked_positions()
    assert {first, third} <= await system.parked_positions()


async def test_a_selection_by_filter_acts_on_all_that_match_and_on_no_other(console: Console) -> None:
    system = console.system
    crm = await park(system, *[b'{"type": "t.v9", "source": "crm"}'] * 250)
    other = await park(system, b'{"type": "t.v9", "source": "erp"}')
    plan = await console.plan("parked_discard", type="t.v9", source="crm")
    assert plan["count"] == 250
    assert len(plan["sample"]) == 20
    await console.run(plan)
    assert (await console.ended(plan))["outcome"].startswith("Discarded 250 events")
    left = await system.parked_positions()
    assert not left & set(crm)
    assert set(other) <= left
    discards = await system.fetch(
        "SELECT actor, detail FROM control.audit WHERE action = 'parked.discard' AND position = any($1::bigint[])", crm
    )
    assert len(discards) == 250
    assert {tuple(row.values()) for row in discards} == {(ACTOR, REASON)}


async def test_a_plan_is_refused_when_another_event_matches_meanwhile(console: Console) -> None:
    system = console.system
    await park(system, b'{"type": "grows.v1"}')
    plan = await console.plan("parked_discard", type="grows.v1")
    await park(system, b'{"type": "grows.v1"}')
    refused = await console.try_run(plan, confirm="discard")
    assert (refused.status_code, refused.json()["code"]) == (409, "plan_changed")
    assert (refused.json()["planned_count"], refused.json()["current_count"]) == (1, 2)
    assert (await console.get(f"/ops/plans/{plan['plan_id']}"))["state"] == "ready"


async def test_a_plan_is_refused_when_as_many_but_other_events_match(console: Console) -> None:
    system = console.system
    (first,) = await park(system, b'{"type": "swaps.v1"}')
    plan = await console.plan("parked_discard", type="swaps.v1")
    await console.do("parked_discard", positions=[first])
    await park(system, b'{"type": "swaps.v1"}')
    refused = await console.try_run(plan, confirm="discard")
    assert (refused.status_code, refused.json()["code"]) == (409, "plan_changed")


async def test_of_many_simultaneous_runs_exactly_one_is_accepted(console: Console) -> None:
    positions = await park(console.system, *[b"{"] * 3)
    plan = await console.plan("parked_discard", positions=positions)
    replies = await asyncio.gather(*(console.try_run(plan, confirm="discard") for _ in range(8)))
    assert sorted(reply.status_code for reply in replies) == [202, *[409] * 7]
    assert {reply.json()["code"] for reply in replies if reply.status_code == 409} == {"plan_already_run"}
    await console.ended(plan)
    audited = await console.system.fetch(
        "SELECT FROM control.audit WHERE action = 'parked.discard' AND position = any($1::bigint[])", positions
    )
    assert len(audited) == 3
    runs = [detail for _, detail in await console.audit("plan.run") if plan["plan_id"] in detail]
    assert len(runs) == 1


async def test_a_run_that_waited_for_another_one_is_refused(console: Console) -> None:
    plan = await console.plan("parked_retry", positions=await park(console.system, b"{"))
    holder = await asyncpg.connect(console.system.database_url)
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute("SELECT FROM control.plan WHERE plan_id = $1 FOR UPDATE", plan["plan_id"])
    runs = [asyncio.create_task(console.try_run(plan)) for _ in range(2)]

    async def both_wait() -> bool:
        waiting = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        return len(await console.system.fetch(waiting)) == 2

    await eventually(both_wait, "both runs wait for the plan", deadline_s=4)
    await transaction.rollback()
    await holder.close()
    assert sorted(reply.status_code for reply in await asyncio.gather(*runs)) == [202, 409]


async def test_a_run_without_reason_or_with_a_wrong_word_changes_nothing(console: Console) -> None:
    positions = await park(console.system, b"{")
    plan = await console.plan("parked_discard", positions=positions)
    for content, field in (({"reason": " "}, "reason"), ({"confirm": "yes"}, "confirm"), ({}, "confirm")):
        refused = await console.try_run(plan, **content)
        assert (refused.status_code, refused.json()["detail"][0]["loc"]) == (422, ["body", field])
    assert set(positions) <= await console.system.parked_positions()
    await console.run(plan)
    assert (await console.ended(plan))["state"] == "done"


async def test_a_reason_is_one_line_that_no_terminal_obeys(console: Console) -> None:
    positions = await park(console.system, b"{")
    plan = await console.plan("parked_discard", positions=positions)
    refused = await console.try_run(plan, confirm="discard", reason="\x1b]0;title\x07harmless")
    assert (refused.status_code, refused.json()["detail"][0]["loc"]) == (422, ["body", "reason"])
    started = await console.run(plan, reason=" first\r\n\tsecond ")
    assert started["reason"] == "first second"
    await console.ended(plan)


async def test_an_expired_plan_is_refused(console: Console) -> None:
    plan = await console.plan("parked_retry", positions=await park(console.system, b"{"))
    await console.system.fetch("UPDATE control.plan SET expires_at = now() WHERE plan_id = $1", plan["plan_id"])
    refused = await console.try_run(plan)
    assert (refused.status_code, refused.json()["code"]) == (409, "plan_expired")
    assert (await console.get(f"/ops/plans/{plan['plan_id']}"))["state"] == "expired"


@pytest.mark.parametrize(
    ("action", "parameters", "status"),
    [
        ("parked_retry", {"positions": [2**40]}, 409),
        ("parked_retry", {"reason": "never"}, 409),
        ("rollback", {}, 409),
        ("approve", {"job_id": 4711}, 409),
        ("cancel", {"job_id": 4711}, 409),
        ("key_revoke", {"key_id": "ffffffffffff"}, 409),
        ("rebuild", {"from_generation": "g77"}, 409),
    ],
)
async def test_an_action_that_would_do_nothing_gets_no_plan(
    console: Console, action: str, parameters: dict[str, Any], status: int
) -> None:
    problem = await console.refused_plan(action, **parameters)
    assert (problem["status"], problem["code"]) == (status, "nothing_to_plan")
    assert problem["detail"].endswith(".")


@pytest.mark.parametrize(
    "content",
    [
        {"action": "explode"},
        {"action": "parked_retry", "positions": []},
        {"action": "parked_retry", "positions": [1], "reason": "x"},
        {"action": "parked_retry", "sorce": "crm"},
        {"action": "parked_retry", "reason": "a\0b"},
        {"action": "parked_discard", "source": "\0"},
        {"action": "key_create", "user_id": owner_id(1), "scopes": ["read"], "name": "\x1b[2Ja name"},
        {"action": "repair"},
        {"action": "repair", "customer_id": customer_id(1), "campaign_id": campaign_id(1)},
        {"action": "erase", "customer_id": "nobody"},
        {"action": "rebuild", "max_rate": 0},
        {"action": "key_create", "user_id": owner_id(1), "scopes": ["root"]},
        [],
    ],
)
async def test_an_invalid_action_is_422_and_makes_no_plan(console: Console, content: Any) -> None:
    before = await console.system.fetch("SELECT count(*) FROM control.plan")
    refused = await console.post("/ops/plans", content)
    assert refused.status_code == 422, refused.text
    assert await console.system.fetch("SELECT count(*) FROM control.plan") == before


async def test_a_page_of_another_site_can_neither_plan_nor_run(console: Console) -> None:
    positions = await park(console.system, b"{")
    plan = await console.plan("parked_discard", positions=positions)
    run = f"/ops/plans/{plan['plan_id']}/run"
    for site in ("cross-site", "same-site", "none"):
        for path, content in ((run, {"reason": REASON, "confirm": "discard"}), ("/ops/plans", {"action": "rollback"})):
            refused = await console.post(path, content, **{"Sec-Fetch-Site": site})
            assert (refused.status_code, refused.json()["code"]) == (403, "cross_site_request")
    assert set(positions) <= await console.system.parked_positions()


async def test_a_key_is_returned_once_and_stored_nowhere(console: Console) -> None:
    plan = await console.plan("key_create", user_id=owner_id(7), scopes=["read"], name="a partner", ttl_s=3600)
    secret = (await console.run(plan))["secret"]
    assert secret.startswith("mbr_")
    assert "secret" not in await console.get(f"/ops/plans/{plan['plan_id']}")
    assert (await console.try_run(plan)).json()["code"] == "plan_already_run"
    tables = await console.system.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'control'")
    for table in tables:
        rows = await console.system.fetch(f"SELECT t::text FROM control.{table['tablename']} AS t")  # noqa: S608 - from the catalogue
        assert not [row for row in rows if secret in row["t"] or secret[17:] in row["t"]], table
    assert secret not in console.system.log("serve") + console.system.log("runner")
    reply = await console.system.get(
        f"/customers/{customer_id(1)}/campaigns", headers={"X-API-Key": secret, "Authorization": ""}
    )
    assert reply.status_code == 401  # an empty bearer token is malformed, whatever the key
    revoked = await console.plan("key_revoke", key_id=secret.split("_")[1])
    assert "a partner" in revoked["sentence"]
    assert (await console.run(revoked))["outcome"].startswith("Revoked")


async def test_a_key_that_operates_cannot_create_or_revoke_more_than_it_is(console: Console) -> None:
    created = await console.run(
        await console.plan("key_create", user_id=owner_id(8), scopes=["operate"], name="a script")
    )
    stranger = await console.run(await console.plan("key_create", user_id=owner_id(9), scopes=["read"]))
    operator = Console(console.system)
    operator._headers = {"X-API-Key": created["secret"]}
    for parameters in (
        {"user_id": owner_id(8), "scopes": ["operate"], "is_admin": True},
        {"user_id": owner_id(8), "scopes": ["read"]},
        {"user_id": owner_id(9), "scopes": ["operate"]},
    ):
        assert (await operator.refused_plan("key_create", **parameters))["code"] == "beyond_caller"
    key_id = stranger["secret"].split("_")[1]
    assert (await operator.refused_plan("key_revoke", key_id=key_id))["code"] == "beyond_caller"
    admins = await console.plan("key_create", user_id=owner_id(8), scopes=["read"], is_admin=True)
    assert (await operator.try_run(admins)).json()["code"] == "beyond_caller"
    own = await operator.plan("key_create", user_id=owner_id(8), scopes=["operate"], ttl_s=600)
    briefly = Console(console.system)
    briefly._headers = {"X-API-Key": (await operator.run(own))["secret"]}
    for longer in ({}, {"ttl_s": 700}):
        refused = await briefly.refused_plan("key_create", user_id=owner_id(8), scopes=["operate"], **longer)
        assert refused["code"] == "beyond_caller"
    assert await briefly.plan("key_create", user_id=owner_id(8), scopes=["operate"], ttl_s=60)


async def test_a_caller_without_the_scope_can_neither_see_nor_run_a_plan(console: Console) -> None:
    plan = await console.plan("parked_retry", positions=await park(console.system, b"{"))
    reader = Console(console.system, sign(JWT_SECRET, owner_id(1), admin=False, ttl_s=600))
    assert (await reader.try_run(plan)).status_code == 403
    assert (await reader.post("/ops/plans", {"action": "rollback"})).status_code == 403
    assert (await reader.try_run({"plan_id": owner_id(1)})).status_code == 403
    assert (await console.try_run({"plan_id": owner_id(1)})).status_code == 404


async def test_a_principal_who_lost_the_scope_cannot_run_its_plan(console: Console) -> None:
    created = await console.run(await console.plan("key_create", user_id=owner_id(8), scopes=["operate"]))
    operator = Console(console.system)
    operator._headers = {"X-API-Key": created["secret"]}
    plan = await operator.plan("parked_retry", positions=await park(console.system, b"{"))
    key_id = created["secret"].split("_")[1]
    await console.system.fetch("UPDATE control.api_key SET scopes = '{read}' WHERE key_id = $1", key_id)

    async def refused() -> bool:
        return bool((await operator.try_run(plan, reason=" ")).status_code == 403)

    await eventually(refused, "the lost scope takes effect", deadline_s=5)
    assert (await operator.try_run(plan)).status_code == 403


async def test_plans_are_listed_newest_first_page_by_page(console: Console) -> None:
    made = [await console.plan("key_create", user_id=owner_id(1), scopes=["read"]) for _ in range(3)]
    first = await console.get("/ops/plans", limit=2)
    rest = await console.get("/ops/plans", limit=2, before=first["next_cursor"])
    found = [plan["plan_id"] for plan in first["plans"] + rest["plans"]]
    assert found[:3] == [plan["plan_id"] for plan in reversed(made)]
    assert len(set(found)) == 4


async def test_a_customer_is_repaired_as_the_plan_showed(own_console: Console) -> None:
    system = own_console.system
    await system.fetch("UPDATE g1.membership SET status = (status + 1) % 4 WHERE customer_id = $1", customer_id(1))
    plan = await own_console.plan("repair", customer_id=customer_id(1))
    assert (plan["count"], plan["unit"]) == (6, "row")
    assert {sample["table"] for sample in plan["sample"]} <= {"membership", "customer_summary"}
    stale = await own_console.plan("repair", customer_id=customer_id(1))
    await own_console.run(plan)
    assert (await own_console.ended(plan))["outcome"].startswith("6 rows written")
    await own_console.run(stale)
    changed = await own_console.ended(stale)
    assert (changed["state"], changed["outcome_code"]) == ("failed", "plan_changed")
    rejected = await own_console.rejected_plan("repair", customer_id=customer_id(1))
    assert rejected["outcome_code"] == "nothing_to_plan"
    assert "matches the stream" in rejected["outcome"]
    assert [actor for actor, _ in await own_console.audit("repair")] == [ACTOR]


async def test_an_erasure_leaves_nothing_of_the_customer_not_even_in_plans(own_console: Console) -> None:
    system, customer = own_console.system, customer_id(1)
    await system.fetch("UPDATE g1.membership SET status = (status + 1) % 4 WHERE customer_id = $1", customer)
    await own_console.plan("repair", customer_id=customer)
    await own_console.do("verify")
    assert customer in str(await system.fetch("SELECT report FROM control.job_review"))
    plan = await own_console.plan("erase", customer_id=customer)
    for name in (customer, customer.upper(), customer.replace("-", "")):
        named = await own_console.try_run(plan, confirm="erase", reason=f"{name} asked for it")
        assert (named.status_code, named.json()["detail"][0]["loc"]) == (422, ["body", "reason"])
    await own_console.run(plan)
    ended = await own_console.ended(plan)
    assert ended["state"] == "done", ended
    erased = [int(word.replace(",", "")) for word in ended["outcome"].split() if word.isdigit()]
    assert sum(erased) == plan["count"]
    tables = await system.fetch("SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('control', 'g1')")
    for schema, table in tables:
        query = f"SELECT t::text FROM {schema}.{table} AS t WHERE strpos(t::text, $1) > 0"  # noqa: S608 - from the catalogue
        rows = await system.fetch(query, customer)
        assert not rows, table
    assert (await own_console.rejected_plan("erase", customer_id=customer))["outcome_code"] == "nothing_to_plan"


async def test_an_erasure_ends_all_other_plans_for_the_customer(own_console: Console) -> None:
    customer = customer_id(1)
    await own_console.system.fetch(
        "UPDATE g1.membership SET status = (status + 1) % 4 WHERE customer_id = $1", customer
    )
    others = [await own_console.plan(action, customer_id=customer) for action in ("repair", "erase")]
    plan = await own_console.plan("erase", customer_id=customer)
    await own_console.run(plan)
    assert (await own_console.ended(plan))["state"] == "done"
    for other in others:
        refused = await own_console.try_run(other, confirm=other.get("confirm_word"))
        assert (refused.status_code, refused.json()["code"]) == (409, "plan_not_ready"), refused.text
        shown = await own_console.get(f"/ops/plans/{other['plan_id']}")
        assert (shown["state"], shown["outcome_code"]) == ("failed", "customer_erased")


async def test_a_rebuild_waits_for_approval_then_switches_and_rolls_back(own_console: Console) -> None:
    system = own_console.system
    await system.fetch("UPDATE g1.membership SET status = (status + 1) % 4 WHERE customer_id = $1", customer_id(1))
    rebuild = await own_console.plan("rebuild")
    await own_console.run(rebuild)
    job_id = await awaits_approval(own_console)
    assert (await own_console.refused_plan("rebuild"))["code"] == "nothing_to_plan"
    waiting = await own_console.get(f"/ops/jobs/{job_id}")
    assert (waiting["awaits_approval"], waiting["started_by"]) == (True, ACTOR)
    assert waiting["report"]["differing_rows"] == 6
    (table,) = waiting["report"]["tables"]
    assert (table["table"], table["differing"], table["columns"]) == (
        "membership",
        6,
        [{"column": "status", "rows": 6}],
    )
    assert {sample["key"]["customer_id"] for sample in table["samples"]} == {customer_id(1)}
    listed = (await own_console.get("/ops/jobs"))["jobs"][0]
    assert listed["report"]["tables"][0]["samples"] == []
    approve = await own_console.plan("approve", job_id=job_id)
    assert (approve["count"], approve["unit"]) == (6, "row")
    assert approve["sample"]
    assert (await own_console.run(approve))["state"] == "done"
    ended = await own_console.ended(rebuild)
    assert (ended["state"], ended["job_id"]) == ("done", job_id)
    assert ended["outcome"].startswith("g2 is live")
    assert await live(system) == "g2"
    assert (await own_console.get(f"/ops/jobs/{job_id}"))["awaits_approval"] is False
    rolled = await own_console.do("rollback")
    assert rolled["outcome"].startswith("g1 is live again")
    assert await live(system) == "g1"
    assert [actor for actor, _ in await own_console.audit("rollback")] == [ACTOR]


async def test_a_refused_rebuild_is_kept_until_it_is_cancelled(own_console: Console) -> None:
    system = own_console.system
    await system.fetch("UPDATE g1.membership SET status = (status + 1) % 4 WHERE customer_id = $1", customer_id(1))
    rebuild = await own_console.plan("rebuild")
    await own_console.run(rebuild)
    job_id = await awaits_approval(own_console)
    both = [await own_console.plan(action, job_id=job_id) for action in ("refuse", "approve")]
    await own_console.run(both[0])
    assert (await own_console.try_run(both[1])).json()["code"] == "plan_changed"
    ended = await own_console.ended(rebuild)
    assert (ended["state"], ended["outcome_code"]) == ("failed", "gate_refused")
    assert await live(system) == "g1"
    cancelled = await own_console.do("cancel", job_id=job_id)
    assert "dropped its partial results" in cancelled["outcome"]
    states = await system.fetch("SELECT state FROM control.generation WHERE generation = 'g2'")
    assert states[0]["state"] == "dropped"


async def test_a_rebuild_that_waits_for_approval_can_be_cancelled(own_console: Console) -> None:
    await own_console.system.fetch(
        "UPDATE g1.membership SET status = (status + 1) % 4 WHERE customer_id = $1", customer_id(1)
    )
    rebuild = await own_console.plan("rebuild")
    await own_console.run(rebuild)
    await own_console.do("cancel", job_id=await awaits_approval(own_console))
    ended = await own_console.ended(rebuild)
    assert (ended["state"], ended["outcome_code"]) == ("failed", "job_cancelled")


async def test_an_unapproved_rebuild_is_refused_when_its_time_is_over(own_system: System) -> None:
    own_system.settings["MEMBERSHIP_APPROVAL_WAIT_S"] = "1"
    dataset = Dataset(3, customers=5, campaigns=3, memberships_each=2)
    await own_system.wait_until_applied(await own_system.publish(dataset.events()))
    await own_system.fetch("UPDATE g1.membership SET status = (status + 1) % 4 WHERE customer_id = $1", customer_id(1))
    console = Console(own_system)
    await console.start_runner()
    plan = await console.plan("rebuild")
    await console.run(plan)
    ended = await console.ended(plan)
    assert (ended["state"], ended["outcome_code"]) == ("failed", "gate_refused")


async def test_without_a_live_runner_nothing_is_started(own_system: System) -> None:
    console = Console(own_system)
    plan = await console.plan("verify")
    refused = await console.try_run(plan)
    assert (refused.status_code, refused.json()["code"]) == (503, "runner_unavailable")
    assert (await console.refused_plan("erase", customer_id=customer_id(1)))["code"] == "runner_unavailable"
    await console.start_runner()
    await console.run(plan)
    assert "No row differs" in (await console.ended(plan))["outcome"]


async def awaits_approval(console: Console) -> int:
    """Return the job that waits for an operator's decision."""

    async def find() -> int | None:
        rows = await console.system.fetch("SELECT job_id FROM control.job_review WHERE awaits_until > now()")
        return rows[0]["job_id"] if rows else None

    result: int = await eventually(find, "a job waits for a decision")
    return result
