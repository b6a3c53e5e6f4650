"""The password is nowhere to be read but where it was written."""

import logging
import traceback
from urllib.parse import quote

import asyncpg
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from poolkeeper import (
    ConnectionPoolError,
    ConnectionPoolManager,
    DatabaseUnavailableError,
    PoolConfig,
    PoolInitializationError,
)
from poolkeeper.observability.events import ConnectionLeakSuspected
from poolkeeper.observability.prometheus import PoolCollector
from poolkeeper.testing.contracts import eventually

pytestmark = pytest.mark.asyncio

MARKER = "S3cr3t/Marker:é"
"""With characters that URLs escape: neither form may appear."""


async def everything_said(pool, caplog):
    """All texts a pool makes about itself."""
    registry = CollectorRegistry()
    registry.register(PoolCollector(pool))
    return "\n".join(
        [
            repr(pool),
            repr(pool.config),
            str(pool.config),
            str(pool.config.model_dump()),
            str(pool.get_statistics().to_dict()),
            str((await pool.health_check()).to_dict()),
            generate_latest(registry).decode(),
            caplog.text,
        ]
    )


def assert_silent(text):
    for form in (MARKER, quote(MARKER, safe=""), quote(MARKER)):
        assert form not in text


def whole(error):
    """The error as a person meets it: text, repr, fields, traceback with its causes."""
    return "\n".join(
        [str(error), repr(error), str(vars(error)), *traceback.format_exception(error)]
    )


def with_password(url, password, *, database=None):
    scheme, _, rest = url.partition("://")
    _, _, rest = rest.rpartition("@")
    if database is not None:
        rest = rest.rpartition("/")[0] + "/" + database
    return f"{scheme}://guarded:{quote(password, safe='')}@{rest}"


async def make_role(url):
    admin = await asyncpg.connect(url)
    try:
        await admin.execute("DROP ROLE IF EXISTS guarded")
        await admin.execute(f"CREATE ROLE guarded LOGIN PASSWORD '{MARKER}'")
    finally:
        await admin.close()


def make_pool(url, how, password, **options):
    options = {"min_size": 1, "initialization_attempts": 1} | options
    if how == "url":
        config = PoolConfig(database_url=with_password(url, password), **options)
        return ConnectionPoolManager(config)
    bare = with_password(url, "x").replace(":x@", "@")
    given = password if how == "keyword" else lambda: password
    return ConnectionPoolManager(PoolConfig(database_url=bare, **options), password=given)


@pytest.mark.parametrize("how", ["url", "keyword", "callable"])
async def test_a_working_password_is_never_shown(postgres, caplog, how):
    """In use, in an outage and after the end."""
    caplog.set_level(logging.DEBUG)
    await make_role(postgres.url)
    said = []
    async with make_pool(postgres.url, how, MARKER, outage_patience=0) as pool:
        assert await pool.fetchval("SELECT current_user") == "guarded"
        said.append(await everything_said(pool, caplog))
        admin = await asyncpg.connect(postgres.url)
        await admin.execute("ALTER ROLE guarded NOLOGIN")
        await pool.expire_connections()
        with pytest.raises(DatabaseUnavailableError) as caught:
            while True:
                await pool.fetchval("SELECT 1")
        await admin.close()
        said += [whole(caught.value), await everything_said(pool, caplog)]
    said.append(await everything_said(pool, caplog))
    assert "guarded" in said[1]
    for text in said:
        assert_silent(text)


@pytest.mark.parametrize("how", ["url", "keyword", "callable"])
async def test_a_wrong_password_is_never_shown(postgres, caplog, how):
    """The error says which user at which host, and what to do."""
    caplog.set_level(logging.DEBUG)
    await make_role(postgres.url)
    wrong = MARKER + "x"
    pool = make_pool(postgres.url, how, wrong)
    with pytest.raises(PoolInitializationError, match="Suggestion: check the password") as caught:
        await pool.initialize()
    text = whole(caught.value)
    assert "guarded" in text
    assert_silent(text)
    assert_silent(await everything_said(pool, caplog))


@pytest.mark.parametrize("port", ["1", "99999"])
async def test_an_unreachable_url_is_shown_without_its_password(caplog, port):
    """Whether nobody listens there or the URL makes no sense."""
    caplog.set_level(logging.DEBUG)
    url = f"postgresql://guarded:{quote(MARKER, safe='')}@127.0.0.1:{port}/db"
    with pytest.raises(ConnectionPoolError, match="Suggestion: ") as caught:
        await ConnectionPoolManager(
            PoolConfig(database_url=url, min_size=1, initialization_attempts=1)
        )
    assert_silent(whole(caught.value))
    assert_silent(caplog.text)


async def test_a_password_set_later_is_never_shown(postgres, caplog):
    """set_connect_args() brings a new secret."""
    caplog.set_level(logging.DEBUG)
    async with ConnectionPoolManager(
        PoolConfig(database_url=postgres.url, min_size=1, outage_patience=0)
    ) as pool:
        pool.set_connect_args(with_password(postgres.url, MARKER, database="nowhere"))
        await pool.expire_connections()
        with pytest.raises(DatabaseUnavailableError) as caught:
            while True:
                await pool.fetchval("SELECT 1")
        assert_silent(whole(caught.value))
        assert_silent(await everything_said(pool, caplog))


TOLD = "cannot log in with ***"
"""How a text of somebody else's appears in ours."""


class TalkativeConnect:
    """A ``connect`` hook whose errors tell the password; at first it may still succeed."""

    def __init__(self, *, broken=True):
        self.broken = broken

    async def __call__(self, *args, **kwargs):
        if self.broken:
            msg = f"cannot log in with {MARKER}"
            raise OSError(msg)
        return await asyncpg.connect(*args, **kwargs)


def own_words(error):
    """What this package says; the chained cause is the hook's own exception and left as it is."""
    return "\n".join([str(error), repr(error), str(vars(error))])


def listen(pool):
    events = []
    pool.add_event_listener(events.append)
    return events


async def test_a_password_in_the_error_of_a_hook_is_masked_at_opening(caplog):
    """In our message; its cause is the exception of the hook, unchanged."""
    caplog.set_level(logging.DEBUG)
    url = f"postgresql://guarded:{quote(MARKER, safe='')}@127.0.0.1:1/db"
    pool = ConnectionPoolManager(
        PoolConfig(database_url=url, min_size=1, initialization_attempts=1),
        connect=TalkativeConnect(),
    )
    events = listen(pool)
    with pytest.raises(PoolInitializationError) as caught:
        await pool.initialize()
    assert TOLD in str(caught.value)
    assert MARKER in str(caught.value.__cause__)
    assert_silent(own_words(caught.value))
    assert_silent(str(events))
    assert_silent(await everything_said(pool, caplog))


async def said_in_an_outage(pool, connect, caplog):
    """Events, refusal, health, statistics and log of an outage whose attempts tell the password."""
    events = listen(pool)
    connect.broken = True
    await pool.expire_connections()
    with pytest.raises(DatabaseUnavailableError) as caught:
        while True:
            await pool.fetchval("SELECT 1")
    # the second attempt says how the first one ended
    await eventually(lambda: [event for event in events if getattr(event, "error", None)])
    told = [str([event.to_dict() for event in events]), own_words(caught.value)]
    told.append(str((await pool.health_check()).to_dict()))
    told.append(caplog.text)
    for text in told:
        assert TOLD in text
    return [*told, await everything_said(pool, caplog)]


async def test_a_password_in_the_error_of_a_hook_is_masked_in_an_outage(postgres, caplog):
    """Everywhere the reason of the outage is told."""
    caplog.set_level(logging.DEBUG)
    await make_role(postgres.url)
    connect = TalkativeConnect(broken=False)
    config = PoolConfig(
        database_url=with_password(postgres.url, MARKER), min_size=1, outage_patience=0
    )
    async with ConnectionPoolManager(config, connect=connect) as pool:
        for text in await said_in_an_outage(pool, connect, caplog):
            assert_silent(text)


@pytest.mark.parametrize("how", ["url", "keyword"])
async def test_a_password_set_later_is_masked_in_the_error_of_a_hook(postgres, caplog, how):
    """The pool knows its secrets as they are now."""
    caplog.set_level(logging.DEBUG)
    connect = TalkativeConnect(broken=False)
    config = PoolConfig(database_url=postgres.url, min_size=1, outage_patience=0)
    async with ConnectionPoolManager(config, connect=connect) as pool:
        if how == "url":
            pool.set_connect_args(with_password(postgres.url, MARKER))
        else:
            pool.set_connect_args(with_password(postgres.url, "x"), password=MARKER)
        for text in await said_in_an_outage(pool, connect, caplog):
            assert_silent(text)


@pytest.mark.parametrize("later", [False, True], ids=["from the start", "set later"])
async def test_a_password_in_a_statement_is_masked_in_the_log(postgres, caplog, later):
    """The report of a leak quotes the last statement, which may have been about a password."""
    caplog.set_level(logging.DEBUG)
    await make_role(postgres.url)
    guarded = with_password(postgres.url, MARKER)
    config = PoolConfig(
        database_url=postgres.url if later else guarded, min_size=1, leak_detection_timeout=0.05
    )
    async with ConnectionPoolManager(config) as pool:
        if later:
            pool.set_connect_args(guarded)
        events = listen(pool)
        async with pool.acquire() as connection:
            await connection.fetchval(f"SELECT '{MARKER}'")
            await eventually(
                lambda: [event for event in events if isinstance(event, ConnectionLeakSuspected)]
            )
    assert "SELECT '***'" in caplog.text
    assert_silent(caplog.text)
