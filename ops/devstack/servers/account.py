"""PostgreSQL refuses to run as root, so root runs it as an account without rights, and lets that account through."""

import os
import pwd
import stat
from pathlib import Path
from typing import Final

from ops.devstack.servers.child import Account, EmbeddedFailed

UNPRIVILEGED: Final = ("nobody", "daemon")


def account_for(folder: Path) -> Account | None:
    """Return whom PostgreSQL runs as over `folder`, which may not exist yet; None: as we are."""
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
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, found.pw_uid, found.pw_gid)
    raise EmbeddedFailed(
        f"PostgreSQL refuses to run as root, and there is no account {' or '.join(UNPRIVILEGED)} to run it as. "
        "Run this as another user."
    )


def grant_traverse(account: Account, *paths: Path) -> list[Path]:
    """Let `account` traverse the folders that lead to `paths`, and no more (o+x); return those that were closed."""
    folders = {folder for path in paths for folder in path.resolve().parents}
    closed = [folder for folder in sorted(folders) if not _may_enter(folder, account)]
    for folder in closed:
        try:
            folder.chmod(stat.S_IMODE(folder.stat().st_mode) | stat.S_IXOTH)
        except OSError as problem:
            raise _not_traversable(folder, account) from problem
        if not _may_enter(folder, account):
            raise _not_traversable(folder, account)
    return closed


def _may_enter(folder: Path, account: Account) -> bool:
    found = folder.stat()
    if found.st_uid == account.uid:
        return bool(found.st_mode & stat.S_IXUSR)
    return bool(found.st_mode & (stat.S_IXGRP if found.st_gid == account.gid else stat.S_IXOTH))


def _not_traversable(folder: Path, account: Account) -> EmbeddedFailed:
    return EmbeddedFailed(
        f"PostgreSQL refuses to run as root, and {account.name}, whom it would run as, cannot traverse {folder}. "
        "Run this as another user, or choose a folder elsewhere (--data-dir)."
    )


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
