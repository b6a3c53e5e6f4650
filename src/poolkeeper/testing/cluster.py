"""A primary and its standbys on this machine, for tests of failover.

::

    with ReplicatedPostgres(tmp_path / "cluster", standbys=1) as cluster:
        cluster.url                    # every host, target_session_attrs=primary
        cluster.dsn("app", driver="psycopg", target_session_attrs="standby")
        cluster.primary                # a FaultyPostgres: crash(), freeze(), stop() …
        cluster.standbys               # those that follow it
        cluster.replicate_synchronously()
        cluster.wait_for_catch_up()    # every standby has replayed what the primary has written

        old = cluster.primary
        old.crash()
        cluster.promote()              # the most advanced standby; returns when it takes writes
        cluster.rejoin(old)            # pg_rewind, then a standby of the new primary
        cluster.switchover()           # the same in an orderly way
        cluster.add_standby()
        cluster.disconnect(standby)    # it receives nothing more: a lag that stays
        cluster.reconnect(standby)

The pytest fixture ``replicated_postgres`` is such a cluster with one standby, asynchronous at
first. Nothing acts by itself: there is no failover manager, a test says when what happens. After
``promote`` an old primary that was not stopped goes on as a primary on the older timeline, as one
does whose failover manager froze. All methods block; in asyncio code call them through
``asyncio.to_thread``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import quote

from poolkeeper.embedded import EmbeddedPostgresError
from poolkeeper.embedded.account import account_for
from poolkeeper.embedded.data_directory import SUPERUSER, clean_environment, directory_argument
from poolkeeper.testing.embedded import FaultyPostgres

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

SETTINGS = {
    # pg_rewind reads pages of a running server and relies on their images in the WAL
    "full_page_writes": "on",
    # a standby asks its primary again soon, not after five seconds
    "wal_retrieve_retry_interval": "50ms",
}
# a server that was away finds what it missed without an archive
WAL_KEPT = "512MB"
POLL_SECONDS = 0.02
PATIENCE_SECONDS = 30.0


class ReplicatedPostgres:
    """A primary and standbys that stream from it.

    Attributes:
        servers: All of them in the order they were made, running or not; roles change.
        primary: The one that was made primary last.

    Args:
        data_dir: Created; each server gets a directory inside.
        standbys: How many ``start`` makes.
        synchronous: Whether a commit waits for a standby to have it on disk.
        settings: PostgreSQL parameters of every server.
        durable: See ``FaultyPostgres``.
        initialized: A stopped server to copy, which is quicker than making a primary anew.
    """

    def __init__(
        self,
        data_dir: Path | str,
        *,
        standbys: int = 1,
        synchronous: bool = False,
        settings: Mapping[str, str] | None = None,
        durable: bool = False,
        initialized: FaultyPostgres | None = None,
    ) -> None:
        self.data_dir = Path(data_dir)
        self._wanted = standbys
        self._synchronous = synchronous
        self._settings = SETTINGS | dict(settings or {})
        self._durable = durable
        if initialized is None:
            self.primary = self._server(1)
        else:
            self.primary = initialized.copy_to(self._dir(1), settings=self._named(1))
        self.servers = [self.primary]
        self._following: list[FaultyPostgres] = []

    def __repr__(self) -> str:
        others = [server for server in self.servers if server is not self.primary]
        return f"<ReplicatedPostgres primary {self.primary!r}, others {others!r}>"

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

    # Life cycle -------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts the primary, makes the standbys and returns when they stream from it."""
        try:
            self.primary.start()
            # in the files, not among the settings: pg_rewind runs a crashed server by itself
            self._set(self.primary, "wal_keep_size", WAL_KEPT)
            while len(self.servers) <= self._wanted:
                self.add_standby()
            for server in self._following:
                server.start()
            self._wait_for_streaming()
            self._set_synchronous_names()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stops every server, frozen or not; returns when all are gone."""
        for server in self.servers:
            # a primary that shuts down in order would wait for standbys that stand still
            server.thaw()
        for server in (self.primary, *(s for s in self.servers if s is not self.primary)):
            server.stop("immediate")

    def add_standby(self) -> FaultyPostgres:
        """Makes another standby by pg_basebackup and returns it when it streams."""
        number = len(self.servers) + 1
        server = self._server(number)
        target = server.data_dir / "pgdata"
        account = account_for(self.primary.data_dir / "pgdata")
        target.mkdir(mode=0o700, parents=True)
        server.data_dir.chmod(0o711)
        if account is not None:
            os.chown(target, account.uid, account.gid)
        shutil.copy2(self.primary.data_dir / "password", server.data_dir / "password")
        self._run(
            server,
            "pg_basebackup",
            *("--pgdata", directory_argument(target, account), "--checkpoint=fast", "--no-sync"),
            *("--wal-method=stream", "--write-recovery-conf", "--dbname", self._conninfo()),
        )
        self.servers.append(server)
        self._follow(server)
        return server

    # Roles ------------------------------------------------------------------------------------

    @property
    def standbys(self) -> list[FaultyPostgres]:
        """Those that follow the primary now, running or not."""
        return list(self._following)

    def promote(self, server: FaultyPostgres | None = None) -> FaultyPostgres:
        """Makes a standby the primary and returns it when it takes writes.

        Without an argument the running one that has received most. The other running standbys
        follow it from then on. The old primary is left alone: crash it before, or there are two.
        """
        candidates = [standby for standby in self._following if standby.is_running]
        if server is None:
            assert candidates, "no standby is running"
            server = max(candidates, key=_received) if len(candidates) > 1 else candidates[0]
        assert server in candidates, "only a running standby can be promoted"
        promoted = server.psql("select pg_promote()")
        assert promoted == "t", f"{server!r} was not promoted"
        self._following = [standby for standby in candidates if standby is not server]
        self.primary = server
        for standby in self._following:
            self._set(standby, "primary_conninfo", self._conninfo())
        if self._synchronous and self._following:
            self._wait_for_streaming()
            self._set_synchronous_names()
        return server

    def rejoin(self, server: FaultyPostgres) -> None:
        """Makes a server, running or not, a standby of the present primary by pg_rewind.

        One that was a primary before, or was stopped while another was promoted. What only it had
        committed is gone. Returns when it streams.
        """
        assert server is not self.primary, "the primary has nobody to follow"
        assert server not in self._following, "it is a standby already"
        server.stop()
        target = server.data_dir / "pgdata"
        self._run(
            server,
            "pg_rewind",
            *("--target-pgdata", directory_argument(target, account_for(target)), "--no-sync"),
            *("--write-recovery-conf", "--source-server", f"{self._conninfo()} dbname=postgres"),
        )
        self._follow(server)
        self._set_synchronous_names()

    def switchover(self, to: FaultyPostgres | None = None) -> FaultyPostgres:
        """Hands the role over without a loss: stop, promote, rejoin; returns the new primary."""
        old = self.primary
        old.stop("fast")  # sends the last of its WAL to the standbys before it ends
        new = self.promote(to)
        self.rejoin(old)
        return new

    def replicate_synchronously(self, *, on: bool = True) -> None:
        """From now on a commit waits for a standby to have it on disk, or no longer does.

        Also after a failover, as soon as the new primary has a standby: until then its commits do
        not wait for anybody.
        """
        self._synchronous = on
        self._set_synchronous_names()

    def disconnect(self, standby: FaultyPostgres) -> None:
        """Lets a standby receive nothing more, until it is connected again or promoted.

        Freezing it would not do: what the primary has sent meanwhile waits in its socket.
        """
        self._set(standby, "primary_conninfo", "")
        deadline = time.monotonic() + PATIENCE_SECONDS
        self._until(
            standby, "not exists (select from pg_stat_wal_receiver)", deadline, "still receives"
        )

    def reconnect(self, standby: FaultyPostgres) -> None:
        """Lets a standby receive again; returns when it streams."""
        self._set(standby, "primary_conninfo", self._conninfo())
        self._wait_for_streaming()

    # What is where ----------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """All hosts, for a pool that wants the primary; contains the password."""
        return self.dsn()

    def dsn(
        self,
        database: str = "postgres",
        *,
        driver: Literal["asyncpg", "psycopg"] | None = None,
        target_session_attrs: str | None = "primary",
    ) -> str:
        """The superuser's URL with all hosts in the order they were made."""
        scheme = f"postgresql+{driver}" if driver else "postgresql"
        hosts = ",".join(f"{server.host}:{server.port}" for server in self.servers)
        wanted = f"?target_session_attrs={target_session_attrs}" if target_session_attrs else ""
        password = self.primary.password
        return f"{scheme}://{SUPERUSER}:{password}@{hosts}/{quote(database, safe='')}{wanted}"

    def timeline(self, server: FaultyPostgres | None = None) -> int:
        """The timeline a primary writes on; grows with every promotion."""
        server = self.primary if server is None else server
        name = server.psql("select substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)")
        return int(name, 16)

    def wait_for_catch_up(
        self, server: FaultyPostgres | None = None, *, timeout: float = PATIENCE_SECONDS
    ) -> None:
        """Returns when a standby, or every one, has replayed what the primary has written by now.

        Raises:
            TimeoutError: It had not after ``timeout`` seconds.
        """
        written = self.primary.psql("select pg_current_wal_lsn()")
        deadline = time.monotonic() + timeout
        for standby in self._following if server is None else [server]:
            self._until(
                standby, f"pg_last_wal_replay_lsn() >= '{written}'", deadline, "has not caught up"
            )

    # Parts ------------------------------------------------------------------------------------

    def _dir(self, number: int) -> Path:
        return self.data_dir / f"node{number}"

    def _named(self, number: int) -> dict[str, str]:
        # a standby introduces itself to its primary by this name
        return self._settings | {"cluster_name": f"node{number}"}

    def _server(self, number: int) -> FaultyPostgres:
        return FaultyPostgres(
            self._dir(number), settings=self._named(number), durable=self._durable
        )

    def _conninfo(self) -> str:
        primary = self.primary
        return (
            f"host={primary.host} port={primary.port} user={SUPERUSER} password={primary.password}"
        )

    def _follow(self, server: FaultyPostgres) -> None:
        """Starts a standby whose files are ready."""
        self._following.append(server)
        server.start()
        # came along with the primary's files; here it would outlive the next promotion
        self._set(server, "synchronous_standby_names", "")
        self._wait_for_streaming()

    def _set_synchronous_names(self) -> None:
        names = [server._settings["cluster_name"] for server in self._following]
        wanted = f"ANY 1 ({', '.join(names)})" if self._synchronous and names else ""
        self._set(self.primary, "synchronous_standby_names", wanted)

    @staticmethod
    def _set(server: FaultyPostgres, name: str, value: str) -> None:
        """Changes a parameter and returns when the server knows it."""
        text = value.replace("'", "''")
        server.psql(f"alter system set {name} = '{text}'")
        server.psql("select pg_reload_conf()")
        while server.psql(f"show {name}") != value:
            time.sleep(POLL_SECONDS)

    def _wait_for_streaming(self) -> None:
        running = [server for server in self._following if server.is_running]
        self._until(
            self.primary,
            "(select count(*) from pg_stat_replication "
            f"where state = 'streaming' and application_name like 'node%') >= {len(running)}",
            time.monotonic() + PATIENCE_SECONDS,
            f"does not send to {len(running)} standbys",
        )

    @staticmethod
    def _until(server: FaultyPostgres, condition: str, deadline: float, problem: str) -> None:
        while server.psql(f"select {condition}") != "t":
            if time.monotonic() > deadline:
                raise TimeoutError(f"{server!r} {problem}; its log is {server.log_path}")
            time.sleep(POLL_SECONDS)

    def _run(self, server: FaultyPostgres, program: str, *arguments: str) -> None:
        """Runs one of PostgreSQL's programs on the files of a stopped server, as their owner."""
        target = server.data_dir / "pgdata"
        account = account_for(target)
        done = subprocess.run(
            [self.primary.binaries.program(program), *arguments],
            cwd=target,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
        if done.returncode != 0:
            raise EmbeddedPostgresError(
                f"{program} failed with exit code {done.returncode} for {server.data_dir}:\n"
                f"{done.stdout.strip()}\nSuggestion: the server's own log is {server.log_path}.",
                data_dir=server.data_dir,
                log_tail=done.stdout.strip(),
            )


def _received(standby: FaultyPostgres) -> int:
    """How much of the WAL a standby has, in bytes."""
    return int(
        standby.psql(
            "select pg_wal_lsn_diff(coalesce("
            "greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()), '0/0'), '0/0')"
        )
    )
