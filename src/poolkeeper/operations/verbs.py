"""What operations there are to create, as methods of ``pool.operations``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from poolkeeper.operations.errors import OperationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from os import PathLike

    from poolkeeper.operations.custom import Steps
    from poolkeeper.operations.kind import Json
    from poolkeeper.operations.operation import Operation


class Verbs(ABC):
    """``load``, ``backfill``, ``export`` and steps of your own.

    Each creates an operation and returns it; ``await operation.run()`` carries it out. The same
    call again finds the unfinished operation of that name and goes on with it, also when it was
    paused or has failed. What each raises is listed at ``create``.
    """

    _steps: Steps

    @abstractmethod
    async def create(self, kind: str, spec: Json, *, name: str, again: bool = False) -> Operation:
        """Create an operation, or find the one of that name."""

    async def load(
        self,
        path: str | PathLike[str],
        *,
        into: str,
        name: str | None = None,
        again: bool = False,
        format: Literal["csv", "ndjson", "parquet"] | None = None,  # noqa: A002 - COPY's word
        compression: Literal["gzip", "zstd", "none"] | None = None,
        encoding: str | None = None,
        delimiter: str | None = None,
        quote: str | None = None,
        escape: str | None = None,
        null: str | None = None,
        header: bool | None = None,
        columns: Sequence[str] | None = None,
        map: Mapping[str, str] | None = None,  # noqa: A002 - what it is
        skip: Sequence[str] | None = None,
        defaults: Mapping[str, Any] | None = None,
        set: Mapping[str, str] | None = None,  # noqa: A002 - SQL's word
        column: str | None = None,
        on_conflict: Literal["nothing"] | None = None,
        on_bad_row: Literal["fail", "reject"] = "fail",
        max_rejects: int | None = None,
        max_record_bytes: int | None = None,
    ) -> Operation:
        """Load a file into a table by COPY.

        Args:
            path: CSV, NDJSON or Parquet; ``.gz`` and ``.zst`` of the first two.
            into: The table, ``schema.table`` if need be.
            name: What to call the operation; by default the file and the table.
            again: Load a file that has been loaded, and has not changed since, once more.
            format: By default what the name of the file says.
            compression: As ``format``.
            encoding: Of the file; by default UTF-8, or what its byte order mark says.
            delimiter: Of CSV; by default a comma, a tab in ``.tsv``.
            quote: Of CSV; by default ``"``.
            escape: Of CSV; by default the quote.
            null: What stands for NULL in CSV; by default an empty unquoted field.
            header: Whether CSV begins with the names of its columns; by default it does.
            columns: Names of the columns of the file, in place of its header.
            map: Columns of the file to columns of the table where the names differ.
            skip: Columns of the file to leave out.
            defaults: Columns of the table to values for all rows.
            set: Columns of the table to SQL expressions over the columns of the file, as texts.
            column: Put each NDJSON record whole into this column.
            on_conflict: ``nothing`` leaves out rows whose key is there already.
            on_bad_row: ``reject`` puts rows the table refuses into ``poolkeeper.rejects``.
            max_rejects: Fail when there are more than that.
            max_record_bytes: The longest record; by default 64 MiB.
        """
        file = _absolute(path)
        spec = {
            "path": str(file),
            "into": into,
            "format": format,
            "compression": compression,
            "encoding": encoding,
            "delimiter": delimiter,
            "quote": quote,
            "escape": escape,
            "null": null,
            "header": header,
            "columns": None if columns is None else list(columns),
            "map": None if map is None else dict(map),
            "skip": None if skip is None else list(skip),
            "defaults": None if defaults is None else dict(defaults),
            "set": None if set is None else dict(set),
            "column": column,
            "on_conflict": on_conflict,
            "on_bad_row": on_bad_row,
            "max_rejects": max_rejects,
            "max_record_bytes": max_record_bytes,
        }
        return await self.create(
            "load", _given(spec), name=name or f"{file.name} into {into}", again=again
        )

    async def backfill(
        self,
        table: str,
        *,
        set: str | None = None,  # noqa: A002 - SQL's word
        delete: bool = False,
        where: str | None = None,
        key: Sequence[str] | None = None,
        sweep: bool = False,
        batch: int | None = None,
        max_replica_lag: float | None = None,
        lock_timeout: float | None = None,
        pause: float | None = None,
        name: str | None = None,
        again: bool = False,
    ) -> Operation:
        """Change or delete the rows of a table, range of keys by range of keys.

        A row that is there throughout, with the same key, is changed exactly once, also by
        ``n = n + 1``. One that is inserted meanwhile is changed if its key has not been passed yet.
        Rows of partitions and of tables that inherit from it count as its own.

        Args:
            table: ``schema.table`` if need be.
            set: What ``UPDATE`` is to set, as SQL: ``email = lower(email)``; with other tables,
                ``name = n.name FROM names AS n``. No column of the key.
            delete: Delete rows instead.
            where: Only rows for which this SQL condition holds.
            key: Columns to go along, with an index in this order, none of them NULL; by default the
                primary key. They need not be unique, but rows of one key are changed together.
            sweep: Go over the table again until a pass finds no row to change, ten times at the
                most: for rows inserted behind the cursor. Only for a condition that the change
                makes false, such as ``email <> lower(email)``; with ``n = n + 1 WHERE n < 5`` each
                pass would add.
            batch: The most rows at a time; by default 50,000.
            max_replica_lag: Seconds a standby may be behind; more makes this wait. By default 10;
                0 does not look. A role without ``pg_monitor`` sees no standbys.
            lock_timeout: Seconds to wait for a row somebody else has locked before letting others
                have those of the chunk, and trying again; by default 1.
            pause: Seconds to pause after each chunk; by default none.
            name: What to call the operation; by default what it does to which table.
            again: Run an UPDATE that is done once more. Without it the same call finds the finished
                operation, so that a program that was killed at the end can just be started again.
                A DELETE that is done is run again anyway.

        Raises:
            OperationError: See ``create``; also for a table, key, ``set`` or ``where`` that
                PostgreSQL does not take. Nothing has been changed then.
        """
        if (set is None) == (not delete):
            raise OperationError(
                "A backfill needs either set= or delete=True. Suggestion: "
                'set="email = lower(email)" changes rows, delete=True deletes them.'
            )
        spec = {
            "table": table,
            "set": set,
            "delete": delete or None,
            "where": where,
            "key": None if key is None else list(key),
            "sweep": sweep or None,
            "batch": batch,
            "max_replica_lag": max_replica_lag,
            "lock_timeout": lock_timeout,
            "pause": pause,
        }
        does = "delete from" if delete else "update"
        return await self.create(
            "backfill", _given(spec), name=name or f"{does} {table}", again=again
        )

    async def export(
        self,
        to: str | PathLike[str],
        *,
        table: str | None = None,
        query: str | None = None,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        key: Sequence[str] | None = None,
        consistent: bool = False,
        format: Literal["csv", "ndjson", "parquet"] | None = None,  # noqa: A002 - COPY's word
        compression: Literal["gzip", "zstd", "none"] | None = None,
        parts: bool | None = None,
        part_bytes: int | None = None,
        header: bool | None = None,
        delimiter: str | None = None,
        quote: str | None = None,
        null: str | None = None,
        overwrite: bool = False,
        name: str | None = None,
    ) -> Operation:
        """Write a table or the rows of a query to files.

        Without ``consistent`` every row that is there throughout is written once, but different
        chunks see the table at different moments.

        Args:
            to: A file, or a directory for part files.
            table: ``schema.table`` if need be; or
            query: a SELECT.
            columns: Of the table; by default all.
            where: Only rows for which this SQL condition holds.
            key: Columns to go along, none of them NULL; by default the primary key of the table.
            consistent: See the table at one moment: then an interruption means a start from zero.
            format: By default what the name of the file says, else CSV.
            compression: As ``format``.
            parts: Write part files into the directory ``to``; by default if it is one, or its name
                has no suffix.
            part_bytes: Size of a part file; by default 64 MiB.
            header: Whether CSV begins with the names of the columns; by default it does.
            delimiter: Of CSV; by default a comma, a tab in ``.tsv``.
            quote: Of CSV; by default ``"``.
            null: What stands for NULL in CSV; by default nothing.
            overwrite: Replace what is there.
            name: What to call the operation; by default what is written where.
        """
        if (table is None) == (query is None):
            raise OperationError(
                "An export needs either table= or query=. Suggestion: name the table, or give a "
                "SELECT with key= for the columns to go along."
            )
        target = _absolute(to)
        spec = {
            "to": str(target),
            "table": table,
            "query": query,
            "columns": None if columns is None else list(columns),
            "where": where,
            "key": None if key is None else list(key),
            "consistent": consistent or None,
            "format": format,
            "compression": compression,
            "parts": parts,
            "part_bytes": part_bytes,
            "header": header,
            "delimiter": delimiter,
            "quote": quote,
            "null": null,
            "overwrite": overwrite or None,
        }
        return await self.create(
            "export", _given(spec), name=name or f"{table or 'query'} to {target.name}"
        )

    def custom(self, name: str) -> Callable[[Any], Any]:
        """Make a function a step of operations of kind ``custom``; a decorator.

        ``await step(connection, cursor, **arguments)`` does one chunk: inside a transaction that it
        must not end, beginning where ``cursor`` says (None at first), and returns a ``Step``: the
        cursor of the next one, how many rows it did, and whether it was the last. What it writes
        and that cursor are committed together. It may be called again with the same cursor.

        Args:
            name: What the operation is to call it, in every process that can do it.
        """
        return self._steps.register(name)

    async def start(
        self, step: str, *, name: str | None = None, again: bool = False, **arguments: Any
    ) -> Operation:
        """Create an operation of a step of your own, see ``custom``, or find the one of that name.

        Args:
            step: The name the step was registered with.
            name: What to call it; the name of the step by default.
            again: See ``create``.
            arguments: Passed to the step each time; they must fit into JSON.

        Raises:
            OperationError: See ``create``.
        """
        spec = {"step": step, "arguments": arguments}
        return await self.create("custom", spec, name=name or step, again=again)


def _given(spec: Json) -> Json:
    """What the user said, and not what was left to the default."""
    return {key: value for key, value in spec.items() if value is not None}


def _absolute(path: str | PathLike[str]) -> Path:
    """A worker may have another working directory."""
    return Path(path).absolute()
