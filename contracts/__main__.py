"""`python -m contracts check` compares the code's contracts with the recorded ones; `record` stores additive changes.

Reads and writes: contracts/recorded/, the contracts of yesterday's clients. `check --recorded` also fails if an
additive change is not stored there, as before a release.
"""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from contracts import asyncapi_comparison, openapi_comparison, typescript_types
from contracts.changes import Change
from projections.model import asyncapi
from service import openapi

RECORDED: Final = Path(__file__).parent / "recorded"
USAGE: Final = "Usage: python -m contracts check [--recorded] | record [--even-breaking]"


class Contract(NamedTuple):
    """A document that the service publishes."""

    file: str
    document: Callable[[], bytes]
    compare: Callable[[Any, Any], Iterator[Change]]

    def changes(self) -> list[Change]:
        """Return the changes since the document was recorded; each once."""
        recorded = json.loads((RECORDED / self.file).read_bytes())
        return list(dict.fromkeys(self.compare(recorded, json.loads(self.document()))))

    def text(self) -> str:
        """Return the code's document as it is recorded: readable, and stable in a version control system."""
        return json.dumps(json.loads(self.document()), indent=1, ensure_ascii=False) + "\n"

    def is_recorded(self) -> bool:
        """Return whether the recorded document is the code's."""
        return (RECORDED / self.file).read_text(encoding="utf-8") == self.text()


CONTRACTS: Final = (
    Contract("openapi.json", openapi.document, openapi_comparison.compare),
    Contract("asyncapi.json", asyncapi.document, asyncapi_comparison.compare),
)


def check() -> int:
    """Print every change; return 1 if one of them fails yesterday's clients."""
    found = False
    for contract in CONTRACTS:
        changes = contract.changes()
        for change in changes:
            found |= change.breaking
            kind = "breaking" if change.breaking else "additive"
            print(f"{contract.file}: {kind}: {change.sentence}.", file=sys.stderr if change.breaking else sys.stdout)
        if changes and not any(change.breaking for change in changes):
            print(f"{contract.file} may change so. Record it with `make contracts`.")
    if found:
        print(
            "A breaking change fails clients of the last release. Keep the old beside the new (docs/events.md, Rules "
            "for changing this contract). If no client uses it yet, record it: make contracts ARGS=--even-breaking",
            file=sys.stderr,
        )
    return int(found)


def record(*, even_breaking: bool) -> int:
    """Store the code's contracts and their TypeScript types, unless a change is breaking; return the exit code."""
    if check() and not even_breaking:
        return 1
    for contract in CONTRACTS:
        (RECORDED / contract.file).write_text(contract.text(), encoding="utf-8")
    for name, text in typescript_types.files().items():
        (typescript_types.FOLDER / name).write_text(text, encoding="utf-8")
    return 0


def check_recorded() -> int:
    """Return 1, with a sentence, unless the records are the code's contracts: a release is what they must describe."""
    stale = [contract.file for contract in CONTRACTS if not contract.is_recorded()]
    if stale:
        print(f"contracts/recorded lacks changes of {', '.join(stale)}: run `make contracts`.", file=sys.stderr)
    return int(bool(stale))


def main(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    match arguments:
        case ["check"]:
            return check()
        case ["check", "--recorded"]:
            return check() or check_recorded()
        case ["record"]:
            return record(even_breaking=False)
        case ["record", "--even-breaking"]:
            return record(even_breaking=True)
    print(USAGE, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
