"""Parts of the page that compute something, run in the browser: standstills, JSON by lines, how values are written."""

from typing import Any, Final

import pytest

from tests.support.browser import Operator

TICK_S: Final = 5


async def call(operator: Operator, module: str, function: str, *arguments: Any) -> Any:
    """Call a function of one of the page's modules."""
    script = "async ([path, name, args]) => (await import(path))[name](...args)"
    return await operator.page.evaluate(script, [f"/console/assets/{module}", function, list(arguments)])


def samples(*pairs: tuple[int, int]) -> list[dict[str, Any]]:
    """Return samples TICK_S apart, of (position, lag)."""
    return [
        {
            "at": f"2026-11-25T02:{tick * TICK_S // 60:02}:{tick * TICK_S % 60:02}Z",
            "position": position,
            "lag_events": lag,
        }
        for tick, (position, lag) in enumerate(pairs)
    ]


@pytest.fixture(autouse=True)
async def page(operator: Operator) -> None:
    await operator.open()


async def test_a_standstill_is_a_position_that_stays_while_events_wait(operator: Operator) -> None:
    stopped = samples((10, 0), (20, 1), (20, 5), (20, 9), (20, 12), (40, 0))
    found = await call(operator, "parts/standstill.js", "standstills", stopped)
    assert [interval["to"] - interval["from"] for interval in found] == [3 * TICK_S]
    idle = samples(*[(20, 0)] * 8)
    behind = samples(*[(number, 9) for number in range(8)])
    short = samples((1, 1), (1, 1), (2, 0), (2, 0))
    for steady in (idle, behind, short):
        assert await call(operator, "parts/standstill.js", "standstills", steady) == []


async def test_json_is_laid_out_without_changing_a_number_or_a_text(operator: Operator) -> None:
    text = '{"version":12345678901234567890,"list":[1.50,{}],"text":"a, \\"b\\": {","none":null}'
    lines = await call(operator, "parts/json_text.js", "linesOf", text)
    assert [line["text"] for line in lines] == [
        "{",
        '"version": 12345678901234567890,',
        '"list": [',
        "1.50,",
        "{}",
        "],",
        '"text": "a, \\"b\\": {",',
        '"none": null',
        "}",
    ]
    assert lines[4]["path"] == ["list", 1]


async def test_what_is_no_json_or_too_deep_is_told_apart(operator: Operator) -> None:
    for text in ("", "{", "[1,]", '{"a" 1}', "{} {}", "nul", '{"a":1,}', "[" * 100 + "]" * 100):
        assert await call(operator, "parts/json_text.js", "linesOf", text) is None, text


async def test_a_missing_field_marks_the_object_that_lacks_it(operator: Operator) -> None:
    lines = await call(operator, "parts/json_text.js", "linesOf", '{"data":{"a":1},"id":"x"}')
    assert await call(operator, "parts/json.js", "markedLine", lines, ["data", "version"]) == 1
    assert await call(operator, "parts/json.js", "markedLine", lines, ["data", "a"]) == 2
    assert await call(operator, "parts/json.js", "markedLine", lines, ["type"]) == 0


WRITTEN: Final = [
    ("count", None, "–"),
    ("count", 12638104, "12,638,104"),
    ("count", "9223372036854775807", "9,223,372,036,854,775,807"),
    ("duration", 0.42, "0.4 s"),
    ("duration", 59.7, "1 min"),
    ("duration", 250, "4 min 10 s"),
    ("duration", 7200, "2 h"),
    ("duration", 3599.8, "1 h"),
    ("duration", 270000, "3 d 3 h"),
    ("moment", "2025-01-06T13:13:05Z", "6 Jan 2025, 13:13:05"),
    ("moment", "nonsense", "–"),
    ("percent", 0.9624, "96.2%"),
]
"""(function of format.js, value, text)"""


async def test_values_are_written_for_people(operator: Operator) -> None:
    for function, value, text in WRITTEN:
        assert await call(operator, "format.js", function, value) == text
