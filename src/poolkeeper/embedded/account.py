"""The account PostgreSQL runs under, which must not be root."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from typing import TYPE_CHECKING

from poolkeeper.embedded.errors import EmbeddedPostgresError

if TYPE_CHECKING:
    from pathlib import Path

UNPRIVILEGED = ("postgres", "nobody")


@dataclass(frozen=True, slots=True)
class Account:
    """An existing account that root switches to; never created, never changed."""

    name: str
    uid: int
    gid: int

    def can_reach(self, path: Path) -> bool:
        """Whether mode bits let this account read `path` and walk down to it (ACLs are ignored)."""
        wanted = 0o5 if path.is_dir() else 0o4
        return self._has(path, wanted) and all(self._has(p, 0o1) for p in path.parents)

    def _has(self, path: Path, wanted: int) -> bool:
        found = path.stat()
        if found.st_uid == self.uid:
            granted = found.st_mode >> 6
        elif found.st_gid == self.gid:
            granted = found.st_mode >> 3
        else:
            granted = found.st_mode
        return granted & wanted == wanted


def account_for(cluster: Path) -> Account | None:
    """Whom to run `cluster` as: None for ourselves, or an account to switch to when we are root.

    A cluster that exists already is run by its owner, so that a `postgres` account installed
    later does not lock an old cluster out.
    """
    if os.geteuid() != 0:
        return None
    if cluster.exists():
        owner = cluster.stat()
        if owner.st_uid == 0:
            raise EmbeddedPostgresError(
                f"The data directory {cluster} belongs to root, and PostgreSQL refuses to run as "
                f"root. Suggestion: chown -R it to an unprivileged account.",
                data_dir=cluster,
            )
        return Account(_name_of(owner.st_uid), owner.st_uid, owner.st_gid)
    for name in UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    raise EmbeddedPostgresError(
        f"PostgreSQL refuses to run as root, and this machine has none of the accounts "
        f"{', '.join(UNPRIVILEGED)} to run it as. Suggestion: start as an ordinary user.",
        data_dir=cluster,
    )


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
