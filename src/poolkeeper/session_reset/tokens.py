"""Cut SQL text into tokens the way PostgreSQL's scanner does, or refuse.

Only texts that mean the same under every setting are cut. A backslash in a plain string (its
meaning depends on ``standard_conforming_strings``), nested comments, ``U&`` literals and anything
PostgreSQL itself would reject are refused.
"""

from __future__ import annotations

import re

WORD = 1
QUOTED = 2
LITERAL = 3
PUNCTUATION = 4
_REFUSED = 5
_END = 6

# Bytes above 127 are letters to PostgreSQL, a no-break space included.
_LETTER = r"A-Za-z_\u0080-\U0010ffff"

# No possessive quantifier on a group with alternatives in it: CPython before 3.11.5 gets them wrong
# (gh-106052). Nothing is given back all the same: the last alternatives take whatever comes.
_TOKEN = re.compile(
    rf"""
    (?:[ \t\n\r\f\v]++ | --[^\n\r]*+ | /\*(?:[^*/]|\*(?!/)|/(?!\*))*\*/)*
    (?:
      (?! [uU]&['"] | [eE]' )
      ([{_LETTER}][{_LETTER}0-9$]*+)
    | "([^"]*+(?:""[^"]*+)*+)"
    | (  '[^'\\]*+(?:''[^'\\]*+)*+'
       | [eE]'(?:[^'\\]|\\.|'')*'
       | \$([A-Za-z_][A-Za-z0-9_]*+|)\$.*?\$\4\$
       | (?: \$[0-9]++
           | 0[xX][0-9A-Fa-f]++
           | (?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)(?:[eE][+-]?[0-9]++)?
         )
         (?![{_LETTER}0-9$.])
      )
    | ( :: | (?!/\*)[(),;.\[\]:+\-*/<>=~!@\#%^&|`?] )
    | (.)
    | (\Z)
    )
    """,
    re.VERBOSE | re.DOTALL,
)
_KIND = {1: WORD, 2: QUOTED, 3: LITERAL, 5: PUNCTUATION, 6: _REFUSED, 7: _END}


class Unreadable(Exception):
    """The text, or its reading under some setting, is not certain."""


def tokenize(sql: str) -> tuple[list[str], list[int]]:
    """Return the tokens of ``sql`` and, at the same positions, their kinds.

    Words are folded to lower case as the server folds them (ASCII only), quoted identifiers come
    without their quotes, operators one character at a time. Raises Unreadable.
    """
    texts: list[str] = []
    kinds: list[int] = []
    for match in _TOKEN.finditer(sql):
        group = match.lastindex
        if group == 1:
            text = match[1]
            texts.append(text.lower() if text.isascii() else text)
            kinds.append(WORD)
        elif group == 5:
            texts.append(match[5])
            kinds.append(PUNCTUATION)
        elif group == 3:
            texts.append("'")
            kinds.append(LITERAL)
        elif group == 2:
            texts.append(match[2].replace('""', '"'))
            kinds.append(QUOTED)
        elif group == 6:
            raise Unreadable(_why(match[6]))
    return texts, kinds


def _why(character: str) -> str:
    if character in "'eE":
        return "a string literal is not closed or its backslash depends on a setting"
    if character == "/":
        return "a comment is nested or not closed"
    return f"cannot be read from {character!a} on"
