"""Loads a command's settings: from the environment or, for an operator's command, from a dev stack running here."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Final

from projections.errors import SettingsInvalid
from projections.settings import Settings, load

DEV_FILE: Final = Path(".membership") / "dev.json"
_FROM_DEV: Final = {
    "MEMBERSHIP_DATABASE_URL": "database_url",
    "MEMBERSHIP_NATS_URL": "nats_url",
    "MEMBERSHIP_JWT_SECRET": "jwt_secret",
}
_BROKER_PREFIX: Final = "MEMBERSHIP_NATS_"


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
    configured = [name for name in _FROM_DEV if environment.get(name) or environment.get(f"{name}_FILE")]
    stack = _running_dev_stack() if missing else None
    uses_stack = stack is not None and not configured
    if stack is not None and uses_stack:
        # The stack's broker has neither TLS nor credentials.
        environment = {name: value for name, value in environment.items() if not name.startswith(_BROKER_PREFIX)}
        environment |= {name: str(stack[_FROM_DEV[name]]) for name in missing}
    try:
        settings = load(set(needed), environment)
    except SettingsInvalid as invalid:
        hint = _dev_stack_hint(configured, running=stack is not None) if missing and not uses_stack else ""
        raise SettingsInvalid([*invalid.problems, *filter(None, [hint])]) from None
    if uses_stack:
        print(f"Using the dev stack described in {DEV_FILE}.", file=sys.stderr)
    return settings


def _dev_stack_hint(configured: Sequence[str], *, running: bool) -> str:
    """Return why no dev stack provides the missing settings; empty if none runs and some settings are set."""
    if running:
        verb = "is" if len(configured) == 1 else "are"
        return f"The dev stack in ./{DEV_FILE.parent} is not used, because {' and '.join(configured)} {verb} set."
    return "" if configured else f"No dev stack runs in ./{DEV_FILE.parent} that could provide them."


def _running_dev_stack() -> Mapping[str, Any] | None:
    try:
        stack: dict[str, Any] = json.loads(DEV_FILE.read_text(encoding="utf-8"))
        os.kill(stack["pids"]["postgres"], 0)
        os.kill(stack["pids"]["nats"], 0)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return stack
