"""Starts and stops one embedded PostgreSQL."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import quote

from poolkeeper.embedded import guardian, ports
from poolkeeper.embedded.account import account_for
from poolkeeper.embedded.binaries import binaries_for
from poolkeeper.embedded.data_directory import (
    SUPERUSER,
    DataDirectory,
    clean_environment,
    directory_argument,
    private_dir,
)
from poolkeeper.embedded.errors import EmbeddedPostgresError
from poolkeeper.port_holder import find_port_holder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from poolkeeper.embedded.account import Account
    from poolkeeper.embedded.binaries import Binaries

StopMode = Literal["smart", "fast", "immediate"]

# PostgreSQL's shutdown signals, from patient to rude
SHUTDOWN: dict[StopMode, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}
OURS = frozenset({"listen_addresses", "port", "unix_socket_directories", "data_directory"})


class EmbeddedPostgres:
    """A PostgreSQL server with its data in a directory, for as long as this process lives.

    It listens on loopback only and asks everyone for a random password, kept in a file that only
    the directory's owner can read. When this process ends, however it ends, PostgreSQL shuts down
    in an orderly way. Started as root, it runs as `postgres` or `nobody`.

    All methods block; in asyncio code call them through `asyncio.to_thread`.

    Args:
        data_dir: Created on the first start, with everything PostgreSQL needs inside.
        port: TCP port; 0 takes the one of the last run if it is free, or another. It stays the
            same for the lifetime of this object.
        host: Loopback address to listen on.
        settings: PostgreSQL parameters, as in `postgresql.conf`.
        durable: False turns off fsync and full-page writes: faster, and committed rows survive
            killed processes still, but not a crash of the machine.
    """

    # Iterations of SCRAM for the superuser's password
    scram_iterations = 4096

    def __init__(
        self,
        data_dir: Path | str,
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        settings: Mapping[str, str] | None = None,
        durable: bool = True,
    ) -> None:
        if taken := OURS & (settings or {}).keys():
            raise EmbeddedPostgresError(
                f"The settings {', '.join(sorted(taken))} are made by EmbeddedPostgres itself. "
                f"Suggestion: use its arguments data_dir, host and port."
            )
        self._files = DataDirectory(Path(data_dir))
        self._host = host
        self._port = port
        self._durable = durable
        self._settings = dict(settings or {})
        self._guardian: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None
        self._socket_dir: Path | None = None
        self._binaries: Binaries | None = None

    def __repr__(self) -> str:
        state = f"pid {self._pid}" if self.is_running else "stopped"
        return f"<EmbeddedPostgres {self._host}:{self._port} in {self.data_dir}, {state}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def data_dir(self) -> Path:
        """Where everything of this server is kept."""
        return self._files.path

    @property
    def log_path(self) -> Path:
        """What the server and its guardian say; appended to by every run."""
        return self._files.log

    @property
    def host(self) -> str:
        """The loopback address it listens on."""
        return self._host

    @property
    def port(self) -> int:
        """The TCP port; known from the first start on."""
        if self._port == 0:
            raise self._not_started()
        return self._port

    @property
    def pid(self) -> int | None:
        """Pid of the postmaster while the server runs."""
        return self._pid if self.is_running else None

    @property
    def socket_dir(self) -> Path | None:
        """Directory of the Unix-domain socket while the server runs."""
        return self._socket_dir if self.is_running else None

    @property
    def binaries(self) -> Binaries:
        """The programs in use (`psql`, `pg_dump`, `pg_basebackup` …); known once started."""
        if self._binaries is None:
            raise self._not_started()
        return self._binaries

    @property
    def is_running(self) -> bool:
        """Whether any process of it exists, be it a backend that outlived its postmaster."""
        return self._guardian is not None and self._guardian.poll() is None

    @property
    def url(self) -> str:
        """The superuser's URL, password included: mask it before showing it to anyone."""
        return self.dsn()

    @property
    def password(self) -> str:
        """The superuser's password, as kept in the data directory."""
        return self._files.password()

    def dsn(
        self, database: str = "postgres", *, driver: Literal["asyncpg", "psycopg"] | None = None
    ) -> str:
        """The superuser's URL for a database, with the driver in its scheme if one is named."""
        scheme = f"postgresql+{driver}" if driver else "postgresql"
        host = f"[{self._host}]" if ":" in self._host else self._host
        name = quote(database, safe="")
        return f"{scheme}://{SUPERUSER}:{self.password}@{host}:{self.port}/{name}"

    def start(self, *, timeout: float = 60.0) -> None:
        """Starts the server and returns when it accepts connections; initializes it if needed.

        Does nothing if it runs already. `timeout` (seconds) bounds the start including crash
        recovery, but not initdb.

        Raises:
            EmbeddedPostgresError: The wheel is missing, the data directory is in use, belongs to
                somebody else or to another major version, the port is taken, or PostgreSQL gave up
                (with its last words). Nothing is left running.
        """
        if self.is_running:
            return
        self._forget_guardian()
        try:
            self._start(time.monotonic() + timeout, timeout)
        except OSError as error:
            self.stop("immediate")
            raise EmbeddedPostgresError(
                f"PostgreSQL cannot be started in {self.data_dir}: {error}. Suggestion: check the "
                f"permissions and the free space of that directory.",
                data_dir=self.data_dir,
            ) from error
        except BaseException:
            self.stop("immediate")
            raise

    def _start(self, deadline: float, timeout: float) -> None:
        self._files.create()
        lock = self._files.lock(timeout)
        try:
            account = account_for(self._files.cluster)
            self._binaries = binaries_for(account)
            if self._files.cluster.exists():
                self._files.check_version(self._binaries)
                self._files.forget_stale_postmaster()
            else:
                begun = time.monotonic()
                options = [f"--set=scram_iterations={self.scram_iterations}"]
                if not self._durable:
                    options.append("--no-sync")
                self._files.initialize(self._binaries, account, lock, options=options)
                deadline += time.monotonic() - begun
            self._choose_port()
            log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
            self._launch(self._binaries, account, lock)
        finally:
            os.close(lock)  # the guardian has its own by now
        self._wait_until_ready(deadline, timeout, log_start)
        self._files.remember_port(self._port)

    def _choose_port(self) -> None:
        if self._port == 0:
            remembered = self._files.port()
            if remembered is not None and ports.is_free(self._host, remembered):
                self._port = remembered
            else:
                self._port = ports.pick(self._host)
        elif not ports.is_free(self._host, self._port):
            raise self._port_taken()

    def _launch(self, binaries: Binaries, account: Account | None, lock: int) -> None:
        self._socket_dir = private_dir(account)
        settings = self._settings | {
            "listen_addresses": self._host,
            "port": str(self._port),
            "unix_socket_directories": str(self._socket_dir),
        }
        if not self._durable:
            settings = {"fsync": "off", "full_page_writes": "off"} | settings
        cluster = self._files.cluster
        command = [binaries.program("postgres"), "-D", directory_argument(cluster, account)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        job = {
            "command": command,
            "cwd": str(cluster),
            "uid": account.uid if account else None,
            "gid": account.gid if account else None,
            "parent": os.getpid(),
            "remove": [str(self._socket_dir)],
        }
        descriptor = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "wb") as log:
            self._guardian = subprocess.Popen(
                [sys.executable, "-I", "-S", guardian.__file__, json.dumps(job)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=clean_environment(),
                pass_fds=(lock,),
                start_new_session=True,  # Ctrl-C is for us; we stop the server when we are done
            )
        assert self._guardian.stdout is not None
        answer = self._guardian.stdout.readline()
        self._pid = int(answer) if answer else None

    def _wait_until_ready(self, deadline: float, timeout: float, log_start: int) -> None:
        """Looks at `postmaster.pid`, as pg_ctl does: no connection, so no noise in the log."""
        while self._pid is None or not (
            self._files.postmaster_pid() == self._pid and self._files.status() == "ready"
        ):
            if not self.is_running or self._pid is None:
                raise self._gave_up(log_start)
            if time.monotonic() > deadline:
                tail = self._files.log_since(log_start)
                raise EmbeddedPostgresError(
                    f"PostgreSQL in {self.data_dir} is not ready after {timeout:g} s. Its last "
                    f"words:\n{tail}\nSuggestion: if it is recovering from a crash, allow a longer "
                    f"timeout.",
                    data_dir=self.data_dir,
                    log_tail=tail,
                )
            time.sleep(0.01)

    def stop(self, mode: StopMode = "fast", *, timeout: float = 60.0) -> None:
        """Stops the server and returns when every process of it is gone.

        `smart` waits for clients to leave, `fast` disconnects them, `immediate` leaves recovery to
        the next start; what was committed survives all three. After `timeout` seconds without an
        end the next harsher way follows, for as long again, and at last a kill.
        """
        if self._guardian is not None:
            modes = list(SHUTDOWN)
            for harsher in modes[modes.index(mode) :]:
                self._send(SHUTDOWN[harsher])
                if self._ended_within(timeout):
                    break
            else:
                self._send(signal.SIGKILL)
                self._guardian.wait()
        self._forget_guardian()

    def _send(self, number: signal.Signals) -> None:
        """Through the guardian, which reaps the postmaster and so knows its pid is not reused."""
        assert self._guardian is not None
        assert self._guardian.stdin is not None
        try:
            self._guardian.stdin.write(f"{number.name}\n".encode())
            self._guardian.stdin.flush()
        except BrokenPipeError:
            pass  # gone already

    def _ended_within(self, timeout: float) -> bool:
        assert self._guardian is not None
        try:
            self._guardian.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _forget_guardian(self) -> None:
        if self._guardian is not None:
            self._guardian.communicate()  # closes its pipes
        if self._socket_dir is not None:  # left behind by a guardian that was killed
            shutil.rmtree(self._socket_dir, ignore_errors=True)
        self._socket_dir = None
        self._guardian = None
        self._pid = None

    def _not_started(self) -> EmbeddedPostgresError:
        return EmbeddedPostgresError(
            f"The embedded PostgreSQL in {self.data_dir} has not been started yet. "
            f"Suggestion: call start() first.",
            data_dir=self.data_dir,
        )

    def _gave_up(self, log_start: int) -> EmbeddedPostgresError:
        tail = self._files.log_since(log_start)
        if "could not bind" in tail:
            return self._port_taken()
        return EmbeddedPostgresError(
            f"PostgreSQL did not start in {self.data_dir}. Its last words:\n{tail}\n"
            f"Suggestion: the whole log is in {self.log_path}.",
            data_dir=self.data_dir,
            log_tail=tail,
        )

    def _port_taken(self) -> EmbeddedPostgresError:
        holder = find_port_holder(self._port)
        return EmbeddedPostgresError(
            f"The embedded PostgreSQL cannot listen on {self._host}:{self._port}: the port is in "
            f"use{f' by {holder}' if holder else ''}. Suggestion: stop the process that "
            f"holds it, or choose another port (0 picks a free one).",
            data_dir=self.data_dir,
            port=self._port,
            pid=holder.pid if holder else None,
        )
