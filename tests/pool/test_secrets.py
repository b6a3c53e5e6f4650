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
from poolkeeper.observability.prometheus import PoolCollector

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
