"""Where a command's settings come from: the environment, or for an operator's command a dev stack that runs here."""

import json
import os
import sys
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Final

from projections.settings import Settings, load

DEV_FILE: Final = Path(".membership") / "dev.json"
_FROM_DEV: Final = {
    "MEMBERSHIP_DATABASE_URL": "database_url",
    "MEMBERSHIP_NATS_URL": "nats_url",
    "MEMBERSHIP_JWT_SECRET": "jwt_secret",
}


def process_settings(*needed: str) -> Settings:
    """Return the settings of a process (serve, project, migrate): from the environment alone."""
    return load(set(needed), os.environ)


def operator_settings(*needed: str, optional: AbstractSet[str] = frozenset()) -> Settings:
    """Return the settings of a command at a terminal: what the environment lacks comes from a running dev stack.

    Fields in `optional` are taken from the stack too, but may be missing.
    """
    environment = dict(os.environ)
    lacking = [
        name
        for name in _FROM_DEV
        if name.removeprefix("MEMBERSHIP_").lower() in {*needed, *optional}
        and not (environment.get(name) or environment.get(f"{name}_FILE"))
    ]
    # All of it or nothing: half of production and half of a dev stack would be neither.
    named = any(environment.get(name) or environment.get(f"{name}_FILE") for name in _FROM_DEV)
    stack = _running_dev_stack() if lacking and not named else None
    if stack is not None:
        environment |= {name: str(stack[_FROM_DEV[name]]) for name in lacking}
        print(f"Using the dev stack described in {DEV_FILE}.", file=sys.stderr)
    return load(set(needed), environment)


def _running_dev_stack() -> Mapping[str, Any] | None:
    try:
        stack: dict[str, Any] = json.loads(DEV_FILE.read_text(encoding="utf-8"))
        os.kill(stack["pids"]["postgres"], 0)
        os.kill(stack["pids"]["nats"], 0)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return stack
