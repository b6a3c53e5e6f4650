"""A pool behind PgBouncer in transaction mode."""

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import asyncpg
import psycopg
import pytest

from poolkeeper import ConnectionPoolManager, PoolConfig, PoolInitializationError
from poolkeeper.core.availability import Failure
from poolkeeper.observability.events import DatabaseConnectionLost
from poolkeeper.sqlstate import connect_failure
from poolkeeper.testing.contracts import eventually

PROGRAM = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
needs_pgbouncer = pytest.mark.skipif(
    PROGRAM is None, reason="PgBouncer is not installed; Debian: apt-get install pgbouncer"
)
DRIVERS = {
    # PgBouncer before 1.21 does not know which server connection has which prepared statement.
    "asyncpg": {"statement_cache_size": 0},
    "psycopg": {},
}
DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, psycopg.Error, OSError)


class PgBouncer:
    """A process in front of one server, with three server connections for all its clients."""

    def __init__(self, directory: Path, server, **settings):
        self.server = server
        self.directory = directory
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": "users",
            "pool_mode": "transaction",
            "default_pool_size": 3,
            "server_login_retry": 1,
            "query_wait_timeout": 2,
        } | settings
        text = (
            "[databases]\n"
            f"postgres = host=127.0.0.1 port={server.port} user=postgres "
            f"password={server.password}\n"
            "[pgbouncer]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())
        )
        directory.mkdir(exist_ok=True)
        (directory / "pgbouncer.ini").write_text(text)
        (directory / "users").write_text('"postgres" ""\n')
        for path in (directory, *directory.parents):
            if path.owner() == pwd.getpwuid(os.geteuid()).pw_name:
                path.chmod(path.stat().st_mode | 0o055)
        self._process = None

    def start(self):
        # It refuses to run as root.
        account = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [PROGRAM, "--quiet", "pgbouncer.ini"], cwd=self.directory, stderr=log, **account
            )
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
            except OSError:
                assert time.monotonic() < deadline, (self.directory / "log").read_text()
                time.sleep(0.01)
            else:
                return

    def kill(self):
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextlib.contextmanager
    def frozen(self):
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def url(self, driver="asyncpg", database="postgres"):
        return f"postgresql+{driver}://postgres@127.0.0.1:{self.port}/{database}"


@pytest.fixture
def bouncer(crashable_postgres, tmp_path):
    made = PgBouncer(tmp_path, crashable_postgres)
    made.start()
    yield made
    made.kill()


def pool_on(bouncer, driver, **options):
    options = {"min_size": 2, "max_size": 10, "probe_interval": 0.2, "probe_timeout": 1.0} | options
    config = PoolConfig(database_url=bouncer.url(driver), **options)
    return ConnectionPoolManager(config, **DRIVERS[driver])


async def value(pool, sql, *arguments):
    """First column of the first row, with either driver."""
    async with pool.acquire() as connection:
        if pool._pool.driver.name == "asyncpg":
            return await connection.fetchval(sql, *arguments)
        for number in range(1, len(arguments) + 1):
            sql = sql.replace(f"${number}", "%s")
        return (await (await connection.execute(sql, arguments)).fetchone())[0]


@needs_pgbouncer
@pytest.mark.asyncio
@pytest.mark.parametrize("driver", DRIVERS)
async def test_every_client_gets_its_own_answers(bouncer, driver):
    """Thirty clients on ten connections on three server connections."""
    async with pool_on(bouncer, driver) as pool:

        async def client(number):
            return [
                await value(pool, f"SELECT $1::int + {step}", number) == number + step
                for step in range(20)
            ]

        answers = await asyncio.gather(*(client(number) for number in range(30)))
        assert all(all(answer) for answer in answers)
        rows = await asyncio.to_thread(bouncer.server.backends)
        assert len(rows) <= 3


@needs_pgbouncer
@pytest.mark.asyncio
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("reset", ["auto", "always", "transaction"])
async def test_a_transaction_is_one_and_its_leftovers_go(bouncer, driver, reset):
    """Whatever the pool cleans with, PgBouncer passes it on."""
    async with pool_on(bouncer, driver, min_size=1, max_size=1, reset=reset) as pool:
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("SET LOCAL work_mem = '77kB'")
            await connection.execute("CREATE TEMP TABLE t ON COMMIT DROP AS SELECT 1")
            await connection.execute("SELECT * FROM t")
        async with pool.acquire() as connection:
            await connection.execute("BEGIN")
            await connection.execute("SET LOCAL work_mem = '78kB'")
        assert await value(pool, "SELECT current_setting('work_mem')") == "4MB"
        statistics = pool.get_statistics()
        assert statistics.recycled.get("reset_failed", 0) == 0


@needs_pgbouncer
@pytest.mark.asyncio
@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_crash_behind_it_is_an_outage_and_ends_with_it(bouncer, driver):
    """PgBouncer keeps its clients; the pool notices all the same, and holds who asks."""
    async with pool_on(bouncer, driver, outage_patience=60.0, timeout=60.0) as pool:
        lost = []
        pool.add_event_listener(
            lambda event: lost.append(event) if isinstance(event, DatabaseConnectionLost) else 0
        )
        await asyncio.to_thread(bouncer.server.crash)
        await eventually(lambda: lost)
        assert (await pool.health_check()).status == "unhealthy"
        waiting = [asyncio.create_task(value(pool, "SELECT 1")) for _ in range(20)]
        await eventually(lambda: pool.get_statistics().waiting_requests == 20)
        await asyncio.to_thread(bouncer.server.start)
        assert await asyncio.gather(*waiting) == [1] * 20


@needs_pgbouncer
@pytest.mark.asyncio
@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_statement_in_flight_ends_when_the_server_behind_dies(bouncer, driver):
    """With the driver's error; its connection is not lent again, the next one works."""
    async with pool_on(bouncer, driver, min_size=1, timeout=60.0, outage_patience=60.0) as pool:
        async with pool.acquire() as connection:
            working = asyncio.create_task(connection.execute("SELECT pg_sleep(60)"))
            await eventually(
                lambda: any("pg_sleep" in row["query"] for row in bouncer.server.backends())
            )
            await asyncio.to_thread(bouncer.server.restart, "immediate")
            with pytest.raises(DRIVER_ERRORS):
                await working
        assert await value(pool, "SELECT 1") == 1


@needs_pgbouncer
@pytest.mark.asyncio
@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_restart_of_pgbouncer_is_ridden_out(bouncer, driver):
    """Whoever asks meanwhile waits."""
    async with pool_on(bouncer, driver, timeout=60.0, outage_patience=60.0) as pool:
        await asyncio.to_thread(bouncer.kill)
        await eventually(lambda: not pool.get_size())
        waiting = asyncio.create_task(value(pool, "SELECT 1"))
        await asyncio.to_thread(bouncer.start)
        assert await waiting == 1


@needs_pgbouncer
@pytest.mark.asyncio
@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_silent_pgbouncer_is_noticed(bouncer, driver):
    """Its sockets stay open; the probe of the idle pool finds out."""
    async with pool_on(bouncer, driver, timeout=60.0, outage_patience=60.0) as pool:
        with bouncer.frozen():
            async with asyncio.timeout(20):
                while (await pool.health_check()).status != "unhealthy":
                    await asyncio.sleep(0.01)
        assert await value(pool, "SELECT 1") == 1


@needs_pgbouncer
@pytest.mark.asyncio
@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_full_pgbouncer_is_backpressure(crashable_postgres, tmp_path, driver):
    """It says so in words of its own."""
    bouncer = PgBouncer(tmp_path, crashable_postgres, max_client_conn=1)
    bouncer.start()
    try:
        async with pool_on(bouncer, driver, min_size=1, max_size=2) as pool:
            with pytest.raises(DRIVER_ERRORS) as caught:
                await pool._pool.driver.connect(10.0)
            assert pool._pool.driver.failure(caught.value) is Failure.BACKPRESSURE
    finally:
        bouncer.kill()


@needs_pgbouncer
@pytest.mark.asyncio
@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_database_pgbouncer_does_not_know_is_final(bouncer, driver):
    """Asking again would change nothing; the error says what to do."""
    config = PoolConfig(database_url=bouncer.url(driver, "nosuch"))
    with pytest.raises(PoolInitializationError, match=r"nosuch.*Suggestion: ") as caught:
        await ConnectionPoolManager(config, **DRIVERS[driver]).initialize()
    assert caught.value.attempts == 1


@needs_pgbouncer
@pytest.mark.asyncio
@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_failover_behind_two_of_them_is_followed(replicated_postgres, tmp_path, driver):
    """What PgBouncer repeats of a server's role is from before the promotion."""
    cluster = replicated_postgres
    cluster.primary.psql("CREATE TABLE t (n int)")
    cluster.wait_for_catch_up()
    bouncers = [PgBouncer(tmp_path / f"in front of {s.port}", s) for s in cluster.servers]
    try:
        for bouncer in bouncers:
            bouncer.start()
        first, second = bouncers
        url = first.url(driver).replace(f":{first.port}", f":{first.port},127.0.0.1:{second.port}")
        config = PoolConfig(
            database_url=f"{url}?target_session_attrs=primary",
            probe_interval=0.2,
            timeout=60.0,
            outage_patience=60.0,
        )
        async with ConnectionPoolManager(config, **DRIVERS[driver]) as pool:
            await pool.execute("INSERT INTO t VALUES (1)")
            await asyncio.to_thread(cluster.primary.crash)
            await asyncio.to_thread(cluster.promote)
            async with asyncio.timeout(30):
                while True:
                    try:
                        await pool.execute("INSERT INTO t VALUES (2)")
                        break
                    except DRIVER_ERRORS:
                        await asyncio.sleep(0.05)
        assert cluster.primary.psql("SELECT max(n) FROM t") == "2"
    finally:
        for bouncer in bouncers:
            bouncer.kill()


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        (
            "server login has been failing, try again later (server_login_retry)",
            Failure.UNAVAILABLE,
        ),
        ("pgbouncer cannot connect to server", Failure.UNAVAILABLE),
        ("query_wait_timeout", Failure.UNAVAILABLE),
        ("server conn crashed?", Failure.UNAVAILABLE),
        ("no more connections allowed (max_client_conn)", Failure.BACKPRESSURE),
        ("no such database: app", Failure.MISCONFIGURED),
        ("no such user: app", Failure.MISCONFIGURED),
    ],
)
@pytest.mark.parametrize("kind", ["with its code", "text alone"])
def test_what_pgbouncer_says_tells_what_passes_from_what_does_not(text, failure, kind):
    """All of it has the code 08P01, or with psycopg's logins none."""
    error = (
        asyncpg.ProtocolViolationError(text)
        if kind == "with its code"
        else psycopg.OperationalError(f"connection failed: FATAL:  {text}")
    )
    assert connect_failure(error) is failure
