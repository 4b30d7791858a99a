"""The TypeScript types are generated from the contracts, and `tsc` agrees with examples of both."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from contracts import typescript_types
from projections.model import asyncapi
from projections.model.event_examples import EXAMPLES
from service import docs_document

ROOT = Path(__file__).parent.parent
PROJECT = ROOT / "examples" / "browser-reader"
IMPORT_LINES = 2
INSTALL_S = 180
COMPILE_S = 60
REFUSED = {
    "a missing field": 'const value: TargetRemovedV1["data"] = { target_id: "", customer_id: "", campaign_id: "" };',
    "another type of value": 'const value: CampaignPage["meta"]["total"] = "11";',
    "a status that does not exist": 'const value: CampaignListItem["status"] = "archived";',
    "the data of another event": 'const value: MembershipEvent["type"] = "target.enrolled.v2";',
    "a parameter that does not exist": "const value: ListParameters = { page: 2 };",
    "an order that does not exist": 'const value: ListParameters = { sort_field: "colour" };',
}


@pytest.fixture(scope="module")
def compiler() -> Path:
    """Install what the example's lock pins, and return the compiler."""
    npm = shutil.which("npm")
    if npm is None:
        if "CI" in os.environ:
            pytest.fail("npm is not installed, and CI compiles the TypeScript types.")
        pytest.skip("npm is not installed; the generated files are compared nevertheless")
    command = [npm, "ci", "--no-audit", "--no-fund", "--silent"]
    subprocess.run(command, cwd=PROJECT, check=True, timeout=INSTALL_S)  # noqa: S603 - our own project
    return PROJECT / "node_modules" / ".bin" / "tsc"


def compiled(compiler: Path, folder: Path, text: str) -> str:
    """Return what the compiler says about a file; nothing if it is right."""
    contracts = typescript_types.FOLDER.as_posix()
    imports = "\n".join(
        [
            f'import type {{ CampaignListItem, CampaignPage, ListParameters }} from "{contracts}/api.js";',
            f'import type {{ MembershipEvent, TargetRemovedV1 }} from "{contracts}/events.js";',
        ]
    )
    (folder / "check.ts").write_text(f"{imports}\n{text}\nexport type {{}};\n", encoding="utf-8")
    options = json.loads((PROJECT / "tsconfig.json").read_bytes())["compilerOptions"]
    del options["rootDir"], options["outDir"]
    project = {"compilerOptions": options | {"noEmit": True}, "include": ["check.ts"]}
    (folder / "tsconfig.json").write_text(json.dumps(project), encoding="utf-8")
    outcome = subprocess.run(  # noqa: S603 - our own files
        [compiler, "--project", folder],
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
        timeout=COMPILE_S,
    )
    assert (outcome.returncode == 0) == (outcome.stdout == ""), outcome.stdout + outcome.stderr
    return outcome.stdout


def test_the_committed_types_are_those_of_the_contracts() -> None:
    committed = {path.name: path.read_text(encoding="utf-8") for path in typescript_types.FOLDER.glob("*.ts")}
    assert committed == typescript_types.files(), "run `make contracts`"


def test_there_is_no_type_for_what_is_not_understood() -> None:
    schemas: list[Any] = [{}, {"type": "array"}, {"type": "bytes"}, {"not": {}}]
    for schema in schemas:
        with pytest.raises(ValueError, match="no TypeScript type"):
            typescript_types._kind(schema)


def test_real_answers_and_events_have_the_types(compiler: Path, tmp_path: Path) -> None:
    page = docs_document.EXAMPLE.read_text(encoding="utf-8")
    values = [f"export const page: CampaignPage = {page};"]
    values += [f"export const event{n}: MembershipEvent = {json.dumps(e)};" for n, e in enumerate(EXAMPLES.values())]
    values.append('export const parameters: ListParameters = { limit: 5, sort_field: "name", cursor: "x" };')
    assert compiled(compiler, tmp_path, "\n".join(values)) == ""


def test_the_compiler_refuses_what_is_wrong(compiler: Path, tmp_path: Path) -> None:
    lines = "\n".join(f"{{ {line} void value; }}" for line in REFUSED.values())
    errors = compiled(compiler, tmp_path, lines)
    at = {int(line) - IMPORT_LINES for line in re.findall(r"^check\.ts\((\d+),", errors, re.MULTILINE)}
    assert {list(REFUSED)[number - 1] for number in at} == set(REFUSED), errors


def test_the_example_compiles(compiler: Path, tmp_path: Path) -> None:
    command = [str(compiler), "--project", str(PROJECT), "--outDir", str(tmp_path)]
    subprocess.run(command, check=True, timeout=COMPILE_S)  # noqa: S603 - our own project
    assert {path.name for path in tmp_path.iterdir()} == {"campaign_reader.js", "page.js"}


def test_the_document_of_the_events_is_valid_asyncapi_3(compiler: Path) -> None:
    specification = compiler.parents[1] / "@asyncapi" / "specs" / "schemas" / "3.0.0-without-$id.json"
    validator = jsonschema.Draft7Validator(json.loads(specification.read_bytes()))
    document: Any = asyncapi.content()
    assert [error.message for error in validator.iter_errors(document)] == []
    del document["channels"]["target"]["address"]
    document["operations"]["receive_target"]["action"] = "read"
    assert not validator.is_valid(document)
