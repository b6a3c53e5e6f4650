"""What the pool logs, told in the words of whatever shows the operation.

Lines written to standard error by others would tear a progress bar.
"""

from __future__ import annotations

import logging
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

from poolkeeper.observability.logs import Redactor

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOST: Final = "database_connection_lost"
_BACK: Final = "database_reconnected"
_TOLD_BY_REPORTS: Final = frozenset({"operation_resumed"})


class Listener(Protocol):
    """Who shows it."""

    def say(self, text: str) -> None:
        """Show a line."""

    def database_away(self, reason: str) -> None:
        """Hear that the database is gone."""

    def database_back(self) -> None:
        """Hear that it is back."""


@contextmanager
def logs_told_to(listener: Listener, *secrets: str) -> Iterator[None]:
    """Lead every log record to ``listener``; those below a warning are dropped.

    Args:
        listener: Who shows them.
        secrets: Texts never to be shown.
    """
    root, ours = logging.getLogger(), logging.getLogger("poolkeeper")
    handler = _Handler(listener, Redactor(*secrets))
    before = root.handlers, ours.level
    root.handlers = [handler]
    ours.setLevel(logging.INFO)
    logging.captureWarnings(capture=True)
    try:
        yield
    finally:
        root.handlers, level = before
        ours.setLevel(level)
        logging.captureWarnings(capture=False)


class _Handler(logging.Handler):
    def __init__(self, listener: Listener, redactor: Redactor) -> None:
        super().__init__()
        self._listener = listener
        self._redactor = redactor

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._tell(record)
        except Exception:  # noqa: BLE001 - as every handler of logging
            self.handleError(record)

    def _tell(self, record: logging.LogRecord) -> None:
        event = _event(record.args)
        if event == _LOST:
            self._listener.database_away(self._redactor.clean(_reason(record.args)))
        elif event == _BACK:
            self._listener.database_back()
        elif record.levelno >= logging.WARNING and event not in _TOLD_BY_REPORTS:
            text = self._redactor.clean(record.getMessage())
            self._listener.say(f"{record.levelname.lower()}: {text}")


def _event(arguments: Any) -> str | None:
    """The pool logs ``event facts``, as two arguments."""
    match arguments:
        case (str(name), str()):
            return name
    return None


def _reason(arguments: Any) -> str:
    """What the facts of the event say of the reason."""
    facts = str(arguments[1])
    found = re.search(r"\berror='([^']*)'", facts) or re.search(r"\breason='([^']*)'", facts)
    return found[1].replace("connection_lost", "connection lost") if found else "connection lost"
