"""What a primary with standbys promises, on real servers."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from poolkeeper.embedded import EmbeddedPostgresError
from poolkeeper.testing.cluster import ReplicatedPostgres


def _rows(server):
    return server.psql("select string_agg(id::text, ',' order by id) from t")


def _table(cluster):
    cluster.primary.psql("create table t (id int primary key)")
    cluster.primary.psql("insert into t values (1)")


def test_a_standby_has_what_the_primary_has_written(replicated_postgres):
    """As soon as it has caught up; it takes no writes itself."""
    _table(replicated_postgres)
    (standby,) = replicated_postgres.standbys
    replicated_postgres.wait_for_catch_up()
    assert _rows(standby) == "1"
    with pytest.raises(EmbeddedPostgresError, match="read-only transaction"):
        standby.psql("insert into t values (2)")


def test_a_promoted_standby_takes_writes_on_a_higher_timeline(replicated_postgres):
    """The crashed primary comes back as its standby, without what it alone had committed."""
    cluster = replicated_postgres
    _table(cluster)
    cluster.wait_for_catch_up()
    old, (standby,) = cluster.primary, cluster.standbys
    before = cluster.timeline()
    cluster.disconnect(standby)
    old.psql("insert into t values (2)")
    old.crash()
    assert cluster.promote() is standby is cluster.primary
    assert cluster.standbys == []
    assert cluster.timeline() > before
    standby.psql("insert into t values (3)")
    cluster.rejoin(old)
    assert cluster.standbys == [old]
    cluster.wait_for_catch_up()
    assert _rows(old) == "1,3"


def test_an_old_primary_nobody_stopped_goes_on_as_one(replicated_postgres):
    """Two take writes then, and the timeline tells which is the newer one."""
    cluster = replicated_postgres
    _table(cluster)
    cluster.wait_for_catch_up()
    old = cluster.primary
    new = cluster.promote()
    old.psql("insert into t values (2)")
    new.psql("insert into t values (3)")
    assert cluster.timeline(new) > cluster.timeline(old)
    cluster.rejoin(old)
    cluster.wait_for_catch_up(old)
    assert _rows(old) == "1,3"


def test_a_disconnected_standby_receives_what_it_missed_when_reconnected(replicated_postgres):
    """And nothing before."""
    cluster = replicated_postgres
    (standby,) = cluster.standbys
    cluster.disconnect(standby)
    _table(cluster)
    with pytest.raises(TimeoutError, match="has not caught up"):
        cluster.wait_for_catch_up(timeout=0.1)
    cluster.reconnect(standby)
    cluster.wait_for_catch_up()
    assert _rows(standby) == "1"


def test_a_switchover_loses_nothing(replicated_postgres):
    """There and back again."""
    cluster = replicated_postgres
    _table(cluster)
    first = cluster.primary
    for number in (2, 3):
        old = cluster.primary
        assert cluster.switchover() is not old
        cluster.primary.psql(f"insert into t values ({number})")
    assert cluster.primary is first
    cluster.wait_for_catch_up()
    assert _rows(cluster.standbys[0]) == "1,2,3"


def test_a_synchronous_commit_waits_for_the_standby(replicated_postgres):
    """And no longer once that is switched off."""
    cluster = replicated_postgres
    _table(cluster)
    cluster.replicate_synchronously()
    (standby,) = cluster.standbys
    standby.freeze()
    with pytest.raises(EmbeddedPostgresError, match="no answer within"):
        cluster.primary.psql("insert into t values (2)", timeout=1)
    cluster.replicate_synchronously(on=False)
    cluster.primary.psql("insert into t values (3)")
    standby.thaw()


def test_the_survivors_follow_the_promoted_standby(replicated_postgres):
    """It is the one that has received most, and synchronous replication goes on with the rest."""
    cluster = replicated_postgres
    (behind,) = cluster.standbys
    ahead = cluster.add_standby()
    cluster.replicate_synchronously()
    cluster.disconnect(behind)
    _table(cluster)
    cluster.primary.crash()
    assert cluster.promote() is ahead
    assert _rows(ahead) == "1"
    assert cluster.standbys == [behind]
    ahead.psql("insert into t values (2)")
    cluster.wait_for_catch_up()
    assert _rows(behind) == "1,2"
    assert ahead.psql("show synchronous_standby_names") == "ANY 1 (node2)"


@pytest.mark.asyncio
async def test_the_url_names_every_host(replicated_postgres):
    """So that a driver finds the primary, and a standby if asked for one."""
    cluster = replicated_postgres
    for wanted, recovering in (("primary", False), ("standby", True)):
        client = await asyncpg.connect(cluster.dsn(target_session_attrs=wanted))
        assert await client.fetchval("select pg_is_in_recovery()") is recovering
        await client.close()
    assert cluster.url == cluster.dsn(target_session_attrs="primary")
    assert cluster.dsn("app", driver="psycopg", target_session_attrs=None) == (
        f"postgresql+psycopg://postgres:{cluster.primary.password}"
        f"@127.0.0.1:{cluster.servers[0].port},127.0.0.1:{cluster.servers[1].port}/app"
    )


@pytest.mark.asyncio
async def test_a_frozen_postmaster_lets_nobody_in_while_sessions_go_on(replicated_postgres):
    """It accepts newcomers without a word until it is thawed."""
    server = replicated_postgres.primary
    client = await asyncpg.connect(server.url)
    server.freeze_postmaster()
    newcomer = asyncio.create_task(asyncpg.connect(server.url))
    for number in range(20):
        assert await client.fetchval("select $1::int", number) == number
    done, _ = await asyncio.wait({newcomer}, timeout=0.2)
    assert not done
    server.thaw()
    await (await newcomer).close()
    await client.close()


def test_a_cluster_of_its_own_starts_where_it_was_stopped(tmp_path):
    """Made without a template, durable and synchronous from the beginning."""
    cluster = ReplicatedPostgres(tmp_path, synchronous=True, durable=True)
    with cluster:
        _table(cluster)
        names = cluster.primary.psql("show synchronous_standby_names")
        assert names == "ANY 1 (node2)"
        assert cluster.primary.psql("show fsync") == "on"
    assert not any(server.is_running for server in cluster.servers)
    with cluster:
        cluster.wait_for_catch_up()
        assert _rows(cluster.standbys[0]) == "1"
