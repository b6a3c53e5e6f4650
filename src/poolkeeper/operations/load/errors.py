"""What can be wrong with a source of rows."""

from __future__ import annotations

from poolkeeper.operations.errors import NotHereError, OperationError


class AbandonedError(Exception):
    """A thread was told to give up; whoever told it does not look at what it raises."""


class SourceError(OperationError):
    """The source cannot be read, or not in the way it was asked for.

    Attributes:
        path: The file.
        line: Line in it, from 1, if one is to blame.
        offset: Byte in its decoded stream, if known.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str | None = None,
        line: int | None = None,
        offset: int | None = None,
    ) -> None:
        super().__init__(message)
        self.path = path
        self.line = line
        self.offset = offset


class SourceMissingError(SourceError, NotHereError):
    """There is no such file on this machine, or this process cannot open it; another one may."""


class SourceChangedError(SourceError):
    """The source is not what it was when the operation was created; nothing was done with it."""


class MalformedRecordError(SourceError):
    """A record has no end, or none within bounds."""


class BadRowError(OperationError):
    """The database refused a row. Chunks before it are committed.

    Attributes:
        path: The file.
        line: Line in it where the row begins, from 1.
        column: Column of the table to blame, if the server named one.
        row: The row as it stands in the file, cut to 200 characters.
        sqlstate: What the server said.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str | None = None,
        line: int | None = None,
        column: str | None = None,
        row: str = "",
        sqlstate: str | None = None,
    ) -> None:
        super().__init__(message)
        self.path = path
        self.line = line
        self.column = column
        self.row = row
        self.sqlstate = sqlstate
