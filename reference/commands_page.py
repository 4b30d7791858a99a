"""Generates docs/commands.md: every command with its help text, arguments and options."""

import re
from collections.abc import Iterator
from typing import Final

import click

from ops.cli import cli

TITLE: Final = """\
# Commands

Generated from the commands by `make reference`; do not edit. Every command has `--help`. Settings come from the
environment ([Settings](configuration.md)). Exit codes: 0 done, 1 failed with a sentence that says why, 2 wrong usage or
settings, 130 after Ctrl-C.
"""


def page() -> str:
    """Return the page."""
    return "\n".join([TITLE, *(_section(name, command) for name, command in _commands(cli, "membership"))])


def _commands(group: click.Group, prefix: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from _commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def _section(name: str, command: click.Command) -> str:
    arguments = [p.make_metavar(click.Context(command)) for p in command.params if isinstance(p, click.Argument)]
    usage = " ".join([name, *arguments])
    parts = [f"## {name}\n", f"`{usage}`\n", _text(command.help or "")]
    if options := [p for p in command.params if isinstance(p, click.Option) and not p.hidden]:
        parts += ["\n| option | meaning |", "|---|---|", *(_row(option) for option in options)]
    return "\n".join(parts) + "\n"


def _row(option: click.Option) -> str:
    names = ", ".join([*option.opts, *option.secondary_opts])
    value = "" if option.is_flag else f" {option.make_metavar(click.Context(click.Command('')))}"
    notes = [option.help or ""]
    if option.required:
        notes.append("Required.")
    if option.show_default and not option.is_flag and option.default is not None:
        values = option.default if isinstance(option.default, tuple | list) else [option.default]
        notes.append(f"Default: {', '.join(map(str, values))}.")
    return f"| `{_cell(names + value)}` | {_cell(' '.join(notes))} |"


def _text(text: str) -> str:
    """Return a docstring's paragraphs, one a line."""
    paragraphs = re.split(r"\n\s*\n", text.replace("\b", "").strip())
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
