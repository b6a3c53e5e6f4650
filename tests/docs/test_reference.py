"""The reference pages know everything there is."""

import ast
import inspect
import re
from dataclasses import fields

import pytest
import typer
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import poolkeeper
import poolkeeper.drivers.psycopg
import poolkeeper.embedded
import poolkeeper.errands
import poolkeeper.pool
from poolkeeper import ConnectionPoolManager, PoolConfig, PoolSnapshot, PoolStatistics
from poolkeeper.cli.app import app as cli
from poolkeeper.core import state
from poolkeeper.core.slots import LEGAL
from poolkeeper.exceptions import ConnectionPoolError, InvariantViolated
from poolkeeper.keepers import hosts, stalls
from poolkeeper.observability import events
from poolkeeper.observability.health import HealthReport
from poolkeeper.observability.otel import instrument
from poolkeeper.operations.model import LEGAL as OPERATION_MOVES
from poolkeeper.server import status
from poolkeeper.server.app import build_app
from poolkeeper.server.lifecycle import Lifecycle
from poolkeeper.server.metrics import ServerMetrics
from poolkeeper.server.settings import ServerSettings
from scripts.state_diagrams import OPERATION_WORDS, TARGETS, WORDS, with_diagrams
from tests.docs.markdown import PAGES, ROOT

REFERENCE = ROOT / "docs" / "reference"


def page(name: str) -> str:
    return (REFERENCE / name).read_text(encoding="utf-8")


def unopened_pool() -> ConnectionPoolManager:
    """A pool without a connection."""
    return ConnectionPoolManager(PoolConfig(database_url="postgresql://app@localhost/app"))


def section(text: str, heading: str) -> str:
    """What stands under ``heading`` up to the next one of its level."""
    level = heading.partition(" ")[0]
    _, found, rest = text.partition(f"{heading}\n")
    assert found, heading
    return re.split(rf"^{level} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def all_errors() -> list[type[BaseException]]:
    found: list[type[BaseException]] = [InvariantViolated]
    todo: list[type[BaseException]] = [ConnectionPoolError]
    while todo:
        kind = todo.pop()
        # a test of another file may have made errors of its own
        if kind.__module__.startswith("poolkeeper."):
            found.append(kind)
            todo += kind.__subclasses__()
    return sorted(found, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("error", all_errors(), ids=lambda error: error.__name__)
def test_every_error_and_its_facts_are_in_the_reference(error) -> None:
    text = page("errors.md")
    assert f"`{error.__name__}`" in text or f" {error.__name__} " in text
    for name in list(inspect.signature(error.__init__).parameters)[2:]:
        if name not in {"args", "kwargs"}:
            assert f"`{name}`" in text, name


def all_events() -> list[type[events.Event]]:
    return [
        kind
        for kind in vars(events).values()
        if inspect.isclass(kind) and issubclass(kind, events.Event) and kind is not events.Event
    ]


@pytest.mark.parametrize("event", all_events(), ids=lambda event: event.name)
def test_every_event_and_its_fields_are_in_the_reference(event) -> None:
    text = page("events.md")
    assert f"| `{event.name}` | {event.level} | `{event.__name__}` |" in text
    own = section(text, f"## `{event.name}`")
    for field in fields(event):
        if field.name != "pool":
            assert f"`{field.name}`" in own, field.name


def reasons() -> set[str]:
    """Every text the code closes a connection with."""
    closing = {"_leave", "discard", "_drop_idle", "throw_away"}
    found = set()
    for module in (state, poolkeeper.errands, poolkeeper.pool, hosts, stalls):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                if node.func.attr == "evict" and isinstance(node.args[1], ast.Constant):
                    # The other texts of the call are for people.
                    found.add(node.args[1].value)
                elif node.func.attr in closing:
                    texts = [part for argument in node.args for part in ast.walk(argument)]
                    found |= {part.value for part in texts if isinstance(part, ast.Constant)}
            elif isinstance(node, ast.FunctionDef) and node.name == "_reason_to_close":
                returned = [part.value for part in ast.walk(node) if isinstance(part, ast.Return)]
                found |= {value.value for value in returned if isinstance(value, ast.Constant)}
    return {reason for reason in found if isinstance(reason, str)}


def test_every_reason_to_close_a_connection_is_in_the_reference() -> None:
    listed = set(
        re.findall(
            r"^\| `(\w+)` \|", section(page("events.md"), "## `connection_recycled`"), re.MULTILINE
        )
    )
    assert listed == reasons()


def test_every_statistic_is_in_the_reference() -> None:
    text = page("statistics.md")
    for kind in (PoolStatistics, PoolSnapshot):
        for field in fields(kind):
            assert f"`{field.name}`" in text, field.name


def test_every_prometheus_metric_and_label_is_in_the_reference_and_no_other() -> None:
    text = page("metrics.md")
    metrics = ServerMetrics(unopened_pool())
    metrics.requests.labels("/sql", "200").inc()
    metrics.cancelled.labels("deadline").inc()
    listed = set(re.findall(r"^\| `(poolkeeper_\w+)` \| (\w+) \|", text, re.MULTILINE))
    existing = set()
    for family in metrics._registry.collect():
        name = family.name
        if family.type in {"counter", "info"}:
            name += {"counter": "_total", "info": "_info"}[family.type]
        existing.add((name, family.type))
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                for label in sample.labels.keys() - {"pool", "le"}:
                    assert f"`{label}`" in text, label
    assert listed == existing


def test_every_opentelemetry_metric_is_in_the_reference_and_no_other() -> None:
    reader = InMemoryMetricReader()
    pool = unopened_pool()
    instrumentation = instrument(pool, MeterProvider([reader]))
    pool._pool.recorder.wait(0.0)
    pool._pool.recorder.use(0.0)
    pool._pool.recorder.create(0.0)
    scopes = reader.get_metrics_data().resource_metrics[0].scope_metrics
    existing = {(metric.name, metric.unit) for scope in scopes for metric in scope.metrics}
    instrumentation.uninstrument()
    listed = re.findall(
        r"^\| `(db\.client[\w.]+)` \| `([^`]+)` \|", page("metrics.md"), re.MULTILINE
    )
    assert set(listed) == existing


def test_every_path_is_in_the_reference() -> None:
    app = build_app(unopened_pool(), ServerSettings(), Lifecycle())
    text = page("http.md")
    for route in app.routes:
        path = re.escape(route.path.replace(":path}", "}"))
        assert re.search(rf"^\|.*[ `]{path}`.*\|", text, re.MULTILINE), route.path


def test_every_failure_of_a_request_is_in_the_reference_and_no_other() -> None:
    rules = [
        *((rule, rule.code) for rule in status.RULES.values()),
        *((rule, code) for code, rule in status.SQL_RULES.items()),
        (status.OUR_BUG, status.OUR_BUG.code),
    ]
    listed = re.findall(
        r"^\| (\d+) \| (\d+) \| `([\w-]+)` \|([^|]*)\| ([^|]*) \|", page("http.md"), re.MULTILINE
    )
    assert {(int(sql), int(native), kind) for sql, native, kind, *_ in listed} == {
        (rule.sql, rule.native or rule.sql, rule.kind) for rule, _ in rules
    }
    for rule, code in rules:
        [(_, _, _, sqlstate, outcome)] = [row for row in listed if row[2] == rule.kind]
        assert code in sqlstate, rule.kind
        # the result may have been too large either way
        assert rule.outcome in outcome or rule.kind == "response-too-large"


def test_every_field_of_a_health_report_is_in_the_reference() -> None:
    text = section(page("http.md"), "## `GET /health`")
    for field in fields(HealthReport):
        assert f'"{field.name}"' in text, field.name


def parameters(command) -> list:
    """Of a command, and of those below it."""
    below = getattr(command, "commands", {}).values()
    return [*command.params, *(option for each in below for option in parameters(each))]


def test_every_option_of_every_command_is_in_the_reference() -> None:
    text = page("cli.md")
    # three commands have these, and say so
    shared = section(text, "## Options of every operation")
    for name, command in typer.main.get_command(cli).commands.items():
        own = section(text, f"## `poolkeeper {name}`")
        if "(#options-of-every-operation)" in own:
            own += shared
        for below in getattr(command, "commands", {}):
            assert f"| `{below}" in own, below
        for option in parameters(command):
            if option.name == "help":
                continue
            variables = [option.envvar] if isinstance(option.envvar, str) else option.envvar or []
            words = [*option.opts, *option.secondary_opts]
            for word in [*(o for o in words if o.startswith("--")), *variables]:
                assert f"`{word}`" in own, word


def test_every_public_name_is_documented_somewhere() -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in PAGES)
    for name in poolkeeper.__all__:
        if name != "__version__":
            assert name in pages, name


def test_the_state_diagrams_are_current() -> None:
    """Otherwise run: python scripts/state_diagrams.py."""
    for target in TARGETS:
        text = target.read_text(encoding="utf-8")
        assert text == with_diagrams(text)
    moves = {(start.value, end.value) for start, ends in LEGAL.items() for end in ends}
    assert moves == set(WORDS)
    moves = {(old.value, new.value) for old, to in OPERATION_MOVES.items() for new in to}
    assert moves == set(OPERATION_WORDS)


def test_every_link_between_pages_leads_somewhere() -> None:
    for path in PAGES:
        for target, anchor in re.findall(
            r"\]\((?!https?:)([^)#]*)(#[^)]*)?\)", path.read_text(encoding="utf-8")
        ):
            linked = (path.parent / target).resolve() if target else path
            assert linked.exists(), f"{path}: {target}"
            if anchor:
                headings = re.findall(
                    r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE
                )
                slugs = {
                    re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
                    for heading in headings
                }
                assert anchor[1:] in slugs, f"{path}: {target}{anchor}"
