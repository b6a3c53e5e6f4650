"""A pool under test, as its clients and the engine see it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from poolkeeper.drill.terms import Terms


class Fate(Enum):
    """What a client knows of a write that failed."""

    NOT_WRITTEN = "not written"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Address:
    """Where the pool connects to.

    Attributes:
        url: With the password of the time when it was made.
        password: Asked at each connect where a pool can do that; a rotated one is found here.
    """

    url: str
    password: Callable[[], str]


class Contender(ABC):
    """One pool with its driver, used as its documentation says.

    Attributes:
        name: What it is called in reports.
        bounded: Whether a call that takes longer than `Terms.bound` breaks a promise of it.
    """

    name: str
    bounded = False

    def __init__(self, address: Address, terms: Terms) -> None:
        self.address = address
        self.terms = terms

    @abstractmethod
    async def open(self) -> None:
        """Opens the pool."""

    @abstractmethod
    async def close(self) -> None:
        """Closes the pool; the engine bounds it."""

    @abstractmethod
    async def read(self, key: int) -> str:
        """Returns one row by its key."""

    @abstractmethod
    async def write(self, number: int, sent: Callable[[], None]) -> None:
        """Inserts one row; calls ``sent`` before anything may have reached the server."""

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Runs a statement that takes so long."""

    @abstractmethod
    def fate(self, error: BaseException, *, sent: bool) -> Fate:
        """What is certain about a write that failed so."""

    def report_to(self, report: Callable[[str], None]) -> None:
        """Calls ``report`` with what the pool itself notices: "database lost" and the like."""
        del report

    async def is_unhealthy(self) -> bool | None:
        """What the pool says of the database; None if it says nothing."""
        return None


def sqlstate_of(error: BaseException | None) -> str | None:
    """The code of the server's answer behind an error, looked for along its causes."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        code = getattr(error, "sqlstate", None)
        if isinstance(code, str):
            return code
        error = getattr(error, "orig", None) or error.__cause__ or error.__context__
    return None


def fate_by_sqlstate(error: BaseException, *, sent: bool) -> Fate:
    """For pools that do not say it: an answer of the server is certain, silence is not.

    Classes 08 and 57P are about the connection or the server, not about the statement.
    """
    if not sent:
        return Fate.NOT_WRITTEN
    code = sqlstate_of(error)
    if code is None or code.startswith(("08", "57P")):
        return Fate.UNKNOWN
    return Fate.NOT_WRITTEN
