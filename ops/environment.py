"""Loads a command's settings: from the environment or, for an operator's command, from a dev stack running here."""

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
    """Return the settings of a process (serve, project, migrate), from the environment only."""
    return load(set(needed), os.environ)


def operator_settings(*needed: str, optional: AbstractSet[str] = frozenset()) -> Settings:
    """Return the settings of an operator's command; a running dev stack provides those missing in the environment.

    Fields in `optional` come from the stack too, but may be missing.
    """
    environment = dict(os.environ)
    missing = [
        name
        for name in _FROM_DEV
        if name.removeprefix("MEMBERSHIP_").lower() in {*needed, *optional}
        and not (environment.get(name) or environment.get(f"{name}_FILE"))
    ]
    # All or nothing: never mix settings of production with those of a dev stack.
    configured = any(environment.get(name) or environment.get(f"{name}_FILE") for name in _FROM_DEV)
    stack = _running_dev_stack() if missing and not configured else None
    if stack is not None:
        environment |= {name: str(stack[_FROM_DEV[name]]) for name in missing}
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
