"""Numbers, durations and names as people read them, and nothing a terminal could obey."""

from __future__ import annotations

import re
import shlex
import sys
import unicodedata
from typing import TYPE_CHECKING, Final

from poolkeeper.urls import mask_url

if TYPE_CHECKING:
    from collections.abc import Sequence

    from poolkeeper.operations import OperationStatus

_UNITS = ("B", "kB", "MB", "GB", "TB")

_OUTAGE: Final = re.compile(
    r"has been unreachable for [\d.]+ s(?:: (?P<why>.*?))?(?:; (?:next|a connection) attempt|\. |$)"
)
_CLASS_NAME: Final = re.compile(r"(?:[A-Z][a-z0-9]+){2,}(?:: |$)|OSError(?:: |$)")
_REASONS: Final = (
    (r"Connect call failed|Connection refused|\bErrno 111\b", "connection refused"),
    (r"password authentication failed for user (.+)", r"password refused for user \1"),
    (r"closed in the middle of operation|Connection reset|Broken pipe", "connection lost"),
    (r"Name or service not known|getaddrinfo|name resolution", "host name not found"),
    (r"due to lock timeout", "somebody holds a lock"),
)
"""What the server, drivers and the system say, and how people put it."""

_NAME_ONLY: Final = {"TimeoutError": "no answer in time", "CancelledError": "no answer in time"}


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


def reason(text: str) -> str:
    """Why the database cannot be used, of what an exception says: short, without its class."""
    text = clean(text)
    outage = _OUTAGE.search(text)
    if outage is not None:
        text = outage["why"] or "the database cannot be reached"
    bare = _CLASS_NAME.sub("", text, count=1) if _CLASS_NAME.match(text) else text
    while _CLASS_NAME.match(bare):
        bare = _CLASS_NAME.sub("", bare, count=1)
    if not bare:
        return _NAME_ONLY.get(text, "connection lost")
    for pattern, words in _REASONS:
        found = re.search(pattern, bare)
        if found is not None:
            return found.expand(words)
    return re.sub(r"^\[Errno -?\d+\] ", "", bare).partition(". ")[0]


_TRUE: Final = re.compile(r"\b([a-z_]+)=True\b")
_FALSE: Final = re.compile(r"\b([a-z_]+)=False\b")
_TEXT: Final = re.compile(r"\b([a-z_]+)=(['\"][^'\"]*['\"])")
_BARE: Final = re.compile(r"\b([a-z_]+)=(?=[ ,.;:)]|$)")
_OPTION: Final = re.compile(r"(?<![-\w.])(overwrite|max_rejects|max_record_bytes)\b")


def in_options(message: str) -> str:
    """A message of the library in the words of the command line: ``--key`` for ``key=``.

    Only its advice: what stands before may be of the user's data.
    """
    facts, found, advice = message.rpartition("Suggestion: ")
    if not found:
        return message
    advice = _TRUE.sub(lambda match: _option(match[1]), advice)
    advice = _FALSE.sub(lambda match: _option(f"no-{match[1]}"), advice)
    advice = _TEXT.sub(lambda match: f"{_option(match[1])} {match[2]}", advice)
    for pattern in (_BARE, _OPTION):
        advice = pattern.sub(lambda match: _option(match[1]), advice)
    return f"{facts}{found}{advice}"


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


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
