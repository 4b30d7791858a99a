"""Parameters are read as pydantic 2 reads them, refused in its words, and never raise, whatever the bytes."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from urllib.parse import quote, quote_from_bytes
from uuid import UUID

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import Field, TypeAdapter, ValidationError

from service.parameters import INT64_MAX, ListRequest, Violation, parse, query_pairs

CUSTOMER = "c0000000-0000-4000-8000-000000000001"


def read(query: str | bytes = b"", customer: str = CUSTOMER, header: str | None = None) -> Any:
    raw = query.encode() if isinstance(query, str) else query
    return parse(customer, query_pairs(raw), header)


def accepted(query: str | bytes) -> ListRequest:
    request = read(query)
    assert isinstance(request, ListRequest), request
    return request


def refused(query: str | bytes) -> list[tuple[tuple[str, ...], str]]:
    violations = read(query)
    assert isinstance(violations, list), violations
    return [(each.loc, each.type) for each in violations]


# --- Held against pydantic -------------------------------------------------------------------------------------------

ORACLES: dict[str, TypeAdapter[Any]] = {
    "limit": TypeAdapter(Annotated[int, Field(ge=1, le=200)]),
    "offset": TypeAdapter(Annotated[int, Field(ge=0, le=INT64_MAX)]),
    "include_deleted": TypeAdapter(bool),
    "sort_dir": TypeAdapter(Literal["asc", "desc"]),
}

NUMBERS = st.text("0123456789+-_. \t\u00a0\x1f\u0663eEx", max_size=8)
WORDS = st.text("tTrRuUeEyYnNoOfFasdc01 \u017f", max_size=6)


def oracle(adapter: TypeAdapter[Any], text: str) -> tuple[str, Any]:
    try:
        return "value", adapter.validate_python(text)
    except ValidationError as problem:
        (found,) = problem.errors(include_url=False, include_context=False, include_input=False)
        return found["type"], found["msg"]


def ours(outcome: Any, field: str) -> tuple[str, Any]:
    if isinstance(outcome, ListRequest):
        return "value", getattr(outcome, field)
    (violation,) = outcome
    return violation.type, violation.msg


@given(st.sampled_from(["limit", "offset"]), NUMBERS | st.integers().map(str))
@example("limit", "9" * 4301)
@example("offset", "1_0.0")
@example("offset", "9223372036854775808")
@example("limit", "\u00a05\u3000")
@example("limit", "\x1f5")
def test_integers_are_read_and_refused_as_pydantic_does(name: str, text: str) -> None:
    assert ours(read(f"{name}={quote(text)}"), name) == oracle(ORACLES[name], text)


@given(st.sampled_from(["include_deleted", "sort_dir"]), WORDS | st.text(max_size=4))
@example("include_deleted", "ON")
@example("include_deleted", " true")
@example("include_deleted", "\u212aes")
def test_booleans_and_choices_are_read_and_refused_as_pydantic_does(name: str, text: str) -> None:
    assert ours(read(f"{name}={quote(text)}"), name) == oracle(ORACLES[name], text)


IDS = st.one_of(
    st.uuids().map(str),
    st.uuids().map(lambda each: each.hex),
    st.uuids().map(lambda each: each.urn),
    st.uuids().map(lambda each: "{" + str(each).upper() + "}"),
    st.text("0123456789abcdefABCDEF-{}gu:rnid é", max_size=48),
)


@given(IDS, st.integers(0, 40), st.sampled_from(["", "-", "0", "g", "é", "{", "}"]))
@example("urn:uuid:", 0, "")
@example("{}", 0, "")
def test_customer_ids_are_read_and_refused_as_pydantic_does(text: str, place: int, inserted: str) -> None:
    spelled = text[:place] + inserted + text[place:]
    kind, wanted = oracle(TypeAdapter(UUID), spelled)
    found = ours(read(customer=spelled), "customer_id")
    assert found == (kind, str(wanted))


# --- By definition ---------------------------------------------------------------------------------------------------


def test_defaults_are_the_contracts() -> None:
    assert accepted("") == ListRequest(CUSTOMER)
    assert msgspec.to_builtins(accepted(""))["sort_field"] == "enrolled_at"


def test_all_violations_come_together_path_first_then_in_the_contracts_order() -> None:
    found = read("date_to=x&limit=0&sort_field=colour&offset=-1&q=%00", customer="nobody", header="-1")
    assert [each.loc for each in found] == [
        ("path", "customer_id"),
        ("query", "limit"),
        ("query", "offset"),
        ("query", "q"),
        ("query", "sort_field"),
        ("query", "date_to"),
        ("header", "Membership-Min-Position"),
    ]


def test_a_wrong_sort_field_names_the_allowed_ones() -> None:
    (violation,) = read("sort_field=colour")
    assert violation.type == "literal_error"
    assert violation.msg.startswith("Input should be 'enrolled_at', 'name', 'status'")
    assert violation.msg.endswith("'contacts_failed' or 'contacts_succeeded'")


def test_of_a_repeated_parameter_the_last_counts_and_unknown_ones_are_ignored() -> None:
    request = accepted(b"limit=x&limit=7&colour=%FF%00&%6Cimit=8&=&&q=a+b")
    assert (request.limit, request.q) == (8, "a b")


def test_q_is_trimmed_and_blank_is_absent() -> None:
    assert accepted("q=%20%09caf%C3%A9%C2%A0").q == "café"
    assert accepted("q=").q is None
    assert accepted("q=%E3%80%80").q is None


@pytest.mark.parametrize("raw", ["%00", "a%00b", "%ED%A0%80", "%FF", "%C3", "%ED%BF%BF"])
def test_nul_surrogates_and_ill_formed_utf_8_are_violations(raw: str) -> None:
    for name in ("q", "sort_field", "sort_dir", "date_from", "date_to", "cursor", "limit", "include_deleted"):
        assert [loc for loc, _ in refused(f"{name}={raw}")] == [("query", name)]


@pytest.mark.parametrize("name", ["limit", "offset", "include_deleted", "sort_field", "date_from", "date_to", "cursor"])
def test_an_empty_value_is_a_violation_where_text_is_not_free(name: str) -> None:
    assert [loc for loc, _ in refused(f"{name}=")] == [("query", name)]


DATES = {
    "2024-02-29": datetime(2024, 2, 29, tzinfo=UTC),
    "20240229": datetime(2024, 2, 29, tzinfo=UTC),
    "2024-W09-4": datetime(2024, 2, 29, tzinfo=UTC),
    "2024-02-29T10:11": datetime(2024, 2, 29, 10, 11, tzinfo=UTC),
    "2024-02-29t10:11:12z": datetime(2024, 2, 29, 10, 11, 12, tzinfo=UTC),
    "2024-02-29 10:11:12.5": datetime(2024, 2, 29, 10, 11, 12, 500_000, tzinfo=UTC),
    "2024-02-29T10:11:12,1234567Z": datetime(2024, 2, 29, 10, 11, 12, 123_456, tzinfo=UTC),
    "2024-02-29T00:30:00+02:30": datetime(2024, 2, 28, 22, tzinfo=UTC),
    "20240229T101112-0100": datetime(2024, 2, 29, 11, 11, 12, tzinfo=UTC),
    "2024-02-29T10+01": datetime(2024, 2, 29, 9, tzinfo=UTC),
    "0001-01-01": datetime(1, 1, 1, tzinfo=UTC),
}


@pytest.mark.parametrize(("text", "wanted"), DATES.items())
def test_dates_and_date_times_are_iso_8601_and_utc_unless_they_say_otherwise(text: str, wanted: datetime) -> None:
    found = accepted(f"date_from={quote(text)}").date_from
    assert found == wanted
    assert found is not None
    assert found.tzinfo is UTC


def test_a_date_as_date_to_is_that_whole_day_the_last_one_of_the_calendar_included() -> None:
    last = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    assert accepted("date_to=9999-12-31").date_to == last
    assert accepted("date_to=2024-02-29T00:00").date_to == datetime(2024, 2, 29, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "2024-02-30",
        "2024-13-01",
        "2024-2-1",
        "1700000000",
        "2024-02-29T24:00",
        "2024-02-29T10:60",
        "2024-02-29T23:59:60Z",
        "2024-02-29x10:11",
        "2024-02-29T10:11.5",
        "2024-02-29T10:11:12+25:00",
        "2024-02-29T10:11:12 01:00",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-01:00",
        "２０２４-02-29",
        "2024-02-29Z",
        "2024-02-29 ",
        "0000-01-01",
    ],
)
def test_what_is_no_date_is_refused_in_pydantics_manner(text: str) -> None:
    (violation,) = read(f"date_from={quote(text)}")
    assert violation.loc == ("query", "date_from")
    assert violation.type == "datetime_from_date_parsing"
    assert violation.msg.startswith("Input should be a valid datetime or date, ")


PLAIN_FAULTS = ["", "x", "2024-13-01", "2024-01-32", "2024-02-30", "not-a-date", "2024-1-1", "2024-01-01Z"]


@pytest.mark.parametrize("text", PLAIN_FAULTS)
def test_faults_of_plain_dates_are_told_in_pydantics_words(text: str) -> None:
    assert ours(read(f"date_to={text}"), "date_to") == oracle(TypeAdapter(datetime), text)


def test_a_cursor_goes_with_no_offset_but_zero() -> None:
    assert refused("cursor=abc&offset=1") == [(("query", "offset"), "value_error")]
    assert accepted("cursor=abc&offset=0").cursor == "abc"


def test_the_position_header_is_an_int64_from_zero() -> None:
    assert read(header=" 7 ").min_position == 7
    for text in ("", "x", "-1", str(2**63)):
        (violation,) = read(header=text)
        assert violation.loc == ("header", "Membership-Min-Position")


# --- Whatever the bytes ----------------------------------------------------------------------------------------------

NAMES = st.sampled_from(
    ["limit", "offset", "q", "sort_field", "sort_dir", "date_from", "date_to", "cursor", "only_deleted"]
)
LATIN_1 = st.text(st.characters(max_codepoint=255), max_size=12)
QUERIES = st.lists(st.tuples(NAMES, st.binary(max_size=24).map(quote_from_bytes)), max_size=6).map(
    lambda pairs: "&".join(f"{name}={value}" for name, value in pairs).encode()
)


@given(QUERIES | st.binary(max_size=80), st.text(max_size=50), st.none() | LATIN_1)
@example(b"", "\ud800", None)
def test_any_bytes_are_a_request_or_violations_to_send(query: bytes, customer: str, header: str | None) -> None:
    outcome = read(query, customer, header)
    if not isinstance(outcome, ListRequest):
        assert outcome
        assert all(isinstance(each, Violation) for each in outcome)
        msgspec.json.encode(outcome)


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_without_nul_is_a_search(text: str) -> None:
    if "\0" not in text:
        assert accepted(f"q={quote(text)}").q == (text.strip() or None)
