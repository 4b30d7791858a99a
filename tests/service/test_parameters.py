"""Parameters are parsed and rejected as by pydantic 2, with its messages; no bytes raise an exception."""

from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import parse_qsl, quote, quote_from_bytes
from uuid import UUID

import msgspec
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from pydantic import Field, TypeAdapter, ValidationError

from projections.model.events import INT64_MAX
from service.parameters import (
    SORT_FIELDS,
    ListRequest,
    SortDirection,
    SortField,
    Violation,
    parse,
    query_pairs,
)
from service.pydantic_compat import PLUS_HINT

CUSTOMER = "c0000000-0000-4000-8000-000000000001"


def read(query: str | bytes = b"", customer: str = CUSTOMER, header: str | None = None) -> Any:
    raw = query.encode() if isinstance(query, str) else query
    return parse(customer, query_pairs(raw), header)


def accepted(query: str | bytes) -> ListRequest:
    request = read(query)
    assert isinstance(request, ListRequest), request
    return request


def rejected(query: str | bytes) -> list[tuple[tuple[str, ...], str]]:
    violations = read(query)
    assert isinstance(violations, list), violations
    return [(violation.loc, violation.type) for violation in violations]


# --- Comparison with pydantic ----------------------------------------------------------------------------------------

ORACLES: dict[str, TypeAdapter[Any]] = {
    "limit": TypeAdapter(Annotated[int, Field(ge=1, le=200)]),
    "offset": TypeAdapter(Annotated[int, Field(ge=0, le=INT64_MAX)]),
    "include_deleted": TypeAdapter(bool),
    "only_deleted": TypeAdapter(bool),
    "include_aggregations": TypeAdapter(bool),
    "sort_field": TypeAdapter(SortField),
    "sort_dir": TypeAdapter(SortDirection),
}
NEAR_MISSES = settings(max_examples=400)


def joined(*parts: str) -> st.SearchStrategy[str]:
    """Generate texts joined from these parts, so that most of them are nearly valid."""
    return st.lists(st.sampled_from(parts), max_size=7).map("".join)


NUMBERS = st.one_of(
    joined("0", "5", "19", "_", "-", "+", ".0", ".", "0_", " ", "\t", "\u00a0", "\x1f", "\u0665", "e", "x"),
    st.integers().map(str),
    st.builds(
        lambda near, by: str(near + by), st.sampled_from([0, 200, INT64_MAX, -(2**63), 2**64]), st.integers(-2, 2)
    ),
    st.text(max_size=4),
)
WORDS = st.one_of(
    joined("true", "FALSE", "1", "0", "y", "Es", "nO", "oN", "ff", "t", "F", " ", "\n", "\u017f", "\u212a", "_"),
    joined("asc", "desc", "DESC", *SORT_FIELDS, "_", " ", "\0", "s"),
    st.text(max_size=4),
)


def oracle(adapter: TypeAdapter[Any], text: str) -> tuple[str, Any]:
    try:
        return "value", adapter.validate_python(text)
    except ValidationError as problem:
        (error,) = problem.errors(include_url=False, include_context=False, include_input=False)
        return error["type"], error["msg"]


def ours(outcome: Any, field: str) -> tuple[str, Any]:
    if isinstance(outcome, ListRequest):
        return "value", getattr(outcome, field)
    (violation,) = outcome
    return violation.type, violation.msg


@NEAR_MISSES
@given(st.sampled_from(["limit", "offset"]), NUMBERS)
@example("offset", "1_0.0")
@example("offset", "0__5")
@example("offset", "0-0")
@example("limit", "00-_7")
@example("offset", "9223372036854775807")
@example("offset", "9223372036854775808")
@example("limit", "99999999999999999999")
@example("limit", "\u00a05\u3000")
@example("limit", "\x1f5")
@example("limit", "")
def test_integers_are_parsed_and_rejected_as_by_pydantic(name: str, text: str) -> None:
    assert ours(read(f"{name}={quote(text)}"), name) == oracle(ORACLES[name], text)


@pytest.mark.parametrize("before", ["", "+", "-", " ", "0", "-0", "0-"])
@pytest.mark.parametrize("after", ["", " ", ".0", "x", "_1"])
@pytest.mark.parametrize("digit", ["9", "0", "1_"])
def test_huge_integers_are_rejected_as_by_pydantic(before: str, after: str, digit: str) -> None:
    for count in (4299, 4300, 4301):
        text = before + digit * count + after
        assert ours(read(f"offset={quote(text)}"), "offset") == oracle(ORACLES["offset"], text)


@NEAR_MISSES
@given(st.sampled_from(["include_deleted", "only_deleted", "include_aggregations", "sort_field", "sort_dir"]), WORDS)
@example("include_deleted", "ON")
@example("include_deleted", " true")
@example("include_deleted", "\u212aes")
@example("include_deleted", "")
@example("sort_field", "")
@example("sort_field", "Name")
@example("sort_dir", "desc ")
def test_booleans_and_choices_are_parsed_and_rejected_as_by_pydantic(name: str, text: str) -> None:
    assert ours(read(f"{name}={quote(text)}"), name) == oracle(ORACLES[name], text)


HEX = "0123456789abcdefABCDEF"
GROUPS = st.tuples(*(st.text(HEX, min_size=n - 1, max_size=n + 1) for n in (8, 4, 4, 4, 12))).map("-".join)
PLAIN = st.one_of(st.uuids().map(str), st.uuids().map(lambda uuid: uuid.hex), GROUPS, st.text(HEX, max_size=48))
IDS = st.builds(
    lambda wrapping, inner: wrapping.format(inner),
    st.sampled_from(["{}", "{{{}}}", "urn:uuid:{}", "URN:UUID:{}", "{{{}", "urn:uuid:{{{}}}"]),
    PLAIN,
)


@NEAR_MISSES
@given(
    IDS | st.text(HEX + "-{}gu:rnid é", max_size=48),
    st.integers(0, 46),
    st.integers(0, 2),
    st.sampled_from(["", "-", "0", "g", "é", "€", "\U0001f600", "{", "}", "\0", "\ud800"]),
)
@example("urn:uuid:", 0, 0, "")
@example("{}", 0, 0, "")
@example("{", 0, 0, "")
@example("{" + "a" * 34 + "}", 0, 0, "")
@example("{" + "a" * 30 + "}", 0, 0, "")
@example("{" + CUSTOMER + "}", 6, 1, "g")
@example("urn:uuid:" + CUSTOMER, 14, 1, "g")
@example("urn:uuid:" + CUSTOMER, 14, 0, "g")
def test_customer_ids_are_parsed_and_rejected_as_by_pydantic(
    text: str, index: int, removed: int, inserted: str
) -> None:
    near_miss = text[:index] + inserted + text[index + removed :]
    kind, expected = oracle(TypeAdapter(UUID), near_miss)
    outcome = ours(read(customer=near_miss), "customer_id")
    assert outcome == (kind, str(expected))


@NEAR_MISSES
@given(st.dates().map(str), st.integers(0, 10), st.integers(0, 2), joined("0", "9", "3", "-", "x", "é", "Z", "T25:00"))
@example("2024-02-29", 10, 0, "T25:00")
@example("2024-12-31", 5, 2, "13")
@example("2023-02-28", 8, 2, "29")
@example("2024-02-29", 0, 10, "")
def test_malformed_dates_are_rejected_with_pydantics_message(
    text: str, index: int, removed: int, inserted: str
) -> None:
    near_miss = text[:index] + inserted + text[index + removed :]
    outcome = read(f"date_to={quote(near_miss)}")
    kind, expected = oracle(TypeAdapter(datetime), near_miss)
    # pydantic also accepts Unix times and has another type for the year 0; neither is in the contract.
    assume(not isinstance(outcome, ListRequest) and kind == "datetime_from_date_parsing")
    assert ours(outcome, "date_to") == (kind, expected)


# --- Own definitions -------------------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_the_contract() -> None:
    assert accepted("") == ListRequest(CUSTOMER)
    assert msgspec.to_builtins(accepted(""))["sort_field"] == "enrolled_at"


def test_all_violations_are_returned_together_in_the_contracts_order() -> None:
    violations = read("date_to=x&limit=0&sort_field=colour&offset=-1&q=%00", customer="nobody", header="-1")
    assert [violation.loc for violation in violations] == [
        ("path", "customer_id"),
        ("query", "limit"),
        ("query", "offset"),
        ("query", "q"),
        ("query", "sort_field"),
        ("query", "date_to"),
        ("header", "Membership-Min-Position"),
    ]


def test_the_message_for_an_unknown_sort_field_lists_the_allowed_ones() -> None:
    (violation,) = read("sort_field=colour")
    assert violation.type == "literal_error"
    assert violation.msg.startswith("Input should be 'enrolled_at', 'name', 'status'")
    assert violation.msg.endswith("'contacts_failed' or 'contacts_succeeded'")
    assert all(f"'{field}'" in violation.msg for field in SORT_FIELDS)


def test_the_last_repeated_parameter_counts_unknown_ones_are_ignored() -> None:
    request = accepted(b"limit=x&limit=7&colour=%FF%00&%6Cimit=8&=&&q=a+b")
    assert (request.limit, request.q) == (8, "a b")


def test_q_is_trimmed_and_ignored_if_blank() -> None:
    assert accepted("q=%20%09caf%C3%A9%C2%A0").q == "café"
    assert accepted("q=").q is None
    assert accepted("q=%E3%80%80").q is None


@pytest.mark.parametrize("raw", ["%00", "a%00b", "%ED%A0%80", "%FF", "%C3", "%ED%BF%BF"])
def test_nul_surrogates_and_ill_formed_utf_8_are_violations(raw: str) -> None:
    for name in ("q", "sort_field", "sort_dir", "date_from", "date_to", "cursor", "limit", "include_deleted"):
        assert [loc for loc, _ in rejected(f"{name}={raw}")] == [("query", name)]


def test_a_search_with_nul_or_invalid_unicode_is_rejected() -> None:
    assert rejected("q=a%00b") == [(("query", "q"), "value_error")]
    assert rejected("q=%ED%A0%80") == [(("query", "q"), "string_unicode")]
    assert rejected(b"q=\xff") == [(("query", "q"), "string_unicode")]


def test_unescaped_utf_8_is_read_like_escaped_utf_8() -> None:
    assert accepted("q=café").q == "café"
    assert accepted("limit=\u30007").limit == 7


@pytest.mark.parametrize("name", ["limit", "offset", "include_deleted", "sort_field", "date_from", "date_to", "cursor"])
def test_an_empty_value_is_a_violation_except_for_q(name: str) -> None:
    assert [loc for loc, _ in rejected(f"{name}=")] == [("query", name)]


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


@pytest.mark.parametrize(("text", "expected"), DATES.items())
def test_dates_and_date_times_are_iso_8601_and_utc_by_default(text: str, expected: datetime) -> None:
    parsed = accepted(f"date_from={quote(text)}").date_from
    assert parsed == expected
    assert parsed is not None
    assert parsed.tzinfo is UTC


def test_date_to_includes_the_whole_day_even_the_calendars_last() -> None:
    last = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    assert accepted("date_to=9999-12-31").date_to == last
    assert accepted("date_to=2024-02-29T00:00").date_to == datetime(2024, 2, 29, tzinfo=UTC)


@pytest.mark.parametrize(
    ("query", "hinted"),
    [
        ("2026-01-01T00:00:00+02:00", True),
        ("2026-01-01T00:00+02", True),
        ("2026-01-01+10:00:00.5+0200", True),
        ("2026-01-01T00:00:00+later", False),
        ("2026-01-01+02:00+x", False),
        ("yesterday", False),
        ("2026-13-01", False),
    ],
)
def test_a_plus_that_became_a_space_gets_a_hint(query: str, hinted: bool) -> None:
    (violation,) = read(f"date_from={query}")
    assert violation.type == "datetime_from_date_parsing"
    assert violation.msg.endswith(PLUS_HINT) is hinted
    if hinted:
        escaped = "%2B".join(query.rsplit("+", 1))
        assert accepted(f"date_from={escaped}")


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
def test_an_invalid_date_is_rejected_with_pydantics_type_and_prefix(text: str) -> None:
    (violation,) = read(f"date_from={quote(text)}")
    assert violation.loc == ("query", "date_from")
    assert violation.type == "datetime_from_date_parsing"
    assert violation.msg.startswith("Input should be a valid datetime or date, ")


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-01:00"])
def test_a_time_out_of_range_in_utc_has_its_own_message(text: str) -> None:
    (violation,) = read(f"date_to={quote(text)}")
    assert violation.msg == "Input should be a valid datetime or date, year is out of range in UTC"


def test_a_cursor_may_only_be_combined_with_offset_zero() -> None:
    assert rejected("cursor=abc&offset=1") == [(("query", "offset"), "value_error")]
    assert accepted("cursor=abc&offset=0").cursor == "abc"
    assert accepted("cursor=abc").offset == 0
    assert rejected("cursor=abc&offset=-1") == [(("query", "offset"), "greater_than_equal")]


def test_an_offset_with_a_cursor_is_reported_in_the_contracts_order() -> None:
    violations = read("date_to=x&offset=1&cursor=&limit=0", header="x")
    assert [(violation.loc[1], violation.type) for violation in violations] == [
        ("limit", "greater_than_equal"),
        ("offset", "value_error"),
        ("date_to", "datetime_from_date_parsing"),
        ("cursor", "value_error"),
        ("Membership-Min-Position", "int_parsing"),
    ]


def test_the_position_header_is_a_non_negative_int64() -> None:
    assert read(header=" 7 ").min_position == 7
    assert read(header=str(INT64_MAX)).min_position == INT64_MAX
    kinds = {"": "int_parsing", "x": "int_parsing", "-1": "greater_than_equal", str(2**63): "less_than_equal"}
    for text, kind in kinds.items():
        (violation,) = read(header=text)
        assert (violation.loc, violation.type) == (("header", "Membership-Min-Position"), kind)


# --- Arbitrary bytes -------------------------------------------------------------------------------------------------

NAMES = st.sampled_from([*(name for name in ListRequest.__struct_fields__ if name != "customer_id"), "x", "\xff"])
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=50)
QUERIES = st.lists(st.tuples(NAMES, st.binary(max_size=24).map(quote_from_bytes)), max_size=6).map(
    lambda pairs: "&".join(f"{name}={value}" for name, value in pairs).encode("latin-1")
)


@given(QUERIES | st.binary(max_size=80), st.just(CUSTOMER) | ANY_TEXT, st.none() | ANY_TEXT)
@example(b"", "\ud800", None)
@example(b"", CUSTOMER, "\ud800€")
@example(b"limit=" + b"9" * 10_000, CUSTOMER, "0" * 10_000 + "7")
def test_any_bytes_give_a_request_or_encodable_violations(query: bytes, customer: str, header: str | None) -> None:
    outcome = read(query, customer, header)
    if not isinstance(outcome, ListRequest):
        assert outcome
        assert all(isinstance(violation, Violation) for violation in outcome)
        msgspec.json.encode(outcome)


@given(QUERIES | st.lists(st.sampled_from([b"a", b"=", b"&", b"\xe9", b"%41", b"+", b";"]), max_size=9).map(b"".join))
def test_a_query_is_split_as_by_parse_qsl_with_or_without_escapes(query: bytes) -> None:
    assert query_pairs(query) == parse_qsl(query.decode("latin-1"), keep_blank_values=True, encoding="latin-1")


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_without_nul_is_a_valid_search(text: str) -> None:
    if "\0" not in text:
        assert accepted(f"q={quote(text)}").q == (text.strip() or None)
