"""Where options come from, which values are refused, and what is said about it."""

import copy
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from poolkeeper.config import PoolConfig
from poolkeeper.config_errors import environment_name
from poolkeeper.exceptions import PoolConfigurationError

URL = "postgresql://user:s3cret@localhost/app"
OPTIONS = PoolConfig.model_fields


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither this machine's variables nor a .env beside the tests."""
    monkeypatch.chdir(tmp_path)
    for name in [*map(environment_name, OPTIONS), "DATABASE_URL"]:
        monkeypatch.delenv(name, raising=False)


def refusal(**options: Any) -> PoolConfigurationError:
    with pytest.raises(PoolConfigurationError) as refused:
        PoolConfig(**options)
    return refused.value


# ------------------------------------------------------------------------------------- sources


def test_constructed_as_in_the_users_document() -> None:
    """The call that started this project."""
    config = PoolConfig(
        database_url="postgresql+asyncpg://test@localhost/test_db",
        min_size=2,
        max_size=5,
        timeout=5.0,
    )
    assert (config.min_size, config.max_size, config.timeout) == (2, 5, 5.0)
    assert config.database_url == "postgresql+asyncpg://test@localhost/test_db"


def test_an_argument_wins_over_the_environment_and_that_over_dotenv(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each source is asked only where the one before it is silent."""
    Path(".env").write_text("POOL_MAX_SIZE=11\nPOOL_TIMEOUT=12\nPOOL_MAX_WAITING=13\nOTHER=1\n")
    monkeypatch.setenv("POOL_MAX_SIZE", "21")
    monkeypatch.setenv("POOL_TIMEOUT", "22")
    config = PoolConfig(max_size=31)
    assert (config.max_size, config.timeout, config.max_waiting) == (31, 22.0, 13)


@pytest.mark.parametrize(
    ("environment", "dotenv", "host"),
    [
        ({"DATABASE_URL": "a"}, {}, "a"),
        ({"DATABASE_URL": "a", "POOL_DATABASE_URL": "b"}, {}, "b"),
        ({"DATABASE_URL": "a"}, {"POOL_DATABASE_URL": "c"}, "a"),
        ({"POOL_DATABASE_URL": ""}, {"DATABASE_URL": "d"}, "d"),
        ({}, {"DATABASE_URL": "d", "POOL_DATABASE_URL": "c"}, "c"),
    ],
)
def test_database_url_is_read_from_both_names(
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    dotenv: dict[str, str],
    host: str,
) -> None:
    """The prefixed name wins within a source; the environment wins over the file."""

    def url(name: str) -> str:
        return f"postgresql://{name}/db" if name else ""

    for name, value in environment.items():
        monkeypatch.setenv(name, url(value))
    Path(".env").write_text("".join(f"{name}={url(value)}\n" for name, value in dotenv.items()))
    assert PoolConfig().database_url == url(host)


def test_variables_may_be_lower_case_empty_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty is not set, as compose files leave it; ``none`` is None."""
    monkeypatch.setenv("pool_max_size", "7")
    monkeypatch.setenv("POOL_TIMEOUT", "")
    monkeypatch.setenv("POOL_COMMAND_TIMEOUT", "")
    monkeypatch.setenv("POOL_MAX_LIFETIME", "none")
    monkeypatch.setenv("POOL_NAME", "orders")
    config = PoolConfig()
    assert (config.max_size, config.timeout, config.command_timeout) == (7, 30.0, None)
    assert config.max_lifetime is None
    assert config.pool_name == "orders"


@pytest.mark.parametrize("option", sorted(OPTIONS))
def test_every_option_can_be_set_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    """The name in the documentation is the name that works."""
    values = {"database_url": URL, "reset": "always", "pool_name": "x", "lifetime_jitter": "0.25"}
    monkeypatch.setenv(environment_name(option), values.get(option, "1"))
    assert str(getattr(PoolConfig(), option)) in {values.get(option, "1"), "1.0"}


def test_min_size_follows_max_size_unless_chosen() -> None:
    """Two connections are kept ready, or one in a pool of one."""
    assert PoolConfig().min_size == 2
    assert PoolConfig(max_size=1).min_size == 1
    assert PoolConfig(max_size=1, min_size=None).min_size == 1
    assert PoolConfig(max_size=1, min_size=0).min_size == 0


# ------------------------------------------------------------------------------------- refusals

NUMBERS = sorted(set(OPTIONS) - {"database_url", "reset", "pool_name"})
POSITIVE = sorted(
    set(NUMBERS)
    - {
        "leak_detection_timeout",
        "lifetime_jitter",
        "max_inactive_connection_lifetime",
        "max_retries",
        "max_waiting",
        "min_size",
        "outage_patience",
        "stall_after",
        "validation_bypass",
    }
)


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, True, "many", [], ""])
@pytest.mark.parametrize("option", NUMBERS)
def test_what_is_not_a_sensible_number_is_refused(option: str, value: object) -> None:
    """Named, shown, with the allowed range; never replaced by something else."""
    error = refusal(**{option: value})
    assert error.option == option
    assert str(error).startswith(f"{option}=")
    assert "Suggestion: " in str(error)


@pytest.mark.parametrize("option", POSITIVE)
def test_zero_is_refused_where_it_would_mean_never_or_always(option: str) -> None:
    """Nobody has to guess whether 0 means at once or without limit."""
    message = str(refusal(**{option: 0}))
    assert "at least 1" in message or "greater than 0" in message


@pytest.mark.parametrize("option", sorted(set(NUMBERS) - set(POSITIVE)))
def test_zero_is_accepted_where_the_reference_says_what_it_means(option: str) -> None:
    """Switches a feature off, or asks for none."""
    assert getattr(PoolConfig(**{option: 0}), option) == 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_size": 2.5}, "max_size=2.5 is not a whole number at least 1 and at most 262143"),
        ({"max_size": 300_000}, "at most 262143"),
        ({"min_size": 11}, "min_size=11 is greater than max_size=10"),
        ({"min_size": 3, "max_size": 2}, "min_size=3 is greater than max_size=2"),
        ({"reconnect_max_delay": 0.01}, "less than reconnect_initial_delay=0.05"),
        ({"reconnect_initial_delay": 2.0}, "less than reconnect_initial_delay=2.0"),
        ({"lifetime_jitter": 0.6}, "at most 0.5"),
        ({"max_lifetime": 0}, "or to None for no limit"),
        ({"reset": "never"}, '"auto", "always", "transaction" or an async function'),
        ({"pool_name": ""}, "a text of 1 to 63 characters"),
        ({"maxsize": 3}, "write max_size instead"),
        ({"pool_size": 3}, "write max_size instead"),
        ({"dsn": URL}, "write database_url instead"),
        ({"ssl": True}, "ConnectionPoolManager"),
        ({"database_url": "sqlite:///x"}, "'sqlite'"),
        ({"database_url": 5}, "database_url=5 is not a PostgreSQL URL"),
    ],
)
def test_a_refusal_says_what_is_allowed(options: dict[str, Any], told: str) -> None:
    """One reading is enough to correct it."""
    message = str(refusal(**options))
    assert told in message
    assert "Suggestion: " in message


def test_several_problems_are_listed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to start the program once per mistake."""
    monkeypatch.setenv("POOL_TIMEOUT", "5s")
    monkeypatch.setenv("POOL_MAXSIZE", "5")
    message = str(refusal(max_size=0, database_url="mysql://u:s3cret@h/db", sise=1))
    assert "5 pool options" in message
    for told in ("max_size=0", "POOL_TIMEOUT='5s'", "mysql", "POOL_MAX_SIZE", "sise"):
        assert told in message
    assert "s3cret" not in message


@pytest.mark.parametrize("variable", ["POOL_MAXSIZE", "POOL_MAX_SIZ", "pool_command_time_out"])
@pytest.mark.parametrize("in_file", [False, True])
def test_a_misspelt_variable_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, in_file: bool
) -> None:
    """Otherwise the pool would run with a default nobody chose."""
    if in_file:
        Path(".env").write_text(f"{variable}=5\n")
    else:
        monkeypatch.setenv(variable, "5")
    error = refusal()
    assert error.option == variable.upper()
    assert "looks like a misspelt POOL_" in str(error)


@pytest.mark.parametrize("variable", ["POOL_PRE_PING", "POOL_OF_RADIANCE", "POOL_", "POOLKEEPER_X"])
def test_a_variable_of_another_program_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """POOL_ is a common prefix."""
    monkeypatch.setenv(variable, "5")
    assert PoolConfig() == PoolConfig(_env_file=None)


def test_an_unreadable_dotenv_is_named() -> None:
    """Not a UnicodeDecodeError from somewhere inside."""
    Path(".env").write_bytes(b"POOL_MAX_SIZE=\xff\n")
    assert ".env in the working directory cannot be read" in str(refusal())


# ----------------------------------------------------------------------------- password, copies


@pytest.mark.parametrize(
    "options",
    [
        {"database_url": "mysql://user:s3cret@h/app"},
        {"database_url": "postgresql://user:s3cret@h"},
        {"database_url": ["postgresql://user:s3cret@h/app"]},
        {"max_size": URL},
        {"dsn": URL},
    ],
)
def test_no_error_holds_a_password(options: dict[str, Any]) -> None:
    """Neither the message, nor the fields, nor a chained error that a logger would print."""
    error = refusal(**options)
    assert error.__cause__ is None
    assert error.__context__ is None
    assert "s3cret" not in f"{error!r} {error.__dict__}"


def test_no_form_of_a_configuration_shows_its_password() -> None:
    """Only the field itself does."""
    config = PoolConfig(database_url=URL)
    shown = [repr(config), str(config), config.model_dump_json(), str(config.model_dump())]
    with pytest.raises(PoolConfigurationError) as refused:
        config.database_url = URL
    shown.append(str(refused.value))
    with pytest.raises(ValidationError) as invalid:
        PoolConfig.model_validate({"database_url": "mysql://u:s3cret@h/db"})
    shown.append(str(invalid.value))
    assert not [text for text in shown if "s3cret" in text]
    assert config.database_url == URL
    assert config.require_database_url() == URL


def test_a_missing_url_is_an_error_only_when_it_is_needed() -> None:
    """A configuration may be completed later; connecting without one says what to set."""
    with pytest.raises(PoolConfigurationError, match="set DATABASE_URL"):
        PoolConfig().require_database_url()


def test_copies_and_pickles_are_equal() -> None:
    """A configuration can be handed to another process, password included."""
    config = PoolConfig(database_url=URL, max_size=3)
    for again in (copy.deepcopy(config), copy.copy(config), pickle.loads(pickle.dumps(config))):
        assert again == config
        assert again.database_url == URL
    assert hash(config) == hash(copy.copy(config))


def test_with_changes_returns_a_checked_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not named stays, even if the environment changed meanwhile."""
    config = PoolConfig(database_url=URL, timeout=3)
    monkeypatch.setenv("POOL_MAX_WAITING", "9")
    Path(".env").write_text("POOL_MAX_QUERIES=9\nPOOL_MAXSIZE=9\n")
    changed = config.with_changes(timeout=4)
    assert changed.timeout == 4.0
    assert changed == config.model_copy(update={"timeout": 4.0})
    assert config.timeout == 3.0
    with pytest.raises(PoolConfigurationError):
        config.with_changes(timeout=0)


def test_with_changes_derives_min_size_anew_unless_it_was_chosen() -> None:
    """A derived number is not a choice; a chosen one is not dropped silently."""
    once = PoolConfig().with_changes(max_size=1)
    assert once.min_size == 1
    assert once.with_changes(max_size=5).min_size == 2
    with pytest.raises(PoolConfigurationError, match="min_size=2 is greater than max_size=1"):
        PoolConfig(min_size=2).with_changes(max_size=1)


def test_a_reset_hook_is_accepted_and_named_in_json() -> None:
    """Code can bring its own cleaning."""

    async def clean(connection: object) -> None: ...

    config = PoolConfig(reset=clean)
    assert config.reset is clean
    assert "clean" in config.model_dump_json()
