"""The generated pages of the documentation are those of the code, and complete."""

import re
from pathlib import Path

import click
import pytest

import campaign_membership_client
from ops.cli import cli
from reference.__main__ import pages

DOCS = Path(__file__).parent.parent / "docs"
PAGES = pages()


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_that_of_the_code(name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == PAGES[name], "run `make reference`"


def commands(group: click.Group, prefix: str) -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        nested = isinstance(command, click.Group)
        found |= commands(command, f"{prefix} {name}") if nested else {f"{prefix} {name}": command}  # type: ignore[arg-type]  # a group
    return found


def test_the_page_has_every_command_with_every_option() -> None:
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGES["commands.md"], re.MULTILINE | re.DOTALL))
    assert sections.keys() == commands(cli, "membership").keys()
    for name, command in commands(cli, "membership").items():
        for parameter in command.params:
            written = parameter.opts[0] if isinstance(parameter, click.Option) else parameter.human_readable_name
            assert written in sections[name], (name, written)


def test_the_page_has_every_public_name_of_the_client_with_a_sentence() -> None:
    sections = re.findall(r"^### (\w+)\n\n```py\n.+\n```\n\n(.+)$", PAGES["python.md"], re.MULTILINE)
    described = {name for name, text in sections if len(text) > len("A sentence.")}
    public = {
        name for name in campaign_membership_client.__all__ if callable(getattr(campaign_membership_client, name))
    }
    assert public <= described, public - described
    assert {"AsyncReader", "Reader", "publish_table"} <= described
