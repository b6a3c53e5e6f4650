"""SQLSTATEs by name, and what a failed connection attempt means: one table for every driver."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poolkeeper.core.availability import Failure
from poolkeeper.endpoints import NoHostFits

if TYPE_CHECKING:
    from collections.abc import Iterator

CANNOT_CONNECT_NOW = "57P03"
ADMIN_SHUTDOWN = "57P01"
CRASH_SHUTDOWN = "57P02"
TOO_MANY_CONNECTIONS = "53300"
INVALID_AUTHORIZATION = "28000"
INVALID_PASSWORD = "28P01"  # noqa: S105 - a SQLSTATE
INVALID_CATALOG_NAME = "3D000"
QUERY_CANCELED = "57014"
PROTOCOL_VIOLATION = "08P01"
READ_ONLY_TRANSACTION = "25006"
IN_FAILED_TRANSACTION = "25P02"
UNIQUE_VIOLATION = "23505"
SERIALIZATION_FAILURE = "40001"
DEADLOCK_DETECTED = "40P01"
UNDEFINED_TABLE = "42P01"
INVALID_SCHEMA_NAME = "3F000"
DISK_FULL = "53100"
OUT_OF_MEMORY = "53200"
LOCK_NOT_AVAILABLE = "55P03"
INSUFFICIENT_PRIVILEGE = "42501"
SYNTAX_ERROR = "42601"

STARTING = frozenset({CANNOT_CONNECT_NOW, ADMIN_SHUTDOWN, CRASH_SHUTDOWN})
"""The server is there and says: not now."""

MISCONFIGURED = frozenset(
    {
        INVALID_AUTHORIZATION,
        INVALID_PASSWORD,
        INVALID_CATALOG_NAME,
        "0P000",  # invalid_role_specification
        "42501",  # insufficient_privilege: no CONNECT on the database
        "42704",  # undefined_object: an unknown server setting
        "22023",  # invalid_parameter_value: a bad value of a server setting
        "55000",  # object_not_in_prerequisite_state: the database does not accept connections
    }
)
"""The server is there and refuses this client; only a change of configuration helps."""

MESSAGES = {
    "the database system is starting up": CANNOT_CONNECT_NOW,
    "the database system is not yet accepting connections": CANNOT_CONNECT_NOW,
    "the database system is in recovery mode": CANNOT_CONNECT_NOW,
    "the database system is shutting down": CANNOT_CONNECT_NOW,
    "password authentication failed": INVALID_PASSWORD,
    "no password supplied": INVALID_PASSWORD,
    "no pg_hba.conf entry": INVALID_AUTHORIZATION,
    "is not permitted to log in": INVALID_AUTHORIZATION,
    "too many clients already": TOO_MANY_CONNECTIONS,
    "remaining connection slots are reserved": TOO_MANY_CONNECTIONS,
    "too many connections for": TOO_MANY_CONNECTIONS,
}
"""libpq reports a refused login as text alone. Server messages in another language do not match
and count as UNAVAILABLE, which is retried."""

POOLER_MESSAGES = {
    "no such user": INVALID_AUTHORIZATION,
    "no such database": INVALID_CATALOG_NAME,
    "no more connections allowed": TOO_MANY_CONNECTIONS,
}
"""What PgBouncer means by 08P01, which it says whatever happens. Anything else it says so
("server login has been failing", "query_wait_timeout", "server conn crashed?") means that the
server behind it is gone or does not answer."""


def chain(error: BaseException) -> Iterator[BaseException]:
    """Walk ``error`` and what caused it: the real reason is often one level down."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def sqlstate_of(error: BaseException) -> str | None:
    """The SQLSTATE of ``error`` or of its nearest cause that has one.

    For an error of a pooler it is the one PostgreSQL would have used.
    """
    if isinstance(error, NoHostFits):
        # Its text repeats what each host said; only one of them counts.
        return None if error.__cause__ is None else sqlstate_of(error.__cause__)
    for link in chain(error):
        code = getattr(link, "sqlstate", None)
        if code == PROTOCOL_VIOLATION:
            text = str(link)
            return next((code for part, code in POOLER_MESSAGES.items() if part in text), code)
        if isinstance(code, str):
            return code
    text = str(error)
    if 'role "' in text and '" does not exist' in text:
        return INVALID_AUTHORIZATION
    if 'database "' in text and '" does not exist' in text:
        return INVALID_CATALOG_NAME
    messages = MESSAGES | POOLER_MESSAGES
    return next((code for phrase, code in messages.items() if phrase in text), None)


def connect_failure(error: BaseException) -> Failure:
    """What a failed connection attempt says about the database."""
    code = sqlstate_of(error)
    if code in STARTING:
        return Failure.STARTING
    if code == TOO_MANY_CONNECTIONS:
        return Failure.BACKPRESSURE
    if code in MISCONFIGURED:
        return Failure.MISCONFIGURED
    for link in chain(error):
        # The driver refused its own arguments: no server was asked.
        if isinstance(link, TypeError | ValueError) and not isinstance(link, OSError):
            return Failure.MISCONFIGURED
    return Failure.UNAVAILABLE
