import json
import logging
import subprocess
import sys
import textwrap

import pytest
import structlog
from structlog.testing import CapturingLogger

from poolkeeper.exceptions import PoolConfigurationError
from poolkeeper.observability.events import DatabaseConnectionLost, PoolClosed
from poolkeeper.observability.logs import Redactor, StructlogSink, configure_logging

LOST = DatabaseConnectionLost(
    pool="shop",
    detection_time_seconds=0.2,
    reason="probe_timeout",
    error="gone",
    connections_lost=4,
)


@pytest.fixture
def unconfigured_structlog():
    """Whatever another test of this process did to structlog does not matter here."""
    before = structlog.get_config() if structlog.is_configured() else None
    structlog.reset_defaults()
    yield
    if before is not None:
        structlog.configure(**before)


def run(script):
    """Run a script in a process of its own, where logging is nobody else's; give its stderr."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == ""
    return done.stderr


def json_lines(text):
    return [json.loads(line) for line in text.splitlines()]


def test_event_becomes_a_structlog_record_with_its_name_level_and_fields():
    logger = CapturingLogger()
    StructlogSink(structlog.wrap_logger(logger, processors=[]))(LOST)
    (call,) = logger.calls
    assert call.method_name == "error"
    assert call.kwargs == {"event": "database_connection_lost", **LOST.to_dict()}


def test_application_without_structlog_finds_events_in_standard_logging(
    caplog, unconfigured_structlog
):
    """The level, the name and the facts, under the logger `poolkeeper`."""
    caplog.set_level(logging.INFO, logger="poolkeeper")
    StructlogSink()(LOST)
    assert not structlog.is_configured()
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("poolkeeper", "ERROR")
    assert record.message.startswith("database_connection_lost pool='shop'")
    assert "detection_time_seconds=0.2" in record.message


def test_event_below_the_level_of_the_application_is_not_logged(caplog, unconfigured_structlog):
    caplog.set_level(logging.WARNING, logger="poolkeeper")
    StructlogSink()(
        PoolClosed(pool="p", elapsed_seconds=0.1, connections_closed=1, connections_terminated=0)
    )
    assert not caplog.records


def test_sink_hides_secrets_from_whoever_reads_the_log(caplog, unconfigured_structlog):
    error = "cannot reach postgresql://app:hunter2@db/shop, tried token-4711"
    event = DatabaseConnectionLost(
        pool="shop", detection_time_seconds=0.2, reason="refused", error=error
    )
    StructlogSink(secrets=["token-4711"])(event)
    assert "cannot reach" in caplog.text
    assert "hunter2" not in caplog.text
    assert "token-4711" not in caplog.text


def test_application_that_configured_structlog_gets_events_through_it():
    """A structlog the application configured decides about form and place."""
    stderr = run("""
        import sys, structlog
        from poolkeeper.observability.events import PoolClosed
        from poolkeeper.observability.logs import StructlogSink
        structlog.configure(
            processors=[structlog.processors.add_log_level, structlog.processors.JSONRenderer()],
            logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        )
        StructlogSink()(
            PoolClosed(pool="p", elapsed_seconds=1, connections_closed=1, connections_terminated=0)
        )
    """)
    assert json_lines(stderr) == [
        {
            "event": "pool_closed",
            "level": "info",
            "pool": "p",
            "elapsed_seconds": 1,
            "connections_closed": 1,
            "connections_terminated": 0,
        }
    ]


def test_importing_and_logging_configures_nothing():
    stderr = run("""
        import logging, structlog
        import poolkeeper.observability.logs as logs
        from poolkeeper.observability.events import PoolClosed
        logs.StructlogSink()(
            PoolClosed(pool="p", elapsed_seconds=1, connections_closed=1, connections_terminated=0)
        )
        assert not structlog.is_configured()
        assert not logging.getLogger().handlers
        assert not logging.getLogger("poolkeeper").handlers
    """)
    assert stderr == ""


def test_everything_that_logs_comes_out_as_one_json_object_per_line():
    """Our events, the standard library's loggers, asyncio and warnings share one form."""
    stderr = run("""
        import asyncio, logging, warnings
        from poolkeeper.observability.events import PoolClosed
        from poolkeeper.observability.logs import StructlogSink, configure_logging
        configure_logging()
        configure_logging()
        StructlogSink()(
            PoolClosed(pool="p", elapsed_seconds=1, connections_closed=1, connections_terminated=0)
        )
        logging.getLogger("app").warning("line one\\nline %s", "two", extra={"user": "ann"})
        logging.getLogger("app").debug("not this one")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        async def main():
            asyncio.get_running_loop().call_exception_handler({"message": "lost a task"})
        asyncio.run(main())
    """)
    records = json_lines(stderr)
    assert [record["logger"] for record in records] == [
        "poolkeeper",
        "app",
        "py.warnings",
        "asyncio",
    ]
    for record in records:
        assert list(record)[:3] == ["timestamp", "level", "event"]
        assert record["timestamp"].endswith("Z")
    closed, app, warned, task = records
    assert closed["event"] == "pool_closed"
    assert closed["elapsed_seconds"] == 1
    assert (app["level"], app["event"], app["user"]) == ("warning", "line one\nline two", "ann")
    assert "DeprecationWarning: old" in warned["event"]
    assert (task["level"], task["event"]) == ("error", "lost a task")


def test_uvicorn_logs_in_the_same_form():
    """A server that starts, answers and stops writes JSON lines only, without colours."""
    stderr = run("""
        import asyncio, uvicorn
        from poolkeeper.observability.logs import configure_logging

        async def app(scope, receive, send):
            assert scope["type"] == "http"
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        async def main():
            server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off"))
            configure_logging()
            serving = asyncio.ensure_future(server.serve())
            while not server.started:
                await asyncio.sleep(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /health HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
            await reader.read()
            writer.close()
            server.should_exit = True
            await serving

        asyncio.run(main())
    """)
    records = json_lines(stderr)
    assert all("color_message" not in record for record in records)
    (access,) = [record for record in records if record["logger"] == "uvicorn.access"]
    assert '"GET /health HTTP/1.1" 204' in access["event"]
    assert any(record["logger"] == "uvicorn.error" for record in records)


LEAKY = r"""
    import logging, structlog
    from poolkeeper.observability.logs import configure_logging

    password = 'pa"ss/wörd'
    redactor = configure_logging(json={json}, secrets=[password])
    redactor.add("later-secret")

    class Odd:
        def __repr__(self):
            return f"<odd {{password}}>"

    def connect(url):
        local_only = "only-in-a-local-variable"
        try:
            raise OSError(f"cannot log in with {{password}}")
        except OSError as cause:
            raise RuntimeError("postgresql://app:pa%22ss%2Fw%C3%B6rd@db/shop") from cause

    log = structlog.get_logger("shop")
    plain = logging.getLogger("plain")
    log.info("trying", url="postgresql://app:unnamed-secret@db/shop", nested={{"a": [password]}})
    log.info("odd", thing=Odd(), ratio=float("inf"), token="later-secret")
    plain.info("with %s", password, extra={{"dsn": "password=" + password}})
    plain.info("odd %r", Odd())
    for logger in (log, plain):
        try:
            connect("x")
        except RuntimeError:
            logger.exception("failed")
"""


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "text"])
def test_no_secret_is_written_by_any_way(as_json):
    """Fields, nested values, reprs, messages, extras, tracebacks and their causes."""
    stderr = run(LEAKY.format(json=as_json))
    text = stderr.replace('\\"', '"')
    for secret in (
        'pa"ss/wörd',
        "pa%22ss",
        "unnamed-secret",
        "later-secret",
        "only-in-a-local-variable",
    ):
        assert secret not in text
    assert stderr.count("Traceback (most recent call last)") == 4
    assert stderr.count("***") >= 10
    assert "cannot log in with ***" in stderr
    assert "UserWarning" not in stderr
    if as_json:
        records = json_lines(stderr)
        assert [record["event"] for record in records][:2] == ["trying", "odd"]
        assert records[1]["ratio"] == "inf"


def test_empty_secret_hides_nothing():
    assert Redactor("").clean("as it was") == "as it was"


@pytest.mark.parametrize("level", ["LOUD", ""])
def test_unknown_level_is_refused_with_advice(level):
    with pytest.raises(PoolConfigurationError, match="Suggestion: use one of DEBUG"):
        configure_logging(level=level)
