"""Numbers, durations and names as people read them, and nothing a terminal could obey."""

from __future__ import annotations

import shlex
import sys
import unicodedata
from typing import TYPE_CHECKING

from poolkeeper.urls import mask_url

if TYPE_CHECKING:
    from collections.abc import Sequence

    from poolkeeper.operations import OperationStatus

_UNITS = ("B", "kB", "MB", "GB", "TB")


def clean(text: str) -> str:
    """Give ``text`` on one line, without control characters: names and errors come from others."""
    return printable(text.strip().replace("\n", " ").replace("\t", " "))


def printable(text: str) -> str:
    """Give ``text`` without control characters, apart from the ends of its lines."""
    return "".join(
        character
        for character in text
        if character == "\n" or unicodedata.category(character) not in {"Cc", "Cf", "Cs"}
    )


def rows(count: int) -> str:
    """Give ``1 row``, ``412,301 rows``."""
    return f"{count:,} row{'' if count == 1 else 's'}"


def size(count: float) -> str:
    """Give a number of bytes in the largest unit that leaves at least one of it."""
    for unit in _UNITS[:-1]:
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} {_UNITS[-1]}"


def duration(seconds: float) -> str:
    """Give as many digits of a duration as anybody needs."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def percent(fraction: float) -> str:
    """Give whole per cents; 100 only when it is all."""
    return f"{int(fraction * 100)} %"


def place(status: OperationStatus) -> str:
    """How far it is: ``412,301 rows (38 %)``."""
    shown = rows(status.rows_done)
    return shown if status.fraction is None else f"{shown} ({percent(status.fraction)})"


def outages(count: int) -> str:
    """Give ``1 outage ridden out``."""
    return f"{count:,} outage{'' if count == 1 else 's'} ridden out"


def same_command(arguments: Sequence[str] | None = None) -> str:
    """The command of this process, to be typed again; a password in it is masked.

    Without ``--again``: what is unfinished goes on anyway, and what got finished meanwhile must not
    be done twice.
    """
    given = [a for a in (sys.argv[1:] if arguments is None else arguments) if a != "--again"]
    return shlex.join(["poolkeeper", *(mask_url(a) if "://" in a else a for a in given)])


def command(*words: str) -> str:
    """Give a command of ours as one may paste it."""
    return shlex.join(["poolkeeper", *words])
