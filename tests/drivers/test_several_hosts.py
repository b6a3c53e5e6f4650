"""Of several hosts in a URL the right one is found, whatever the others do."""

import asyncio
import itertools
import socket
import struct
import time
from contextlib import asynccontextmanager, contextmanager

import asyncpg
import pytest
import pytest_asyncio

from poolkeeper.core.availability import Failure
from poolkeeper.drivers import make_driver
from poolkeeper.endpoints import NoHostFits, hosts_of, target_session_attrs_of
from poolkeeper.exceptions import PoolConfigurationError
from poolkeeper.session_policy import StatementNotes
from poolkeeper.testing.cluster import ReplicatedPostgres
from poolkeeper.testing.contracts import NoOwner, eventually

DRIVERS = ["asyncpg", "psycopg"]
PATIENCE = 20.0
SOON = 2.0
"""Far below PATIENCE: what takes longer has waited for a host that says nothing."""
_numbers = itertools.count()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A primary and a standby nobody breaks."""
    with ReplicatedPostgres(tmp_path_factory.mktemp("cluster")) as running:
        running.wait_for_catch_up()
        yield running


class Dialler:
    """A driver and what it opened."""

    def __init__(self, url, **kwargs):
        self.application = f"hosts-test-{next(_numbers)}"
        settings = {"application_name": self.application}
        self.driver = make_driver(
            url,
            owner=NoOwner(),
            notes=StatementNotes(),
            hooks={},
            connect_kwargs={"server_settings": settings} | kwargs,
        )
        self.opened = []

    async def __call__(self, timeout=PATIENCE):
        async with asyncio.timeout(timeout + 5):
            session = await self.driver.connect(timeout)
        self.opened.append(session)
        return session

    async def refusal(self, kind=Exception):
        with pytest.raises(kind) as caught:
            await self()
        return caught.value

    def sessions_on(self, server):
        return sum(row["application_name"] == self.application for row in server.backends())


@pytest_asyncio.fixture
async def dialler():
    """Makes diallers and aborts what they opened."""
    made = []

    def make(url, **kwargs):
        made.append(Dialler(url, **kwargs))
        return made[-1]

    yield make
    for each in made:
        for session in each.opened:
            session.abort()


def url(cluster, *hosts, driver="asyncpg", wanted="primary"):
    """A URL with these servers or (host, port) pairs."""
    credentials = f"postgres:{cluster.primary.password}"
    addresses = ",".join(
        f"{host[0]}:{host[1]}" if isinstance(host, tuple) else f"{host.host}:{host.port}"
        for host in hosts
    )
    return f"postgresql+{driver}://{credentials}@{addresses}/postgres?target_session_attrs={wanted}"


@contextmanager
def silent_host():
    """An address that accepts every connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield server.getsockname()


def refused_address():
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()


@asynccontextmanager
async def refusing_host(sqlstate, message):
    """A server that answers every login with an error."""
    count = itertools.count(1)

    async def refuse(reader, writer):
        refuse.logins = next(count)
        header = await reader.readexactly(8)
        if struct.unpack("!II", header)[1] == 80877103:  # asks for TLS
            writer.write(b"N")
            header = await reader.readexactly(8)
        await reader.readexactly(struct.unpack("!II", header)[0] - 8)
        body = b"".join(
            kind + text.encode() + b"\0"
            for kind, text in ((b"S", "FATAL"), (b"V", "FATAL"), (b"C", sqlstate), (b"M", message))
        )
        writer.write(b"E" + struct.pack("!I", len(body) + 5) + body + b"\0")
        writer.close()

    refuse.logins = 0
    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname(), refuse


# --------------------------------------------------------------------------------- the right host


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(
    ("wanted", "role"),
    [
        ("any", "first"),
        ("primary", "primary"),
        ("read-write", "primary"),
        ("standby", "standby"),
        ("read-only", "standby"),
        ("prefer-standby", "standby"),
    ],
)
@pytest.mark.parametrize("primary_first", [True, False])
async def test_the_wanted_role_decides(cluster, dialler, driver, wanted, role, primary_first):
    """In whatever order the hosts are named; with `any`, the first one that answers at once."""
    primary, (standby,) = cluster.primary, cluster.standbys
    hosts = [primary, standby] if primary_first else [standby, primary]
    expected = {"primary": primary, "standby": standby, "first": hosts[0]}[role]
    dial = dialler(url(cluster, *hosts, driver=driver, wanted=wanted))
    for _ in range(2):
        session = await dial()
        assert session.endpoint == (expected.host, expected.port)
        assert (await session.ask("SELECT pg_is_in_recovery()")) is (expected is standby)


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_primary_will_do_where_no_standby_is(cluster, dialler, driver):
    """`prefer-standby` takes what there is, and asks for a standby again the next time."""
    primary, (standby,) = cluster.primary, cluster.standbys
    nobody = refused_address()
    dial = dialler(url(cluster, nobody, primary, driver=driver, wanted="prefer-standby"))
    assert (await dial()).endpoint == (primary.host, primary.port)
    dial.driver.set_connect_args(
        url(cluster, primary, standby, wanted="prefer-standby").replace("+asyncpg", "")
    )
    assert (await dial()).endpoint == (standby.host, standby.port)


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_server_that_refuses_writes_by_default_is_not_read_write(cluster, dialler, driver):
    """Although it is the primary; as libpq has it."""
    primary, (standby,) = cluster.primary, cluster.standbys
    address = url(cluster, primary, standby, driver=driver, wanted="read-write")
    dial = dialler(address, server_settings={"default_transaction_read_only": "on"})
    error = await dial.refusal(NoHostFits)
    assert str(error).count("is read-only") == 2


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_role_postgresql_does_not_know_is_refused(driver):
    """When the pool is made, with the ones it knows."""
    with pytest.raises(PoolConfigurationError, match=r"'master'.* Suggestion: use one of any, pr"):
        Dialler(f"postgresql+{driver}://u@a,b/db?target_session_attrs=master")


@pytest.mark.parametrize(
    ("address", "kwargs", "hosts"),
    [
        ("postgresql://u:p@a:1,b:2/db", {}, [("a", 1), ("b", 2)]),
        ("postgresql://u@a,[::1]:7/db", {}, [("a", 5432), ("::1", 7)]),
        ("postgresql://u@/db?host=/run/x,b&port=6,7", {}, [("/run/x", 6), ("b", 7)]),
        ("postgresql://u@a/db", {"host": ["b", "c"], "port": 9}, [("b", 9), ("c", 9)]),
        (None, {"host": "b,c", "port": "1,2"}, [("b", 1), ("c", 2)]),
        (None, {}, []),
    ],
)
def test_hosts_are_read_as_the_drivers_read_them(address, kwargs, hosts):
    """From the URL, its query and the arguments, with a port for each or one for all."""
    assert hosts_of(address, kwargs) == hosts


def test_the_wanted_role_is_read_as_the_drivers_read_it(monkeypatch):
    """Argument, URL, environment, in this order."""
    address = "postgresql://u@a,b/db?target_session_attrs=standby"
    monkeypatch.setenv("PGTARGETSESSIONATTRS", "read-write")
    argument = {"target_session_attrs": asyncpg.connect_utils.SessionAttribute.primary}
    assert target_session_attrs_of(address, argument) == "primary"
    assert target_session_attrs_of(address, {}) == "standby"
    assert target_session_attrs_of("postgresql://u@a,b/db", {}) == "read-write"
    monkeypatch.delenv("PGTARGETSESSIONATTRS")
    assert target_session_attrs_of("postgresql://u@a,b/db", {}) == "any"


# ------------------------------------------------------------------------- hosts that do not work


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("wanted", ["primary", "any", "prefer-standby"])
async def test_a_silent_first_host_costs_nothing(cluster, dialler, driver, wanted):
    """The second one is used at once, not when the patience with the first has ended."""
    with silent_host() as silence:
        dial = dialler(url(cluster, silence, cluster.primary, driver=driver, wanted=wanted))
        started = time.monotonic()
        await dial()
        assert time.monotonic() - started < SOON


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_host_in_use_that_falls_silent_costs_a_moment(cluster, dialler, driver):
    """The others are asked although it has been right so far."""
    with silent_host() as silence:
        dial = dialler(url(cluster, silence, cluster.primary, driver=driver))
        dial.driver.hosts.prefer(dial.driver.hosts.hosts[0], 1)
        started = time.monotonic()
        session = await dial()
        assert time.monotonic() - started < SOON
        assert session.endpoint == dial.driver.hosts.current == dial.driver.hosts.hosts[1]


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(
    ("sqlstate", "message"),
    [
        ("53300", "sorry, too many clients already"),
        ("57P03", "the database system is starting up"),
        ("28P01", 'password authentication failed for user "postgres"'),
        ("3D000", 'database "postgres" does not exist'),
    ],
)
async def test_a_host_that_refuses_the_login_does_not_end_the_search(
    cluster, dialler, driver, sqlstate, message
):
    """Whatever it says: another one may do."""
    async with refusing_host(sqlstate, message) as (address, _server):
        session = await dialler(url(cluster, address, cluster.primary, driver=driver))()
        assert session.endpoint == (cluster.primary.host, cluster.primary.port)


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", DRIVERS)
async def test_the_error_says_of_each_host_what_is_wrong_with_it(cluster, dialler, driver):
    """And holds no password."""
    nobody, (standby,) = refused_address(), cluster.standbys
    async with refusing_host("53300", "sorry, too many clients already") as (full, _server):
        dial = dialler(url(cluster, nobody, full, standby, driver=driver))
        text = str(await dial.refusal(NoHostFits))
    assert "none of 3 hosts can be used with target_session_attrs=primary" in text
    assert f"127.0.0.1:{nobody[1]}: " in text
    assert "refused" in text.lower()
    assert f"127.0.0.1:{full[1]}: " in text
    assert "too many clients" in text
    assert f"127.0.0.1:{standby.port}: is a standby" in text
    assert cluster.primary.password not in text


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(
    ("refusals", "failure"),
    [
        ([], Failure.UNAVAILABLE),
        (["57P03"], Failure.STARTING),
        (["28P01"], Failure.MISCONFIGURED),
        (["28P01", "57P03"], Failure.STARTING),
        (["28P01", "53300"], Failure.BACKPRESSURE),
        (["28P01", "nobody"], Failure.UNAVAILABLE),
        (["53300", "nobody"], Failure.UNAVAILABLE),
    ],
)
async def test_the_most_hopeful_refusal_decides(cluster, dialler, driver, refusals, failure):
    """A standby says nothing either way; texts of other hosts must not be mistaken for its own."""
    messages = {
        "57P03": "the database system is starting up",
        "28P01": 'password authentication failed for user "postgres"',
        "53300": "sorry, too many clients already",
    }
    async with (
        refusing_host("57P03", messages["57P03"]) as (starting, _),
        refusing_host("28P01", messages["28P01"]) as (refusing, _),
        refusing_host("53300", messages["53300"]) as (full, _),
    ):
        known = {
            "57P03": starting,
            "28P01": refusing,
            "53300": full,
            "nobody": refused_address(),
        }
        hosts = [known[refusal] for refusal in refusals]
        if len(hosts) < 2:
            hosts.append(cluster.standbys[0])
        if len(hosts) < 2:
            hosts.append(cluster.standbys[0])
        dial = dialler(url(cluster, *hosts, driver=driver))
        assert dial.driver.failure(await dial.refusal(NoHostFits)) is failure


# --------------------------------------------------------------------------------------- timelines


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", DRIVERS)
async def test_of_two_primaries_the_one_on_the_higher_timeline_is_used(
    replicated_postgres, dialler, driver, monkeypatch
):
    """In whatever order they are named; the other one will lose what is written there."""
    # both are compared here, however late one of them answers on a busy machine
    monkeypatch.setattr("poolkeeper.drivers.hosts.CONTEST_SECONDS", 30.0)
    old = replicated_postgres.primary
    new = await asyncio.to_thread(replicated_postgres.promote)
    for hosts in ([old, new], [new, old]):
        dial = dialler(url(replicated_postgres, *hosts, driver=driver))
        session = await dial()
        assert session.endpoint == (new.host, new.port)
        known = dial.driver.hosts
        assert [host.port for host in known.hosts if known.superseded(host)] == [old.port]
        # The connection to the other one fitted as well, until they were compared.
        await eventually(lambda dial=dial: not dial.sessions_on(old))
    # Known now to be a relic, it is not used even when the right one cannot be reached.
    dial = dialler(url(replicated_postgres, old, new, driver=driver))
    await dial()
    await asyncio.to_thread(new.crash)
    error = await dial.refusal(NoHostFits)
    assert "is a primary on timeline 1, older than 2" in str(error)


# ------------------------------------------------------------------------------------ steady state


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", DRIVERS)
async def test_only_the_host_in_use_is_dialled_while_it_fits(cluster, dialler, driver):
    """Many connections are not many times as many logins."""
    async with refusing_host("57P03", "the database system is starting up") as (address, other):
        dial = dialler(url(cluster, address, cluster.primary, driver=driver))
        await dial()
        asked = other.logins
        assert asked
        for _ in range(5):
            await dial()
        assert other.logins == asked


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_search_leaves_one_connection_open(cluster, dialler, driver):
    """Those to hosts that were not chosen are gone."""
    primary, (standby,) = cluster.primary, cluster.standbys
    dial = dialler(url(cluster, standby, primary, driver=driver))
    await dial()
    await eventually(lambda: not dial.sessions_on(standby))
    assert dial.sessions_on(primary) == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_cancelled_search_leaves_nothing_open(cluster, dialler, driver):
    """At whichever step the cancellation comes, and whatever had been found by then."""
    before = asyncio.all_tasks()
    primary, (standby,) = cluster.primary, cluster.standbys
    with silent_host() as silence:
        dial = dialler(url(cluster, silence, standby, primary, driver=driver))
        turns = 0
        while True:
            dial.driver.hosts.current = None
            # Nothing ends by its timeout here.
            task = asyncio.ensure_future(dial(timeout=3600))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            (result,) = await asyncio.gather(task, return_exceptions=True)
            if not isinstance(result, BaseException):
                break
            turns = turns * 2 + 1
            assert turns < 1_000_000
        dial.opened.pop().abort()
        await eventually(lambda: not dial.sessions_on(primary) + dial.sessions_on(standby))
        await eventually(lambda: asyncio.all_tasks() <= before | {asyncio.current_task()})


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", DRIVERS)
async def test_the_initialization_hook_sees_the_chosen_connection_only(cluster, driver):
    """What it sets stays the connection's own."""
    seen = []

    async def init(connection):
        seen.append(connection)

    address = cluster.dsn(driver=driver)
    made = make_driver(
        address,
        owner=NoOwner(),
        notes=StatementNotes(),
        hooks={"init": init},
        connect_kwargs={},
    )
    session = await made.connect(PATIENCE)
    assert seen == [session.connection]
    session.abort()


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_password_that_is_a_callable_is_asked_for_again(cluster, dialler, driver):
    """By every login to every host: a rotated one is used from the next on."""
    passwords = ["wrong", cluster.primary.password]
    asked = []

    def password():
        asked.append(passwords[0])
        return passwords[0]

    hosts = [cluster.primary, *cluster.standbys]
    address = url(cluster, *hosts, driver=driver).replace(f":{cluster.primary.password}@", "@")
    dial = dialler(address, password=password)
    error = await dial.refusal(NoHostFits)
    assert dial.driver.failure(error) is Failure.MISCONFIGURED
    del passwords[0]
    assert (await dial()).endpoint == (cluster.primary.host, cluster.primary.port)
    assert "wrong" in asked


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_connection_beside_another_leads_to_the_same_server(cluster, dialler, driver):
    """Whatever is wanted by now: it is about that very server."""
    primary, (standby,) = cluster.primary, cluster.standbys
    dial = dialler(url(cluster, primary, standby, driver=driver, wanted="standby"))
    session = await dial()
    dial.driver.hosts.prefer(dial.driver.hosts.hosts[0], 1)
    beside = await dial.driver.connect_beside(session, PATIENCE)
    dial.opened.append(beside)
    assert beside.endpoint == session.endpoint == (standby.host, standby.port)


@pytest.mark.asyncio
async def test_only_proof_makes_a_host_superseded(cluster, dialler):
    """Not that it is slow, nor that another address is used; and the one in use never is."""
    primary, (standby,) = cluster.primary, cluster.standbys
    dial = dialler(url(cluster, primary, standby))
    await dial()
    hosts = dial.driver.hosts
    used, other = hosts.hosts
    hosts.prefer(other, hosts.timeline)
    assert not hosts.superseded(used)
    hosts.saw(used, None)
    assert hosts.superseded(used)
    hosts.saw(used, hosts.timeline)
    assert not hosts.superseded(used)
    hosts.prefer(other, hosts.timeline + 1)
    assert hosts.superseded(used)
    hosts.prefer(used, hosts.timeline)
    hosts.saw(used, None)
    assert not hosts.superseded(used)


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_single_host_is_left_to_the_driver(cluster, dialler, driver):
    """There is nothing to choose; the driver itself checks the role."""
    (standby,) = cluster.standbys
    dial = dialler(url(cluster, standby, driver=driver))
    assert not dial.driver.hosts.several
    error = await dial.refusal()
    assert not isinstance(error, NoHostFits)
