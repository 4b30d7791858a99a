"""Copies the event contract from `projections/model` into the client, which must not depend on the service.

A test compares the copies with their sources. Run it after a change of a source: `python client/copy_contract.py`.
"""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
SOURCE: Final = ROOT / "projections" / "model"
TARGET: Final = ROOT / "client" / "campaign_membership_client" / "contract"
MODULES: Final = ("events", "decode", "decode_errors")


def copy_of(module: str) -> str:
    """Return the text that the copy of a module must have."""
    text = (SOURCE / f"{module}.py").read_text(encoding="utf-8")
    origin = f"# Copied from projections/model/{module}.py by client/copy_contract.py. Change the source, then copy.\n"
    return origin + text.replace("from projections.model.", "from campaign_membership_client.contract.")


def path_of(module: str) -> Path:
    """Return where the copy of a module is."""
    return TARGET / f"{module}.py"


if __name__ == "__main__":
    for name in MODULES:
        path_of(name).write_text(copy_of(name), encoding="utf-8")
