"""Events as log records, and logging for the processes that are poolkeeper themselves."""

from __future__ import annotations

import logging
import math
import re
import sys
from typing import TYPE_CHECKING, Any, TextIO

import structlog

from poolkeeper.exceptions import PoolConfigurationError
from poolkeeper.urls import mask_url, redact

if TYPE_CHECKING:
    from collections.abc import Iterable, MutableMapping

    from structlog.typing import Processor

    from poolkeeper.observability.events import Event

_LOGGER_NAME = "poolkeeper"

_DATABASE_URL = re.compile(r"\bpostgres(?:ql)?(?:\+\w+)?://\S+", re.IGNORECASE)

_FIRST_KEYS = ("timestamp", "level", "event", "logger")


class Redactor:
    """A structlog processor that lets no known secret through, wherever in a record it stands.

    Runs after exceptions were rendered and before the output is, so that texts, nested values and
    tracebacks are covered alike. A database URL loses its password even when nobody named it.
    """

    def __init__(self, *secrets: str) -> None:
        self._secrets = secrets

    def add(self, secret: str) -> None:
        """Hide ``secret``, a password or a database URL, from now on."""
        self._secrets = (*self._secrets, secret)

    def __call__(self, _logger: Any, _method: str, record: MutableMapping[str, Any]) -> Any:
        """Give the record with the well-known keys first and values that fit into JSON."""
        first = {key: record[key] for key in _FIRST_KEYS if key in record}
        return self.clean(first | dict(record))

    def clean(self, value: Any) -> Any:
        """Give ``value`` without secrets and as what JSON can hold: anything odd as its repr."""
        match value:
            case None | bool() | int():
                return value
            case float():
                return value if math.isfinite(value) else str(value)  # JSON knows no infinity
            case str():
                masked = _DATABASE_URL.sub(lambda url: mask_url(url[0]), value)
                return redact(masked, *self._secrets)
            case dict():
                return {self.clean(str(key)): self.clean(item) for key, item in value.items()}
            case list() | tuple() | set() | frozenset():
                return [self.clean(item) for item in value]
            case _:
                return self.clean(repr(value))


class StructlogSink:
    """An event listener that writes each event as one log record, under its name and level.

    It logs through structlog where the application has configured structlog, and through the
    standard library's logger ``poolkeeper`` otherwise, so an application that never heard of
    structlog finds the records where it expects them. Nothing is configured here.

    Args:
        logger: A structlog logger to use instead, with whatever it is bound to.
        secrets: Texts never to be written. Passwords inside URLs need not be named.
    """

    def __init__(self, logger: Any = None, *, secrets: Iterable[str] = ()) -> None:
        self._logger = logger
        self._redactor = Redactor(*secrets)

    def hide(self, *secrets: str) -> None:
        """Never write ``secrets`` from now on, such as a password that was changed."""
        for secret in secrets:
            self._redactor.add(secret)

    def __call__(self, event: Event) -> None:
        """Log ``event``."""
        facts = self._redactor.clean(event.to_dict())
        logger = self._logger
        if logger is None and structlog.is_configured():
            logger = structlog.get_logger(_LOGGER_NAME)
        if logger is not None:
            getattr(logger, event.level)(event.name, **facts)
            return
        text = " ".join(f"{name}={value!r}" for name, value in facts.items())
        level = logging.getLevelNamesMapping()[event.level.upper()]
        logging.getLogger(_LOGGER_NAME).log(level, "%s %s", event.name, text)


def configure_logging(
    *,
    json: bool = True,
    level: int | str = "INFO",
    secrets: Iterable[str] = (),
    stream: TextIO | None = None,
) -> Redactor:
    """Set up logging for the whole process: for servers and command lines, never for a library.

    Everything that logs, through structlog or the standard library (uvicorn, asyncio, warnings),
    comes out in one form on one stream, without secrets: a JSON object per line with
    ``timestamp`` (ISO 8601, UTC), ``level``, ``event``, ``logger`` and the fields of the record,
    or lines for people. Tracebacks never show local variables. Calling it again starts over.

    Args:
        json: JSON lines, or lines for people.
        level: The least level that is written.
        secrets: Texts never to be written.
        stream: Where to; standard error if not given.

    Returns:
        The redactor in use; ``add`` tells it about secrets that become known later.

    Raises:
        PoolConfigurationError: The level is not one that logging knows.
    """
    threshold = _level_number(level)
    redactor = Redactor(*secrets)
    # what both kinds of record get while it is known where they come from
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if json
        # tracebacks are text by then; older structlog complains if another formatter is set
        else structlog.dev.ConsoleRenderer(
            colors=(stream or sys.stderr).isatty(),
            exception_formatter=structlog.dev.plain_traceback,
        )
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[
                _drop_duplicates,
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.StackInfoRenderer(),
                structlog.processors.format_exc_info,
                redactor,
                *([] if json else [_for_people]),
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(threshold)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = True
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    return redactor


def _drop_duplicates(
    _logger: Any, _method: str, record: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Uvicorn attaches its message a second time, with colours."""
    record.pop("color_message", None)
    return record


def _for_people(
    _logger: Any, _method: str, record: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Only as many digits as somebody reads, and nothing that is not there."""
    return {
        name: round(value, 3 if abs(value) >= 0.1 else 6) if isinstance(value, float) else value
        for name, value in record.items()
        if value is not None
    }


def _level_number(level: int | str) -> int:
    if isinstance(level, int):
        return level
    names = logging.getLevelNamesMapping()
    try:
        return names[level.upper()]
    except KeyError:
        raise PoolConfigurationError(
            f"There is no log level {level!r}. "
            "Suggestion: use one of DEBUG, INFO, WARNING, ERROR, CRITICAL.",
            option="level",
            value=level,
        ) from None
