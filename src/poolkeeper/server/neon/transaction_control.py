"""Statements that would begin or end the transaction a batch runs in."""

from __future__ import annotations

import re

from poolkeeper.session_reset.tokens import Unreadable, tokenize

_CONTROL = frozenset(
    {"begin", "start", "commit", "end", "abort", "rollback", "prepare"},
)
_BLANKS = re.compile(r"(?:[ \t\n\r\f\v;]|--[^\n\r]*)*")
_COMMENT_MARK = re.compile(r"/\*|\*/")
_WORD = re.compile(r"[A-Za-z]+")


def transaction_control(sql: str) -> str | None:
    """The words, such as ``COMMIT``, with which ``sql`` controls its transaction; else None.

    ``ROLLBACK TO`` and other statements about savepoints stay within the transaction.
    """
    rest = sql[_first_word_at(sql) :]
    word = _WORD.match(rest)
    first = word[0].lower() if word else ""
    if first not in _CONTROL:
        return None
    try:
        tokens, _kinds = tokenize(rest)
    except Unreadable:
        # Rare enough to refuse: these commands have nothing in them that is hard to read.
        return first.upper()
    if first == "prepare":
        return "PREPARE TRANSACTION" if tokens[1:2] == ["transaction"] else None
    if first == "rollback" and "to" in tokens[1:3]:
        return None
    if tokens[1:2] == ["prepared"]:
        # Ends another transaction, and PostgreSQL refuses it within one.
        return None
    return first.upper()


def commits_inside(sql: str) -> bool:
    """Whether ``sql`` may commit on its way and fail afterwards, as procedures and DO may."""
    word = _WORD.match(sql, _first_word_at(sql))
    return word is not None and word[0].lower() in {"call", "do"}


def _first_word_at(sql: str) -> int:
    """Past blanks, comments (nested ones, too) and empty statements."""
    position = 0
    while True:
        blanks = _BLANKS.match(sql, position)
        position = blanks.end() if blanks else position
        if not sql.startswith("/*", position):
            return position
        depth = 0
        for mark in _COMMENT_MARK.finditer(sql, position):
            depth += 1 if mark[0] == "/*" else -1
            if depth == 0:
                position = mark.end()
                break
        else:
            return len(sql)
