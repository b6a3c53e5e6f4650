"""Operations and rejected rows as tables."""

from __future__ import annotations

import csv
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from poolkeeper.cli.errors import CommandError
from poolkeeper.cli.operations.words import (
    clean,
    command,
    duration,
    in_options,
    percent,
    place,
    size,
)
from poolkeeper.operations import OperationState

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from poolkeeper.operations import OperationStatus

EVERY: Final = 2**31 - 1

_COLORS: Final = {
    OperationState.RUNNING: "cyan",
    OperationState.DONE: "green",
    OperationState.FAILED: "red",
    OperationState.PAUSED: "yellow",
}


def print_list(found: Sequence[OperationStatus]) -> None:
    """One line each."""
    console = _console()
    rule = box.SIMPLE_HEAD if console.is_terminal else None
    table = Table(box=rule, pad_edge=False, show_edge=False)
    table.add_column("name", overflow="fold")
    for name in ("kind", "state"):
        table.add_column(name, no_wrap=True)
    for name in ("rows", "done", "age"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("worker", overflow="fold")
    table.add_column("error", overflow="fold")
    for status in found:
        running = status.state is OperationState.RUNNING
        table.add_row(
            Text(clean(status.name)),
            status.kind,
            Text(status.state.value, _COLORS.get(status.state, "")),
            f"{status.rows_done:,}",
            "" if status.fraction is None else percent(status.fraction),
            duration((status.at - status.created_at).total_seconds()),
            Text(clean(status.owner_place or "") if running else ""),
            Text("" if running else clean((status.error or "").partition(". ")[0])),
        )
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as captured:
        console.print(table)
    # The table pads every line to its width.
    for line in captured.get().splitlines():
        print(line.rstrip())


def print_one(status: OperationStatus) -> None:
    """Line by line; what is not there is left out."""
    seconds = status.elapsed_seconds
    lines: list[tuple[str, str | None]] = [
        ("name", status.name),
        ("id", str(status.id)),
        ("kind", status.kind),
        ("state", status.state.value),
        ("done", place(status)),
        ("of", f"{status.rows_total:,} rows" if status.rows_total else None),
        ("bytes", _bytes(status)),
        ("chunks", f"{status.seq:,}"),
        ("rate", f"{status.rows_done / seconds:,.0f} rows/s since it began" if seconds else None),
        ("rejected", _rejected(status)),
        ("outages", f"{status.outages:,}" if status.outages else None),
        ("worker", status.owner_place if status.owner else None),
        ("lease", _lease(status)),
        ("claims", f"{status.epoch:,}" if status.epoch else None),
        ("created", f"{status.created_at:%Y-%m-%d %H:%M:%S %Z}"),
        ("took" if status.finished else "since", duration(seconds) if seconds else None),
        ("error", status.error and in_options(status.error)),
    ]
    # What the user said; what was derived from it is for programs.
    asked = status.spec.get("asked") or status.spec
    lines += [(f"  {key}", str(value)) for key, value in sorted(asked.items())]
    for name, value in lines:
        if value is not None:
            print(f"{name:<10} {clean(value)}")


def print_rejects(found: Sequence[dict[str, Any]], status: OperationStatus) -> None:
    """Two lines each: place and message, and the row."""
    for row in found:
        line = "?" if row["line"] is None else f"{row['line']:,}"
        code = f" ({row['sqlstate']})" if row["sqlstate"] else ""
        print(f"line {line}: {clean(row['message'])}{code}")
        print(f"    {clean(_text(row['raw']))}")
    if len(found) < status.rows_rejected:
        print(
            f"{len(found):,} of {status.rows_rejected:,}; all of them: `"
            f"{clean(command('operations', 'rejects', status.name, '--csv', 'rejects.csv'))}`",
            file=sys.stderr,
        )


def write_rejects(found: Sequence[dict[str, Any]], path: Path) -> None:
    """As CSV: line, raw, sqlstate, message.

    Raises:
        CommandError: The file cannot be written.
    """
    try:
        to_stdout = str(path) == "-"
        opened = (
            nullcontext(sys.stdout) if to_stdout else path.open("w", newline="", encoding="utf-8")
        )
        with opened as file:
            writer = csv.writer(file)
            writer.writerow(["line", "raw", "sqlstate", "message"])
            for row in found:
                raw = _text(row["raw"])
                writer.writerow([row["line"], raw, row["sqlstate"], row["message"]])
    except OSError as error:
        raise CommandError(
            f"The rejected rows cannot be written to {path}: {error.strerror}. "
            "Suggestion: give a file in a directory you may write to."
        ) from error


def _text(raw: bytes) -> str:
    """The bytes that are no UTF-8 remain readable."""
    return bytes(raw).decode("utf-8", "backslashreplace").rstrip("\r\n")


def _console() -> Console:
    console = Console(highlight=False)
    if not console.is_terminal:
        # One operation a line, however long: programs read it.
        console.width = 10_000
    return console


def _bytes(status: OperationStatus) -> str | None:
    if status.bytes_total:
        return f"{size(status.bytes_done)} of {size(status.bytes_total)}"
    return size(status.bytes_done) if status.bytes_done else None


def _rejected(status: OperationStatus) -> str | None:
    if not status.rows_rejected:
        return None
    return f"{status.rows_rejected:,}: `{command('operations', 'rejects', status.name)}`"


def _lease(status: OperationStatus) -> str | None:
    if status.lease_seconds is None or status.state is not OperationState.RUNNING:
        return None
    if status.lease_seconds < 0:
        return f"ended {duration(-status.lease_seconds)} ago: whoever comes may take over"
    return f"{duration(status.lease_seconds)} left"
