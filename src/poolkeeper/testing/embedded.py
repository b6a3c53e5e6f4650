"""An embedded PostgreSQL that tests can crash, freeze and inspect."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from poolkeeper.embedded import EmbeddedPostgres, EmbeddedPostgresError
from poolkeeper.embedded.data_directory import SUPERUSER, clean_environment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from poolkeeper.embedded.server import StopMode


class FaultyPostgres(EmbeddedPostgres):
    """A server for tests: quick to start, with faults to inject.

    Without `durable` it does not wait for the disk, yet everything committed survives `crash()`:
    that ends processes, not the machine.
    """

    # connecting costs a millisecond instead of ten; the random password needs no stretching
    scram_iterations = 1

    def __init__(
        self,
        data_dir: Path | str,
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        settings: Mapping[str, str] | None = None,
        durable: bool = False,
    ) -> None:
        super().__init__(data_dir, port=port, host=host, settings=settings, durable=durable)

    def stop(self, mode: StopMode = "fast", *, timeout: float = 60.0) -> None:
        """Stops the server, frozen or not; see `EmbeddedPostgres.stop`."""
        self.thaw()
        super().stop(mode, timeout=timeout)

    def copy_to(
        self, data_dir: Path | str, *, settings: Mapping[str, str] | None = None
    ) -> FaultyPostgres:
        """A stopped server with a copy of this stopped one's data: much quicker than initdb.

        It has the same settings unless others are given.
        """
        assert not self.is_running, "the files of a running server cannot be copied"
        target = Path(data_dir)
        target.mkdir(parents=True, exist_ok=True)
        for name in ("pgdata", "password"):
            # keeps owners and modes, and shares blocks where the file system can
            subprocess.run(["cp", "-a", self.data_dir / name, target / name], check=True)
        return FaultyPostgres(
            target,
            host=self.host,
            settings=self._settings if settings is None else settings,
            durable=self._durable,
        )

    def restart(self, mode: StopMode = "fast") -> None:
        """Stops and starts; the URL stays the same."""
        self.stop(mode)
        self.start()

    def crash(self) -> None:
        """Kills every process of the server at one instant, as a power failure would.

        All are stopped first: after the kill of the postmaster alone, a busy backend would go on,
        and commit. Returns when nothing of the server is left.
        """
        assert self._guardian is not None, "the server was never started"
        self.freeze()
        for process in self._processes():
            # one may be gone by now: whoever started it took note of its end
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._guardian.wait()
        self._forget_guardian()

    def freeze(self, backend: int | None = None) -> None:
        """Stops all processes from running, or one backend: sockets stay open, nobody answers.

        Returns when they stand still.
        """
        processes = self._one(backend) if backend is not None else self._processes()
        for process in processes:
            # the postmaster comes first, so the list of its children cannot grow any more
            _suspend(process)
        if backend is None:
            for process in self._processes():
                _suspend(process)

    def freeze_postmaster(self) -> None:
        """Stops the postmaster alone: sessions go on, newcomers are let in and get no answer."""
        assert self.pid is not None, "the server is not running"
        _suspend(psutil.Process(self.pid))

    def thaw(self, backend: int | None = None) -> None:
        """Lets frozen processes run again; harmless for those that run."""
        for process in self._one(backend) if backend is not None else self._processes():
            try:
                process.resume()
            except psutil.NoSuchProcess:
                continue

    def kill_backend(self, backend: int) -> None:
        """SIGKILL to one backend; the postmaster answers by restarting all of them."""
        for process in self._one(backend):
            process.kill()

    def backends(self) -> list[dict[str, Any]]:
        """Client sessions as rows of `pg_stat_activity`, without the one that asks."""
        lines = self.psql(
            "select row_to_json(a) from pg_stat_activity a "
            "where backend_type = 'client backend' and pid <> pg_backend_pid()"
        )
        return [json.loads(line) for line in lines.splitlines()]

    def terminate_backends(
        self, *, database: str | None = None, application_name: str | None = None
    ) -> int:
        """Ends client sessions as an administrator would (57P01); returns how many were told."""
        conditions = ["backend_type = 'client backend'", "pid <> pg_backend_pid()"]
        if database is not None:
            conditions.append(f"datname = {_literal(database)}")
        if application_name is not None:
            conditions.append(f"application_name = {_literal(application_name)}")
        told = self.psql(
            "select count(*) filter (where pg_terminate_backend(pid)) "
            f"from pg_stat_activity where {' and '.join(conditions)}"
        )
        return int(told)

    def create_database(self, name: str, *, template: str = "template1") -> str:
        """Creates a database and returns its URL."""
        self.psql(f"create database {_identifier(name)} template {_identifier(template)}")
        return self.dsn(name)

    def drop_database(self, name: str) -> None:
        """Drops a database, ending its sessions; it need not exist."""
        self.psql(f"drop database if exists {_identifier(name)} with (force)")

    def psql(self, sql: str, *, database: str = "postgres", timeout: float = 30.0) -> str:
        """Runs SQL in a process of its own over the Unix socket; unaligned output, no headers.

        It shares neither driver nor network path with what is under test.

        Raises:
            EmbeddedPostgresError: The statement failed, or took longer than `timeout` seconds.
        """
        if self.socket_dir is None:
            raise self._not_started()
        command = [
            self.binaries.program("psql"),
            "--no-psqlrc", "--no-password", "--tuples-only", "--no-align", "--quiet",
            "--set=ON_ERROR_STOP=1",
            "--command", sql,
        ]  # fmt: skip
        where = {
            "PGHOST": str(self.socket_dir),
            "PGPORT": str(self.port),
            "PGUSER": SUPERUSER,
            "PGPASSWORD": self.password,
            "PGDATABASE": database,
        }
        try:
            done = subprocess.run(
                command,
                env=clean_environment() | where,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=True,
            )
        except subprocess.TimeoutExpired:
            raise EmbeddedPostgresError(
                f"psql got no answer within {timeout:g} s. Suggestion: thaw() the server first.",
                data_dir=self.data_dir,
            ) from None
        except subprocess.CalledProcessError as error:
            raise EmbeddedPostgresError(
                f"psql: {error.stderr.strip()}\nSuggestion: check the statement: {sql}",
                data_dir=self.data_dir,
            ) from None
        return done.stdout.strip()

    def _processes(self) -> list[psutil.Process]:
        """The postmaster and its children, then orphans of a postmaster that is gone."""
        if self._guardian is None:
            return []
        try:
            return psutil.Process(self._guardian.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def _one(self, backend: int) -> list[psutil.Process]:
        found = [process for process in self._processes() if process.pid == backend]
        if not found:
            raise ProcessLookupError(f"no process {backend} belongs to {self!r}")
        return found


def _suspend(process: psutil.Process) -> None:
    """Stops a process and waits until it stands: the signal alone only asks for it."""
    try:
        process.suspend()
        while process.status() not in {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE}:
            time.sleep(0.001)
    except psutil.NoSuchProcess:
        return


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
