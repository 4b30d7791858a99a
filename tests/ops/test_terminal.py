"""Tables on a narrow terminal: ids and times are never shortened, whatever the width."""

import pytest

from ops.terminal import print_table

KEY_ID, USER, TIME = "29bdf471fd0c", "c0ffee00-0000-4000-8000-000000000001", "2026-11-24T20:59:28Z"


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_id_or_time_is_shortened_at_any_width(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.terminal.PIPE_WIDTH", width)
    row = (KEY_ID, USER, "crm [of] sales", TIME)
    print_table(("key id", "user", "label", "created"), [row, row], folded=("label",))
    output = capsys.readouterr().out
    assert "…" not in output
    assert all(output.count(text) == 2 for text in (KEY_ID, USER, TIME)), output
    assert max(map(len, output.splitlines())) <= max(width, len(f"user: {USER}"))


def test_only_the_folded_column_wraps_in_a_table_that_is_too_wide(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.terminal.PIPE_WIDTH", 80)
    print_table(("position", "at", "detail"), [("19141", TIME, "word " * 40)], folded=("detail",))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:2] == ["19141", TIME]
    assert len(lines) > 3


def test_a_terminal_obeys_nothing_that_a_producer_wrote(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("subject", "detail"), [("a", "\x1b[31mred\u202e, Zürich")], folded=())
    output = capsys.readouterr().out
    assert "\\x1b[31mred\\u202e, Zürich" in output
    assert "\x1b" not in output
