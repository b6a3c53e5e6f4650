"""Probes: what an orchestrator hears, from what is known already."""

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.requests import Request

from poolkeeper import ConnectionPoolManager, PoolConfig
from poolkeeper.server.access import Access
from poolkeeper.server.heartbeat import Heartbeat
from poolkeeper.server.lifecycle import Lifecycle
from poolkeeper.server.limits import Limits
from poolkeeper.server.probes import Probes
from poolkeeper.server.settings import ServerSettings, Token
from tests.server.processes import ServerProcess, active, barrier, until

PROBES = ("/livez", "/readyz", "/startupz", "/health")


def ask(path="/livez", query=b"", headers=()):
    scope = {"type": "http", "method": "GET", "path": path, "query_string": query}
    return Request({**scope, "headers": list(headers)})


def probes(lifecycle, *tokens):
    pool = ConnectionPoolManager(PoolConfig(database_url="postgresql://app@localhost/app"))
    access = Access(tokens)
    return Probes(pool, lifecycle, ServerSettings(), access=access, limits=Limits(pool, access))


@pytest.mark.asyncio
async def test_health_does_not_tell_strangers_what_went_wrong():
    """Reasons and errors name hosts; for those with a token, or all without tokens."""

    async def reasons(*tokens, shown):
        headers = [(b"authorization", b"Bearer " + shown)] if shown else []
        answer = await probes(Lifecycle(), *tokens).health(ask("/health", headers=headers))
        report = json.loads(answer.body)
        assert report["status"] == "unhealthy"
        assert answer.status_code == 503
        return report["reasons"]

    assert await reasons(shown=b"")
    assert await reasons(Token("a", "secret-of-a"), shown=b"secret-of-a")
    assert await reasons(Token("a", "secret-of-a"), shown=b"wrong") == []
    assert await reasons(Token("a", "secret-of-a"), shown=b"") == []


@pytest.mark.asyncio
async def test_an_event_loop_that_does_not_turn_is_not_alive():
    """Ten seconds without a heartbeat; it says how long."""
    heartbeat = Heartbeat()
    heartbeat.start()
    mine = probes(Lifecycle(heartbeat=heartbeat))
    assert (await mine.live(ask())).status_code == 200
    heartbeat._beat_at -= 10.5
    answer = await mine.live(ask(query=b"verbose"))
    assert answer.status_code == 503
    first, second, _ = answer.body.decode().split("\n")
    assert first.startswith("[-]event-loop failed: no heartbeat for 10.")
    assert second == "livez check failed"
    heartbeat.stop()
    assert (await mine.live(ask())).status_code == 200


@pytest.mark.asyncio
async def test_a_heartbeat_goes_on_until_it_is_stopped():
    """And tells whoever listens."""
    heartbeat = Heartbeat(interval=0.001)
    beats = []
    heartbeat.add_listener(lambda: beats.append(heartbeat.age()))
    heartbeat.start()
    while len(beats) < 3:
        await asyncio.sleep(0.001)
    heartbeat.stop()
    assert heartbeat.age() == 0
    count = len(beats)
    for _ in range(10):
        await asyncio.sleep(0.001)
    assert len(beats) == count


@pytest.mark.asyncio
async def test_starting_and_draining_are_not_ready():
    """The reason is the answer."""
    lifecycle = Lifecycle()
    mine = probes(lifecycle)
    assert (await mine.ready(ask())).body == b"starting\n"
    assert (await mine.started(ask())).status_code == 503
    lifecycle.started = True
    assert (await mine.started(ask())).status_code == 200
    lifecycle.draining = True
    assert (await mine.ready(ask())).body == b"draining\n"


def test_verbose_lists_the_checks_as_kubernetes_does(server):
    """For people with curl."""
    assert server.get("/readyz?verbose").text == (
        "[+]server ok\n[+]database ok\nreadyz check passed\n"
    )
    assert server.get("/livez?verbose").text == "[+]event-loop ok\nlivez check passed\n"


def test_probes_answer_head_without_a_body(server):
    """Some load balancers ask that way."""
    for path in PROBES:
        answer = server.client.head(f"{server.url}{path}")
        assert (answer.status_code, answer.content) == (200, b"")


def test_a_full_pool_is_busy_and_not_broken(postgres):
    """Every probe answers at once, and none takes a connection."""
    options = ("--port=0", "--max-size=1", "--statement-timeout=0")
    with ServerProcess(*options, database_url=postgres.url) as server:
        server.start()
        with ThreadPoolExecutor() as clients:
            with barrier(postgres.url):
                holder = clients.submit(server.sql, "select from pg_advisory_lock(77)")
                until(lambda: active(postgres.url, "pg_advisory_lock(77)"))
                waiting = clients.submit(server.sql, "select 1")
                until(lambda: server.get("/health").json()["database"]["pool"]["waiting"] == 1)
                before = server.get("/status").json()["statistics"]["total_acquisitions"]
                for path in PROBES * 20:
                    assert server.get(path).status_code == 200
                after = server.get("/status").json()["statistics"]["total_acquisitions"]
                assert after == before
            assert holder.result().status_code == waiting.result().status_code == 200


@pytest.mark.slow
def test_in_an_outage_only_readiness_and_health_change(crashable_postgres):
    """Unless an operator wants this server's answers instead of the load balancer's."""
    url = crashable_postgres.url
    env = {"POOL_OUTAGE_PATIENCE": "0"}
    with (
        ServerProcess("--port=0", database_url=url, env=env) as server,
        ServerProcess("--port=0", "--ready-when-db-down", database_url=url, env=env) as kept,
    ):
        server.start()
        kept.start()
        crashable_postgres.crash()
        for one in (server, kept):
            until(lambda one=one: one.get("/health").status_code == 503)
            assert one.get("/livez").status_code == one.get("/startupz").status_code == 200
        assert server.get("/readyz?verbose").text == (
            "[+]server ok\n[-]database failed: database disconnected\nreadyz check failed\n"
        )
        assert kept.get("/readyz").status_code == 200
        outages = server.get("/status").json()["outages"]
        assert (outages[0]["ended_at"], len(outages)) == (None, 1)
        crashable_postgres.start()
        until(lambda: server.get("/readyz").status_code == 200)
        [outage] = until(
            lambda: (found := server.get("/status").json()["outages"])[0]["ended_at"] and found
        )
        assert 0 < outage["seconds"] <= time.time() - outage["began_at"] + 1
        assert outage["attempts"] >= 1
