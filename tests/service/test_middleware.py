"""The headers of every response, routed or not; waiting for a position; and malformed bytes on the wire."""

import asyncio
import json
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from projections.settings import DEFAULTS
from service.problems import PROBLEMS
from tests.support.builders import customer_id
from tests.support.processes import System
from tests.support.scenario import Scenario, another_api, code_of, locs, new_number, path_of

TIMING = re.compile(r"total;dur=\d+(\.\d+)?")
REPLY_TIMEOUT_S = 10.0
FAR_BEYOND = 2**62
QUERY_BYTES_MAX = int(DEFAULTS["http_query_bytes_max"])
MEMBERS = {"type", "title", "status", "detail", "code", "request_id"}


async def one_of_each(scenario: Scenario, **headers: str) -> dict[str, httpx.Response]:
    """Return one response of every kind, by name."""
    customer = scenario.customer()
    await scenario.publish_and_wait()
    admin = scenario.as_admin(**headers)
    client = scenario.client
    return {
        "page": await scenario.ask(customer, admin),
        "not modified": await scenario.ask(customer, admin | {"If-None-Match": "*"}),
        "unauthenticated": await scenario.ask(customer, headers),
        "unprocessable": await scenario.ask(customer, admin, limit=0),
        "customer_not_found": await scenario.ask(new_number(), admin),
        "route_not_found": await client.get("/nowhere/at/all", headers=admin),
        "query_too_long": await client.get(path_of(customer), params={"x": "x" * QUERY_BYTES_MAX}, headers=headers),
        "bad_request": await client.get("/health/live", headers=headers | {"Host": ""}),
        "method_not_allowed": await client.post(path_of(customer), headers=admin),
        "position_not_reached": await scenario.ask(
            customer, admin | {"Membership-Min-Position": str(FAR_BEYOND), "Prefer": "wait=0"}
        ),
        "live": await client.get("/health/live", headers=headers),
        "ready": await client.get("/health/ready", headers=headers),
        "metrics": await client.get("/metrics", headers=headers),
        "contract": await client.get("/openapi.json", headers=headers),
        "docs": await client.get("/docs", headers=headers),
    }


# --- Headers and errors of every response ----------------------------------------------------------------------------


async def test_a_request_id_is_echoed_on_every_response(scenario: Scenario) -> None:
    for name, reply in (await one_of_each(scenario, **{"X-Request-ID": "the-callers.own:id/1"})).items():
        assert reply.headers.get_list("x-request-id") == ["the-callers.own:id/1"], name


async def test_a_missing_request_id_is_replaced_by_a_unique_one(scenario: Scenario) -> None:
    replies = await one_of_each(scenario)
    generated = {reply.headers["x-request-id"] for reply in replies.values()}
    assert len(generated) == len(replies)
    assert all(generated)


@pytest.mark.parametrize("odd", ["", "a b", "x" * 129, "é", "a,b", '"', "<script>", "a\tb", "{}", "%0d%0a"])
async def test_a_request_id_that_could_forge_a_log_line_is_replaced(scenario: Scenario, odd: str) -> None:
    reply = await scenario.client.get("/health/live", headers=[(b"X-Request-ID", odd.encode())])
    (request_id,) = reply.headers.get_list("x-request-id")
    assert request_id not in {"", odd}


async def test_a_request_id_may_have_128_characters(scenario: Scenario) -> None:
    reply = await scenario.client.get("/health/live", headers={"X-Request-ID": "x" * 128})
    assert reply.headers["x-request-id"] == "x" * 128


async def test_every_response_has_server_timing(scenario: Scenario) -> None:
    for name, reply in (await one_of_each(scenario)).items():
        (timing,) = reply.headers.get_list("server-timing")
        assert TIMING.fullmatch(timing), name


async def test_every_error_but_422_is_a_problem_with_a_code_and_a_sentence(scenario: Scenario) -> None:
    replies = await one_of_each(scenario)
    statuses = {
        "unauthenticated": 401,
        "customer_not_found": 404,
        "route_not_found": 404,
        "query_too_long": 414,
        "bad_request": 400,
        "method_not_allowed": 405,
        "position_not_reached": 503,
    }
    for code, status in statuses.items():
        reply = replies[code]
        assert code_of(reply) == (status, code)
        problem = reply.json()
        assert problem.keys() >= MEMBERS
        assert problem["status"] == status
        assert problem["type"] == "about:blank"
        assert problem["request_id"] == reply.headers["x-request-id"]
        assert problem["detail"][0].isupper()
        assert problem["detail"].endswith(".")
    assert {name for name, reply in replies.items() if reply.status_code >= 400} == {*statuses, "unprocessable"}


async def test_422_has_exactly_the_contracts_body(scenario: Scenario) -> None:
    reply = (await one_of_each(scenario))["unprocessable"]
    assert reply.headers["content-type"] == "application/json"
    assert reply.json() == {
        "detail": [
            {
                "loc": ["query", "limit"],
                "msg": "Input should be greater than or equal to 1",
                "type": "greater_than_equal",
            }
        ]
    }


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "QUERY"])
async def test_other_methods_are_405_and_list_the_allowed_ones(scenario: Scenario, method: str) -> None:
    for path in (path_of(1), "/health/live", "/metrics"):
        reply = await scenario.client.request(method, path, headers=scenario.as_admin())
        assert reply.status_code == 405, path
        assert reply.headers["allow"] == "GET, HEAD"


async def test_options_lists_the_allowed_methods(scenario: Scenario) -> None:
    reply = await scenario.client.options("/health/live")
    assert (reply.status_code, reply.headers["allow"]) == (204, "GET, HEAD, OPTIONS")


async def test_head_has_the_status_and_headers_of_get_on_every_route(scenario: Scenario) -> None:
    customer = scenario.member_of(scenario.campaign("listed"))
    await scenario.publish_and_wait()
    admin = scenario.as_admin()
    listing = path_of(customer)
    cases: dict[str, tuple[str, dict[str, str]]] = {
        "a page": (listing + "?limit=3", admin),
        "a 304": (listing, admin | {"If-None-Match": "*"}),
        "a page in gzip": (listing + "?limit=200", admin | {"Accept-Encoding": "gzip"}),
        "a page in zstd": (listing + "?limit=200", admin | {"Accept-Encoding": "gzip, zstd"}),
        "a 401": (listing, {}),
        "a 404": (path_of(new_number()), admin),
        "a 414": (listing + "?q=" + "x" * QUERY_BYTES_MAX, admin),
        "a 422": (listing + "?limit=0", admin),
    } | {path: (path, {}) for path in ("/health/live", "/health/ready", "/docs", "/openapi.json", "/nowhere")}
    for name, (path, headers) in cases.items():
        head = await scenario.client.head(path, headers=headers)
        get = await scenario.client.get(path, headers=headers)
        assert (head.status_code, constant_headers(head)) == (get.status_code, constant_headers(get)), name
        assert head.content == b"", name


async def test_head_of_a_cached_page_is_answered_from_the_cache(scenario: Scenario, system: System) -> None:
    customer = scenario.member_of(scenario.campaign("listed"))
    await scenario.publish_and_wait()
    page = await scenario.ask(customer)
    before = await hits(scenario)
    head = await scenario.client.head(path_of(customer), headers=scenario.as_admin())
    assert await hits(scenario) == before + 1
    assert constant_headers(head) == constant_headers(page)
    assert await exchange(system, request_bytes(system, path_of(customer).encode(), method=b"HEAD")) == (200, b"")


async def test_head_of_the_metrics_has_no_body(system: System) -> None:
    assert await exchange(system, request_bytes(system, b"/metrics", method=b"HEAD")) == (200, b"")


def constant_headers(reply: httpx.Response) -> dict[str, str]:
    """Return the headers that do not differ between requests."""
    varying = {"x-request-id", "server-timing", "date"}
    return {name: value for name, value in reply.headers.items() if name not in varying}


async def hits(scenario: Scenario) -> float:
    """Return the number of cache hits so far."""
    name = 'membership_cache_requests_total{kind="answer",outcome="hit"} '
    lines = (await scenario.client.get("/metrics")).text.splitlines()
    return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))


@pytest.mark.parametrize("path", ["/", "/customers", "/customers/x", "/customers/x/campaigns/y", "/docs/assets/../x"])
async def test_unknown_paths_are_404_with_or_without_credentials(scenario: Scenario, path: str) -> None:
    for headers in ({}, scenario.as_admin()):
        assert code_of(await scenario.client.get(path, headers=headers)) == (404, "route_not_found")


async def test_every_problem_response_matches_the_problem_table(scenario: Scenario) -> None:
    for reply in (await one_of_each(scenario)).values():
        if reply.headers.get("content-type") == "application/problem+json":
            problem = PROBLEMS[reply.json()["code"]]
            assert (reply.status_code, reply.json()["detail"]) == (problem.status, problem.detail)


# --- Health and metrics ----------------------------------------------------------------------------------------------


async def test_health_reports_live_ready_generation_and_position(scenario: Scenario) -> None:
    position = await _publish_anything(scenario)
    assert (await scenario.client.get("/health/live")).json() == {"status": "live"}
    ready = (await scenario.client.get("/health/ready")).json()
    assert (ready["status"], ready["position"] >= position) == ("ready", True)
    assert ready["generation"]


async def test_metrics_count_requests_by_route_without_customer_ids(scenario: Scenario) -> None:
    customer = scenario.customer()
    await scenario.publish_and_wait()
    for path in (path_of(customer), path_of(customer).upper(), f"/customers/{customer_id(customer)}", "/x/y/z"):
        await scenario.client.get(path, params={"q": "needle"}, headers=scenario.as_admin())
    text = (await scenario.client.get("/metrics")).text
    assert customer_id(customer) not in text.lower()
    assert "needle" not in text
    routes = set(re.findall(r'route="([^"]*)"', text))
    assert "/customers/{customer_id}/campaigns" in routes
    assert routes <= {
        "/customers/{customer_id}/campaigns",
        "/health/live",
        "/health/ready",
        "/metrics",
        "/openapi.json",
        "/docs",
        "other",
    }


async def test_metrics_count_a_response_under_its_status(scenario: Scenario) -> None:
    customer = scenario.customer()
    await scenario.publish_and_wait()

    async def counted(status: int) -> float:
        sample = f'membership_http_requests_total{{route="/customers/{{customer_id}}/campaigns",status="{status}"}} '
        lines = (await scenario.client.get("/metrics")).text.splitlines()
        return sum(float(line.removeprefix(sample)) for line in lines if line.startswith(sample))

    before = [await counted(status) for status in (200, 401, 422)]
    await scenario.ask(customer)
    await scenario.ask(customer, {})
    await scenario.ask(customer, limit=0)
    assert [await counted(status) for status in (200, 401, 422)] == [count + 1 for count in before]


# --- Waiting for a position ------------------------------------------------------------------------------------------


async def _publish_anything(scenario: Scenario) -> int:
    scenario.customer()
    return await scenario.publish_and_wait()


async def test_a_response_includes_all_events_up_to_its_position(scenario: Scenario) -> None:
    customer = scenario.member_of(scenario.campaign("in it"))
    position = await scenario.publish()
    reply = await scenario.ask(customer, scenario.as_admin(**{"Membership-Min-Position": str(position)}))
    assert reply.status_code == 200
    assert int(reply.headers["membership-position"]) >= position
    assert [item["name"] for item in reply.json()["data"]] == ["in it"]


async def test_a_position_already_reached_causes_no_wait(scenario: Scenario) -> None:
    customer = scenario.customer()
    position = await scenario.publish_and_wait()
    for min_position in (0, 1, position):
        began = time.monotonic()
        reply = await scenario.ask(
            customer, scenario.as_admin(**{"Membership-Min-Position": str(min_position), "Prefer": "wait=10"})
        )
        assert reply.status_code == 200
        assert time.monotonic() - began < 1


async def test_a_position_not_reached_is_503_after_the_preferred_wait(scenario: Scenario) -> None:
    customer = scenario.customer()
    await scenario.publish_and_wait()
    headers = {"Membership-Min-Position": str(FAR_BEYOND)}
    for prefer, low, high in (("wait=0", 0, 0.9), ("wait=1", 0.95, 2.5), ("respond-async, wait=1", 0.95, 2.5)):
        began = time.monotonic()
        reply = await scenario.ask(customer, scenario.as_admin(**headers, Prefer=prefer))
        elapsed_s = time.monotonic() - began
        assert code_of(reply) == (503, "position_not_reached")
        assert int(reply.headers["retry-after"]) >= 0
        assert low <= elapsed_s <= high, prefer


@pytest.mark.parametrize("prefer", ["", "wait", "wait=", "wait=soon", "wait=-1", '=,;;"', "return=minimal"])
async def test_a_malformed_preference_is_ignored(scenario: Scenario, prefer: str) -> None:
    customer = scenario.customer()
    position = await scenario.publish_and_wait()
    headers = {"Membership-Min-Position": str(position), "Prefer": prefer}
    assert (await scenario.ask(customer, scenario.as_admin(**headers))).status_code == 200


async def test_without_a_valid_preference_the_wait_is_two_seconds(scenario: Scenario) -> None:
    customer = scenario.customer()
    await scenario.publish_and_wait()
    began = time.monotonic()
    min_position = {"Membership-Min-Position": str(FAR_BEYOND)}
    replies = await asyncio.gather(
        *(
            scenario.ask(customer, scenario.as_admin(**min_position, **prefer))
            for prefer in ({}, {"Prefer": "wait=soon"})
        )
    )
    assert {code_of(reply) for reply in replies} == {(503, "position_not_reached")}
    assert 1.95 <= time.monotonic() - began <= 3


async def test_a_wait_ends_as_soon_as_the_event_is_applied(scenario: Scenario) -> None:
    customer = scenario.customer()
    position = await scenario.publish_and_wait()
    scenario.enrol(customer, scenario.campaign("awaited"))
    awaited = position + len(scenario.unpublished)
    headers = scenario.as_admin(**{"Membership-Min-Position": str(awaited)})
    waiting = [asyncio.create_task(scenario.ask(customer, headers | {"Prefer": "wait=10"})) for _ in range(5)]
    impatient = await scenario.ask(customer, headers | {"Prefer": "wait=0"})
    assert code_of(impatient) == (503, "position_not_reached")
    assert not any(task.done() for task in waiting)

    assert await scenario.publish() == awaited
    published = time.monotonic()
    for reply in await asyncio.gather(*waiting):
        assert reply.status_code == 200
        assert int(reply.headers["membership-position"]) >= awaited
        assert [item["name"] for item in reply.json()["data"]] == ["awaited"]
    assert time.monotonic() - published < 1


async def test_a_wait_ends_in_time_even_if_the_listener_is_disconnected(scenario: Scenario) -> None:
    customer = scenario.customer()
    position = await scenario.publish_and_wait()
    scenario.enrol(customer, scenario.campaign("awaited"))
    headers = {"Membership-Min-Position": str(position + len(scenario.unpublished)), "Prefer": "wait=10"}
    waiting = asyncio.create_task(scenario.ask(customer, scenario.as_admin(**headers)))
    ended = await scenario.system.fetch(
        "SELECT pg_terminate_backend(pid) AS done FROM pg_stat_activity "
        "WHERE application_name = 'membership-api-listener' AND datname = current_database()"
    )
    assert [row["done"] for row in ended] == [True]
    await scenario.publish()
    published = time.monotonic()
    assert [item["name"] for item in (await waiting).json()["data"]] == ["awaited"]
    assert time.monotonic() - published < 2


@pytest.mark.parametrize("value", ["", "-1", "x", "1.5", str(2**63), "1 2", "9" * 5000, "٣", "0x10"])
async def test_an_invalid_position_is_422_at_the_header(scenario: Scenario, value: str) -> None:
    lines = [*scenario.as_admin().items(), ("Membership-Min-Position", value)]
    encoded = [(name.encode(), text.encode()) for name, text in lines]
    reply = await scenario.client.get(path_of(new_number()), headers=encoded)
    (loc,) = locs(reply)
    assert (loc[0], loc[1].lower()) == ("header", "membership-min-position")


@pytest.mark.parametrize("second", ["1", "2"])
async def test_two_positions_are_422_at_the_header(scenario: Scenario, second: str) -> None:
    lines = [*scenario.as_admin().items(), ("Membership-Min-Position", "1"), ("Membership-Min-Position", second)]
    reply = await scenario.client.get(path_of(new_number()), headers=lines)
    assert locs(reply) == [["header", "Membership-Min-Position"]]


async def test_invalid_requests_do_not_wait_for_a_position(scenario: Scenario) -> None:
    began = time.monotonic()
    headers = {"Membership-Min-Position": str(FAR_BEYOND), "Prefer": "wait=10"}
    assert (await scenario.ask(new_number(), headers)).status_code == 401
    assert (await scenario.ask(new_number(), scenario.as_admin(**headers), limit=0)).status_code == 422
    assert time.monotonic() - began < 1


async def test_waiting_callers_do_not_delay_other_callers(scenario: Scenario) -> None:
    customer = scenario.customer()
    await scenario.publish_and_wait()
    beyond = scenario.as_admin(**{"Membership-Min-Position": str(FAR_BEYOND), "Prefer": "wait=2"})
    waiting = [asyncio.create_task(scenario.ask(customer, beyond)) for _ in range(60)]
    for _ in range(20):
        assert (await scenario.ask(customer)).status_code == 200
    assert not any(task.done() for task in waiting)
    assert {code_of(reply) for reply in await asyncio.gather(*waiting)} == {(503, "position_not_reached")}


# --- Bytes on the wire -----------------------------------------------------------------------------------------------


async def exchange(system: System, request: bytes, *, hang_up: bool = False) -> tuple[int, bytes]:
    """Send bytes; return status and body of the response, or status 0 if the connection was closed without one."""
    address = urlsplit(system.api_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    raw = b""
    async with asyncio.timeout(REPLY_TIMEOUT_S):
        with suppress(OSError):
            writer.write(request)
            await writer.drain()
            if hang_up:
                writer.write_eof()
            raw = await reader.read()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    head, _, body = raw.partition(b"\r\n\r\n")
    return (int(head.split()[1]), body) if head.startswith(b"HTTP/1.") else (0, raw)


def request_bytes(system: System, target: bytes, *lines: bytes, method: bytes = b"GET") -> bytes:
    """Return the bytes of an admin's request that closes the connection."""
    common_lines = (
        b"Host: 127.0.0.1",
        b"Connection: close",
        b"Authorization: Bearer " + system.admin_token.encode(),
    )
    return b"\r\n".join((method + b" " + target + b" HTTP/1.1", *common_lines, *lines, b"", b""))


async def get(system: System, target: bytes, *lines: bytes) -> tuple[int, Any]:
    """Send a request for this exact target; return status and decoded body, None if the body is not JSON."""
    status, body = await exchange(system, request_bytes(system, target, *lines))
    try:
        return status, json.loads(body)
    except ValueError:
        return status, None


ODD_IDS = [
    b"%",
    b"%zz",
    b"%F",
    b"%FF",
    b"%C3",
    b"%00",
    b"c0000000-0000-4000-8000-000000000001%00",
    b"%ED%A0%80",
    b"%ED%BF%BF%ED%A0%80",
    b"%F8%88%80%80%80",
    b"%C0%AF",
    b"%E2%80%AE",
    b"%F0%9F%9A%80",
    b"%0D%0AX-Injected:%20yes",
    b"%7Bcustomer_id%7D",
    b"..%5C..",
    b"'%20OR%201=1--",
    b"a" * 5000,
    b"%41" * 5000,
]


@pytest.mark.parametrize("odd", ODD_IDS, ids=lambda raw: raw[:24].decode())
async def test_an_escaped_invalid_customer_id_is_422(system: System, odd: bytes) -> None:
    status, body = await get(system, b"/customers/" + odd + b"/campaigns?limit=0")
    assert status == 422, body
    assert [violation["loc"] for violation in body["detail"]] == [["path", "customer_id"], ["query", "limit"]]


@pytest.mark.parametrize("odd", [b"%2F", b"..%2F..", b"a%2Fb", b"%2e%2e", b".", b"..", b"", b"a//b", b"%3F", b"%23"])
async def test_a_path_with_slashes_and_dots_is_404_or_422(system: System, odd: bytes) -> None:
    status, body = await get(system, b"/customers/" + odd + b"/campaigns")
    assert status in {404, 422}, body


@pytest.mark.parametrize("odd", [b"\xff", b"\xc3\xa9", b"\xed\xa0\x80", b"\x01", b"\x7f", b"\xf0\x9f\x9a\x80", b"\t"])
@pytest.mark.parametrize("target_format", [b"/customers/%s/campaigns", b"/customers/x/campaigns?q=%s", b"/%s"])
async def test_raw_bytes_in_a_target_are_a_client_error(system: System, target_format: bytes, odd: bytes) -> None:
    status, body = await exchange(system, request_bytes(system, target_format % odd))
    assert status == 0 or 400 <= status < 500 or (status == 200 and b"?" in target_format), body


@pytest.mark.parametrize("name", [b"q", b"cursor", b"sort_field", b"date_from", b"limit", b"include_deleted"])
@pytest.mark.parametrize("value", [b"%00", b"%ED%A0%80", b"%FF", b"%C3%28", b"a%ED%B0%80b", b"%F5%80%80%80"])
async def test_escapes_that_are_not_utf8_text_are_422_at_their_parameter(
    system: System, name: bytes, value: bytes
) -> None:
    status, body = await get(system, path_of(1).encode() + b"?" + name + b"=" + value)
    assert status == 422, body
    assert [violation["loc"] for violation in body["detail"]] == [["query", name.decode()]]


@pytest.mark.parametrize("query", [b"%", b"q=%", b"q=%zz", b"%=%", b"&&==&", b"=", b"?", b"q=a?b", b"%00=%00", b"[]=1"])
async def test_broken_escapes_and_empty_pairs_in_a_query_are_tolerated(
    scenario: Scenario, system: System, query: bytes
) -> None:
    customer = scenario.customer()
    await scenario.publish_and_wait()
    status, body = await get(system, path_of(customer).encode() + b"?" + query)
    assert status == 200, body


@pytest.mark.parametrize("length", [2_000, 8_000, 20_000, 60_000, 70_000, 500_000])
async def test_a_very_long_query_is_answered_or_rejected(scenario: Scenario, system: System, length: int) -> None:
    customer = scenario.customer()
    await scenario.publish_and_wait()
    for query in (b"q=" + b"a" * length, b"&".join([b"a=b"] * (length // 4)), b"q=" + b"%C3%A9" * (length // 6)):
        status, _ = await exchange(system, request_bytes(system, path_of(customer).encode() + b"?" + query))
        assert status in {200, 414, 431}
        if len(query) <= QUERY_BYTES_MAX:
            assert status == 200
        elif length <= 20_000:
            assert status == 414


async def test_a_query_of_the_maximum_length_is_200_and_one_more_byte_414(scenario: Scenario, system: System) -> None:
    customer = scenario.customer()
    await scenario.publish_and_wait()
    path = path_of(customer).encode() + b"?q="
    query = b"a" * (QUERY_BYTES_MAX - len(b"q="))
    assert (await exchange(system, request_bytes(system, path + query)))[0] == 200
    status, body = await get(system, path + query + b"a")
    assert (status, body["code"]) == (414, "query_too_long")


HOSTS = {
    "none": (b"", 400),
    "an empty one": (b"Host:\r\n", 400),
    "two": (b"Host: a\r\nHost: a\r\n", 400),
    "two names": (b"Host: a, b\r\n", 400),
    "no name": (b"Host: \xff\r\n", 400),
    "a path": (b"Host: a/b\r\n", 400),
    "a name": (b"Host: api.example\r\n", 200),
    "a name with an underscore and a port": (b"Host: api_1:8000\r\n", 200),
    "an IPv6 address": (b"Host: [::1]:8000\r\n", 200),
}


@pytest.mark.parametrize(("lines", "expected"), HOSTS.values(), ids=HOSTS)
async def test_http_1_1_needs_exactly_one_valid_host(system: System, lines: bytes, expected: int) -> None:
    request = b"GET /health/live HTTP/1.1\r\nConnection: close\r\n" + lines + b"\r\n"
    status, body = await exchange(system, request)
    assert status == expected
    if expected == 400:
        assert json.loads(body)["code"] == "bad_request"


async def test_http_1_0_needs_no_host(system: System) -> None:
    assert (await exchange(system, b"GET /health/live HTTP/1.0\r\n\r\n"))[0] == 200


GARBAGE = {
    "no request": b"\r\n\r\n\r\n",
    "binary": bytes(range(256)) * 4,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.9\r\n",
    "no version": b"GET /health/live\r\n\r\n",
    "version 9": b"GET /health/live HTTP/9.9\r\nHost: x\r\n\r\n",
    "absolute": b"GET http://elsewhere.example/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "authority": b"CONNECT elsewhere.example:443 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "line without colon": b"GET /health/live HTTP/1.1\r\nHost: x\r\nnonsense\r\nConnection: close\r\n\r\n",
    "space before colon": b"GET /health/live HTTP/1.1\r\nHost : x\r\nConnection: close\r\n\r\n",
    "folded line": b"GET /health/live HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\nConnection: close\r\n\r\n",
    "NUL in a header": b"GET /health/live HTTP/1.1\r\nHost: x\r\nA: \0\r\nConnection: close\r\n\r\n",
    "two lengths": b"GET /health/live HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a negative length": b"GET /health/live HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "a bad chunk": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\nzz\r\n",
    "many headers": b"GET / HTTP/1.1\r\n" + b"".join(b"A%d: b\r\n" % n for n in range(5000)) + b"\r\n",
    "a huge header": b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 1_000_000 + b"\r\n\r\n",
    "a huge method": b"G" * 10_000 + b" / HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
async def test_garbage_is_a_client_error_and_the_service_stays_up(
    scenario: Scenario, system: System, garbage: bytes
) -> None:
    status, body = await exchange(system, garbage, hang_up=True)
    assert status < 500, body
    assert (await scenario.client.get("/health/live")).status_code == 200


@pytest.mark.parametrize(
    "line",
    [
        b"If-None-Match: \xff\xfe",
        b"If-None-Match: " + b'"x",' * 2000,
        b"Accept-Encoding: \xff",
        b"Accept-Encoding: gzip;q=nan",
        b"Accept-Encoding: gzip;q=1e999",
        b"Accept-Encoding: zstd;q=-nan, gzip;q=1e-999;q=0",
        b"Accept-Encoding: zstd\xff;q=1, ;;,=",
        b"Accept-Encoding: " + b"gzip;q=0.1," * 500,
        b"Prefer: \xff\xfe=\xfd",
        b"Prefer: wait=" + b"9" * 5000,
        b"Prefer: " + b"wait=," * 1000,
        b"X-Request-ID: \xff",
        b"X-API-Key: \xff",
        b"Authorization: Bearer \xff",
        b"Cookie: \xff=\xff",
        b"Content-Type: \xff",
        b"Content-Length: 0",
        b"Accept: \xff/\xff;q=x",
        b"Origin: null",
        b"Host: \xff",
        b"Forwarded: for=\xff",
        b"Range: bytes=0-0",
        b"Expect: something",
        b"Upgrade: websocket",
    ],
    ids=lambda line: ascii(line[:36]),
)
async def test_odd_header_values_never_cause_a_server_error(scenario: Scenario, system: System, line: bytes) -> None:
    customer = scenario.customer()
    await scenario.publish_and_wait()
    status, body = await exchange(system, request_bytes(system, path_of(customer).encode(), line))
    assert status in {200, 400, 401, 417, 431}, body
    if line.split(b":")[0] not in {b"X-API-Key", b"Authorization", b"Host", b"Expect"}:
        assert status in {200, 431}, body


async def test_the_body_of_a_get_is_ignored(scenario: Scenario, system: System) -> None:
    customer = scenario.customer()
    await scenario.publish_and_wait()
    request = request_bytes(system, path_of(customer).encode(), b"Content-Length: 5", b"Content-Type: application/json")
    status, body = await exchange(system, request + b"{bad}")
    assert status == 200, body


async def test_unlisted_origins_get_no_cors_headers(scenario: Scenario) -> None:
    customer = scenario.customer()
    await scenario.publish_and_wait()
    elsewhere = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "GET"}
    for reply in (
        await scenario.ask(customer, scenario.as_admin(**elsewhere)),
        await scenario.client.options(path_of(customer), headers=elsewhere),
    ):
        assert [name for name in reply.headers if name.startswith("access-control-")] == []


async def test_listed_origins_may_read_responses_errors_and_headers(
    scenario: Scenario, system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed, elsewhere = "https://app.example", "https://elsewhere.example"
    customer = scenario.customer()
    await scenario.publish_and_wait()
    monkeypatch.setenv("MEMBERSHIP_CORS_ORIGINS", f"https://other.example, {listed}")
    async with another_api(system, tmp_path) as client:
        path, admin = path_of(customer), scenario.as_admin()
        for headers, status in ((admin, 200), ({}, 401), (admin | {"Membership-Min-Position": "x"}, 422)):
            reply = await client.get(path, headers=headers | {"Origin": listed})
            assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (status, listed)
            exposed = {name.strip().lower() for name in reply.headers["access-control-expose-headers"].split(",")}
            assert exposed >= {"etag", "link", "membership-position", "x-request-id"}
            varied = ",".join(reply.headers.get_list("vary")).lower()
            assert "origin" in varied
            assert "authorization" in varied
            other = await client.get(path, headers=headers | {"Origin": elsewhere})
            assert (other.status_code, other.headers.get("access-control-allow-origin")) == (status, None)
        preflight_headers = {
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "authorization, if-none-match",
        }
        preflight = await client.options(path, headers=preflight_headers | {"Origin": listed})
        assert preflight.is_success
        assert preflight.headers["access-control-allow-origin"] == listed
        assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
        rejected = await client.options(path, headers=preflight_headers | {"Origin": elsewhere})
        assert "access-control-allow-origin" not in rejected.headers
