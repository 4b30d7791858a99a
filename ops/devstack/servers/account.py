"""The account PostgreSQL runs as: for root, an unprivileged one that can reach its folder, as it refuses root."""

import os
import pwd
import stat
from pathlib import Path
from typing import Final

from ops.devstack.servers.child import Account, EmbeddedFailed

UNPRIVILEGED: Final = ("nobody", "daemon")


def account_for(folder: Path) -> Account | None:
    """Return the account to run PostgreSQL as over `folder`, which may not exist yet; None for the current one."""
    owner = folder.stat() if folder.exists() else None
    if os.geteuid() != 0:
        if owner is not None and owner.st_uid != os.geteuid():
            raise EmbeddedFailed(
                f"{folder} belongs to {_name(owner.st_uid)}, so only that account and root can use it. "
                "Run this as root, or choose another folder (--data-dir)."
            )
        return None
    if owner is not None and owner.st_uid != 0:
        return Account(_name(owner.st_uid), owner.st_uid, owner.st_gid)
    for name in UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    raise EmbeddedFailed(
        f"PostgreSQL refuses to run as root, and there is no account {' or '.join(UNPRIVILEGED)} to run it as. "
        "Run this as another user."
    )


def grant_traverse(account: Account, *paths: Path) -> list[Path]:
    """Let `account` traverse the folders that lead to `paths`, nothing more (o+x); return the folders changed."""
    folders = {folder for path in paths for folder in path.resolve().parents}
    closed = [folder for folder in sorted(folders) if not _can_traverse(folder, account)]
    for folder in closed:
        try:
            folder.chmod(stat.S_IMODE(folder.stat().st_mode) | stat.S_IXOTH)
        except OSError as problem:
            raise _not_traversable(folder, account) from problem
        if not _can_traverse(folder, account):
            raise _not_traversable(folder, account)
    return closed


def _can_traverse(folder: Path, account: Account) -> bool:
    status = folder.stat()
    if status.st_uid == account.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    return bool(status.st_mode & (stat.S_IXGRP if status.st_gid == account.gid else stat.S_IXOTH))


def _not_traversable(folder: Path, account: Account) -> EmbeddedFailed:
    return EmbeddedFailed(
        f"PostgreSQL refuses to run as root, and the account {account.name} cannot traverse {folder}. "
        "Run this as another user, or choose another folder (--data-dir)."
    )


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
