"""The options of a pool: arguments over environment over ``.env``, checked once, never corrected.

The description of each field is the text of the configuration reference.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from poolkeeper.config_errors import (
    ENVIRONMENT_PREFIX,
    Kind,
    configuration_error,
    environment_name,
    similar_option,
)
from poolkeeper.exceptions import PoolConfigurationError
from poolkeeper.urls import mask_url, split_url

if TYPE_CHECKING:
    from collections.abc import Iterable

# PostgreSQL's MAX_BACKENDS
_MOST_CONNECTIONS: Final = 262_143


def _no_boolean(value: object) -> object:
    """Python counts True as 1; a person who wrote it meant something else."""
    if isinstance(value, bool):
        raise PydanticCustomError("not_a_number", "is a boolean")
    return value


_Seconds = Annotated[
    float,
    BeforeValidator(_no_boolean),
    Field(gt=0, allow_inf_nan=False),
    Kind("a number of seconds"),
]
_SecondsOrZero = Annotated[
    float,
    BeforeValidator(_no_boolean),
    Field(ge=0, allow_inf_nan=False),
    Kind("a number of seconds"),
]
_Fraction = Annotated[
    float, BeforeValidator(_no_boolean), Field(ge=0, le=0.5, allow_inf_nan=False), Kind("a number")
]
_Count = Annotated[int, BeforeValidator(_no_boolean), Field(ge=1), Kind("a whole number")]
_CountOrZero = Annotated[int, BeforeValidator(_no_boolean), Field(ge=0), Kind("a whole number")]
_Connections = Annotated[
    int,
    BeforeValidator(_no_boolean),
    Field(ge=1, le=_MOST_CONNECTIONS),
    Kind("a whole number"),
]
_Name = Annotated[str, Field(min_length=1, max_length=63), Kind("a text of 1 to 63 characters")]
_Url = Annotated[str, Kind("a PostgreSQL URL")]
_ResetHook = Annotated[Callable[[Any], Awaitable[object]], Kind("an async function")]


class PoolConfig(BaseSettings):
    """Everything about a pool that can be chosen.

    An option is taken from the argument, else from the environment variable ``POOL_<NAME>``, else
    from the same variable in a file ``.env`` in the working directory, else it has its default.
    ``DATABASE_URL`` is read where ``POOL_DATABASE_URL`` is not set. Names of variables may be in
    either case; an empty variable counts as not set; ``none`` stands for None. All durations are
    seconds.

    A configuration is immutable and never shows its password: not in ``repr``, not in
    ``model_dump``. Only ``config.database_url`` itself returns it.

    Raises:
        PoolConfigurationError: A value is out of range, two values contradict each other, an
            argument is unknown, or an environment variable looks like a misspelt option. Lists all
            problems found. Other variables that start with ``POOL_`` belong to somebody else and
            are ignored.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        env_parse_none_str="none",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        validate_default=True,
    )

    # ------------------------------------------------------------------------------- what, how many

    database_url: _Url | None = Field(
        default=None,
        description="Where the database is: `postgresql://user:password@host:5432/database`. The "
        "scheme chooses the driver: `postgresql://` or `postgresql+asyncpg://` is asyncpg, "
        "`postgresql+psycopg://` is psycopg 3. Several hosts are separated by commas. Also read "
        "from `DATABASE_URL`. Needed to open a pool.",
    )
    max_size: _Connections = Field(
        default=10,
        description="The most connections the pool ever has, including those being opened and "
        "closed. PostgreSQL must have room for it (`max_connections`) times the number of pools.",
    )
    min_size: _CountOrZero = Field(
        default_factory=lambda options: min(2, options["max_size"]),
        description="How many connections are kept open when nothing is to be done. The default "
        "is 2, or `max_size` if that is less.",
    )
    pool_name: _Name | None = Field(
        default=None,
        description="Name of the pool in logs, metrics and errors. None: derived from the URL's "
        "host and database.",
    )

    # ------------------------------------------------------------------------------ waiting for one

    timeout: _Seconds = Field(
        default=30.0,
        description="How long `acquire` waits for a connection before it raises "
        "`PoolTimeoutError`.",
    )
    max_waiting: _CountOrZero | None = Field(
        default=None,
        description="How many callers may wait at once; one more gets `PoolExhaustedError` "
        "immediately. 0: nobody waits. None: no limit.",
    )
    command_timeout: _Seconds | None = Field(
        default=None,
        description="How long one statement may run before it is cancelled, unless the call "
        "names its own timeout. None: no limit.",
    )

    # -------------------------------------------------------------------------- opening, validating

    connect_timeout: _Seconds = Field(
        default=10.0,
        description="How long opening one connection may take, authentication included.",
    )
    initialization_attempts: _Count = Field(
        default=3,
        description="How often the first connection is tried before opening the pool fails with "
        "`PoolInitializationError`.",
    )
    validation_bypass: _SecondsOrZero = Field(
        default=0.5,
        description="A connection that was used this recently is handed out without being asked "
        "whether it is alive. 0: every one is asked, which costs a round trip.",
    )
    validation_timeout: _Seconds = Field(
        default=1.0,
        description="How long a connection may take to show that it is alive before it is "
        "replaced.",
    )

    # ------------------------------------------------------------------------------ retiring, reset

    max_lifetime: _Seconds | None = Field(
        default=3600.0,
        description="Age at which a connection is replaced once it is free. None: no limit.",
    )
    lifetime_jitter: _Fraction = Field(
        default=0.1,
        description="Fraction of `max_lifetime` by which each connection's limit is shortened at "
        "random, so that connections opened together do not retire together.",
    )
    max_inactive_connection_lifetime: _SecondsOrZero = Field(
        default=300.0,
        description="A connection above `min_size` that was idle for this long is closed. 0: idle "
        "connections are kept.",
    )
    max_queries: _Count = Field(
        default=50_000,
        description="Number of uses (acquire and release) after which a connection is replaced.",
    )
    reset: Literal["auto", "always", "transaction"] | _ResetHook = Field(
        default="auto",
        description="What is cleaned when a connection comes back. `auto`: everything, after "
        "statements that can leave something behind. `always`: everything, each time. "
        "`transaction`: an open transaction is rolled back, nothing else. A function: it is "
        "awaited with the connection after the rollback (in code only).",
    )
    reset_timeout: _Seconds = Field(
        default=5.0,
        description="How long cleaning a connection may take before it is replaced instead.",
    )

    # --------------------------------------------------------------------------- detecting, outages

    probe_interval: _Seconds = Field(
        default=2.0,
        description="Time between two liveness probes of an idle pool.",
    )
    probe_timeout: _Seconds = Field(
        default=2.0,
        description="How long a liveness probe may take; an idle pool notices a silent database "
        "within `probe_interval` + `probe_timeout`.",
    )
    stall_after: _SecondsOrZero = Field(
        default=1.5,
        description="After how long a silence during a statement another connection is opened to "
        "ask the server about it (one more than `max_size`). A statement on a dead connection "
        "ends at most 2.5 s later; one the server is at work on is left alone. 0: never.",
    )
    outage_patience: _SecondsOrZero = Field(
        default=10.0,
        description="How long after the start of an outage callers are kept waiting; after that "
        "`acquire` raises `DatabaseUnavailableError` at once. 0: at once from the start.",
    )
    reconnect_initial_delay: _Seconds = Field(
        default=0.05,
        description="Upper bound of the random delay before the first attempt to reconnect; it "
        "doubles with every failure.",
    )
    reconnect_max_delay: _Seconds = Field(
        default=1.0,
        description="The most that bound grows to; not below `reconnect_initial_delay`.",
    )

    # ------------------------------------------------------------------------ retries, transactions

    max_retries: _CountOrZero = Field(
        default=3,
        description="How often a statement with `idempotent=True`, one that was never sent, or a "
        "transaction of `run_transaction` is run again after a failure that allows it. 0: never.",
    )
    ledger_retention: _Seconds = Field(
        default=604_800.0,
        description="How long `poolkeeper.ledger` remembers what became of a transaction of "
        "`run_transaction` (7 days); older rows are deleted. All pools on one database should "
        "agree: the shortest wins.",
    )

    # ------------------------------------------------------------------------------- leaks, closing

    leak_detection_timeout: _SecondsOrZero = Field(
        default=30.0,
        description="A connection held for this long is reported in the log with its holder. It "
        "is not taken away. 0: no reports.",
    )
    close_timeout: _Seconds = Field(
        default=10.0,
        description="How long `close` waits for connections in use before it ends them.",
    )

    # type checkers take the signature from the fields
    if not TYPE_CHECKING:

        def __init__(self, **options: Any) -> None:
            problem: PoolConfigurationError
            try:
                super().__init__(**options)
            except ValidationError as error:
                problem = configuration_error(error, type(self).model_fields, options)
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
                problem = PoolConfigurationError(
                    f"The file .env in the working directory cannot be read: {reason}. "
                    "Suggestion: correct the file or its permissions, or remove it."
                )
            else:
                if options.get("min_size", 0) is None:
                    self.__pydantic_fields_set__.discard("min_size")
                return
            # outside the handlers: pydantic's error holds the values it was given, a password
            # perhaps among them, and must not travel along as __context__
            raise problem

        def __setattr__(self, name: str, value: object) -> None:
            if name in type(self).model_fields:
                raise PoolConfigurationError(
                    f"{name} cannot be set: a configuration is immutable. "
                    f"Suggestion: config.with_changes({name}=…) returns a changed copy.",
                    option=name,
                )
            super().__setattr__(name, value)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - passed by name
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then ``.env``; for pydantic-settings to call."""
        return (
            init_settings,
            _Variables(settings_cls, env_settings),
            _Variables(settings_cls, dotenv_settings),
        )

    @field_validator("database_url")
    @classmethod
    def _usable_url(cls, url: str | None) -> str | None:
        if url is not None:
            split_url(url)
        return url

    @field_validator("min_size", mode="before")
    @classmethod
    def _default_min_size(cls, value: object, info: ValidationInfo) -> object:
        return min(2, info.data.get("max_size", 2)) if value is None else value

    @field_validator("min_size")
    @classmethod
    def _not_above_max_size(cls, value: int, info: ValidationInfo) -> int:
        if value > info.data.get("max_size", value):
            raise _contradiction("greater", "max_size", info)
        return value

    @field_validator("reconnect_max_delay")
    @classmethod
    def _not_below_initial_delay(cls, value: float, info: ValidationInfo) -> float:
        if value < info.data.get("reconnect_initial_delay", value):
            raise _contradiction("less", "reconnect_initial_delay", info)
        return value

    @field_serializer("database_url")
    def _mask_url(self, url: str | None) -> str | None:
        return None if url is None else mask_url(url)

    @field_serializer("reset", when_used="json")
    def _name_of_reset(self, reset: object) -> str:
        return reset if isinstance(reset, str) else getattr(reset, "__qualname__", repr(reset))

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            masked = name == "database_url" and value is not None
            yield name, mask_url(value) if masked else value

    def require_database_url(self) -> str:
        """Return ``database_url`` with its password, for connecting.

        Raises:
            PoolConfigurationError: None was configured.
        """
        if self.database_url is None:
            raise PoolConfigurationError(
                "No database URL is configured. Suggestion: pass database_url, or set DATABASE_URL "
                "or POOL_DATABASE_URL, to a URL such as "
                "postgresql://user:password@localhost:5432/app.",
                option="database_url",
            )
        return self.database_url

    def with_changes(self, **changes: Any) -> Self:
        """Return a copy with some options changed, checked like a new configuration.

        Environment and ``.env`` are not read again. A ``min_size`` that was derived from
        ``max_size`` is derived anew.

        Raises:
            PoolConfigurationError: As for a new configuration.
        """
        options = {name: getattr(self, name) for name in type(self).model_fields}
        if "min_size" not in self.model_fields_set:
            options["min_size"] = None
        return type(self)(_env_file=None, **(options | changes))


def _contradiction(word: str, other: str, info: ValidationInfo) -> PydanticCustomError:
    return PydanticCustomError(
        "option_rule",
        "is {word} than {other}={limit}",
        {"word": word, "other": other, "limit": info.data[other]},
    )


class _Variables(PydanticBaseSettingsSource):
    """An environment, plus the variables without prefix, plus those that look misspelt.

    The latter are passed on under their own name, for the model to refuse as unknown.
    """

    def __init__(
        self, settings_cls: type[BaseSettings], source: PydanticBaseSettingsSource
    ) -> None:
        super().__init__(settings_cls)
        self._source = source

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return self._source.get_field_value(field, field_name)

    def __call__(self) -> dict[str, Any]:
        options = self.settings_cls.model_fields
        # both sources it is used with have it: names in lower case, without empty values
        variables: dict[str, str | None] = self._source.env_vars  # type: ignore[attr-defined]
        found = {name: value for name, value in self._source().items() if name in options}
        for name in ("database_url", "pool_name"):
            if name in variables:
                found.setdefault(name, variables[name])
        known = {environment_name(option) for option in options} | {"POOL_POOL_NAME"}
        for key, value in variables.items():
            variable = key.upper()
            name = variable.removeprefix(ENVIRONMENT_PREFIX)
            if name != variable and variable not in known and similar_option(name, options):
                found[variable] = value
        return found
