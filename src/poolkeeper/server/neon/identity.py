"""What ``Neon-Connection-String`` says of a client: compared with what is served, never dialled.

Clients made for Neon send it with every request, and send ``Authorization`` only where they were
given a token of their own. So its password counts as the token.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote

from psycopg import ProgrammingError, pq
from psycopg.conninfo import conninfo_to_dict

from poolkeeper.server.neon.request import BadRequestError
from poolkeeper.server.status import UnauthorizedError
from poolkeeper.urls import split_url

if TYPE_CHECKING:
    from collections.abc import Mapping

    from poolkeeper.server.access import Access
    from poolkeeper.server.settings import Token

HEADER = "Neon-Connection-String"

_NAME = HEADER.lower()
_SHAPE = re.compile(
    r"postgres(?:ql)?://(?:(?P<user>[^:@/?#]*)(?::(?P<password>[^@/?#]*))?@)?"
    r"(?P<hosts>[^@/?#]+)/(?P<database>[^/?#]*)(?:\?[^#]*)?",
    re.IGNORECASE,
)
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_LONGEST = 8192
_REMEMBERED = 256

INVALID_CATALOG_NAME = "3D000"
INVALID_AUTHORIZATION = "28000"


@dataclass(frozen=True, slots=True)
class ConnectionString:
    """The parts that say who asks for what; empty where they are left out."""

    user: str
    password: str = field(repr=False)
    database: str

    @classmethod
    def parse(cls, text: str) -> ConnectionString:
        """Read ``postgresql://user:password@host/database?…``; names are percent-decoded.

        Raises:
            BadRequestError: It is something else. Nothing of it is repeated, because what cannot
                be read could be the password.
        """
        match = _SHAPE.fullmatch(text) if len(text) <= _LONGEST else None
        if match is None or _BAD_PERCENT.search(text):
            raise BadRequestError(
                f"{HEADER} is not a connection string. Suggestion: send "
                "postgresql://user:password@host/database, with special characters "
                "percent-encoded: @ is %40, / is %2F, : is %3A, % is %25."
            )
        return cls(
            user=unquote(match["user"] or ""),
            password=unquote(match["password"] or ""),
            database=unquote(match["database"]),
        )


@dataclass(frozen=True, slots=True)
class Served:
    """The database behind the server and the role of its pool; None where nobody can tell."""

    database: str | None
    user: str | None

    @classmethod
    def by(cls, database_url: str) -> Served:
        """What libpq would connect to with the URL of a pool, its defaults included."""
        _driver, plain = split_url(database_url)
        try:
            given = conninfo_to_dict(plain)
        except ProgrammingError:
            # Opening the pool will say what is wrong with it.
            return cls(None, None)
        if "service" in given:
            return cls(None, None)
        defaults = {
            option.keyword.decode(): option.val.decode()
            for option in pq.Conninfo.get_defaults()
            if option.val
        }
        user = given.get("user") or defaults.get("user")
        database = given.get("dbname") or defaults.get("dbname") or user
        return cls(_text(database), _text(user))


class Identity:
    """Decides about requests that may carry a connection string."""

    def __init__(self, access: Access, served: Served) -> None:
        self._access = access
        self._served = served
        # Clients repeat themselves with every request.
        self._parsed: dict[str, ConnectionString] = {}

    def check(self, headers: Mapping[str, str]) -> Token | None:
        """As `Access.check`, and what the connection string says must be what is served.

        Raises:
            UnauthorizedError: No token, or a wrong one.
            ForbiddenError: No token is asked for, and a web page of others sent the request.
            BadRequestError: The connection string cannot be read, or it names another database or
                role.
        """
        text = headers.get(_NAME)
        if text is None:
            return self._access.check(headers)
        given = self._parsed.get(text) or self._parse(text)
        if self._access.asks_for_token and "authorization" not in headers:
            token = self._access.token_for(given.password.encode("utf-8", "surrogateescape"))
            if token is None:
                raise UnauthorizedError(
                    "missing authentication credentials: the connection string has no password, "
                    "or a wrong one. Suggestion: use the token the server was started with "
                    "(--token or POOLKEEPER_TOKEN) as its password."
                )
        else:
            token = self._access.check(headers)
        self._compare(given)
        return token

    def _parse(self, text: str) -> ConnectionString:
        parsed = ConnectionString.parse(text)
        if len(self._parsed) >= _REMEMBERED:
            self._parsed.clear()
        self._parsed[text] = parsed
        return parsed

    def _compare(self, given: ConnectionString) -> None:
        """Tell a client of another database, before its statements run in this one."""
        served = self._served
        if served.database is not None and (given.database or given.user) != served.database:
            raise BadRequestError(
                f"The connection string names another database than the one that is served, "
                f"{served.database!r}. Suggestion: write {served.database} after the host, as in "
                f"postgresql://user:password@host/{served.database}.",
                code=INVALID_CATALOG_NAME,
            )
        if given.user and served.user is not None and given.user != served.user:
            raise BadRequestError(
                f"The connection string names another role than the one that statements run as, "
                f"{served.user!r}. Suggestion: write {served.user} as its user.",
                code=INVALID_AUTHORIZATION,
            )


def _text(value: object) -> str | None:
    return str(value) if value else None
