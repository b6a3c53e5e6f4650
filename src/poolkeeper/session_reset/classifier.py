"""Decide from a statement's text whether it can leave something behind in its session.

The decision is one-sided: "clean" is only said when every part of the text is understood and
known to end with its transaction. It errs towards "dirty", which costs a cleaning in the
background and nothing else.

What no text can show is not seen: functions behind views, triggers, operators, casts, defaults,
index expressions and ``row.function`` notation, a user's function that shadows a built-in one of
the same name, or a default ``search_path`` that makes plain ``CREATE TABLE`` temporary. Sequence
state (``currval()``, ``lastval()``) is not looked at either: every INSERT into a serial column
sets it.
"""

from __future__ import annotations

from dataclasses import dataclass

from poolkeeper.session_reset.harmless_functions import HARMLESS_FUNCTIONS, KEYWORDS
from poolkeeper.session_reset.tokens import (
    LITERAL,
    PUNCTUATION,
    QUOTED,
    WORD,
    Unreadable,
    tokenize,
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one text can do to the session that runs it.

    Attributes:
        clean: Nothing outlives the transaction.
        reason: Why it is not clean, for people; never holds literals of the text.
        may_prepare: An SQL-level ``PREPARE`` cannot be ruled out, so cleaning needs
            ``cleaning_sql(may_prepare=True)``.
    """

    clean: bool
    reason: str = ""
    may_prepare: bool = False


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


CLEAN = Verdict(clean=True)

# Reading blocks the event loop, half a microsecond per character at worst; a cleaning does not.
MAX_CHARACTERS = 10_000

# Statements without expressions: nothing in them can call a function by name.
_WITHOUT_EXPRESSIONS = _words(
    """
    abort analyse analyze begin checkpoint cluster comment commit drop end grant lock notify
    reindex release revoke rollback savepoint show start truncate vacuum
    """
)
_QUERIES = _words("select values table with")
_WRITES = _words("insert update delete merge")
_STATE_ONLY = _words("close deallocate declare discard fetch listen move reset set unlisten")
_SESSION_FUNCTIONS = ("set_config", "setseed", "pg_advisory_", "pg_try_advisory_")

# Words PostgreSQL never takes for a function name when a parenthesis follows. TREAT is missing on
# purpose: TREAT(1 AS pg_advisory_lock) calls pg_advisory_lock(1).
_NEVER_FUNCTIONS = _words(
    """
    all and any array as asymmetric both case cast check default distinct else except fetch for
    from group having in intersect into lateral leading limit not offset on only or placing
    returning select some symmetric then to trailing union unique using variadic when where with
    current_time current_timestamp localtime localtimestamp
    between bit char character coalesce dec decimal exists extract float greatest grouping interval
    least national nchar nullif numeric overlay position row substring time timestamp trim values
    varchar xmlattributes xmlconcat xmlelement xmlexists xmlforest xmlnamespaces xmlparse xmlpi
    xmlroot xmlserialize xmltable
    """
)
# After these a name is a relation, and what follows in parentheses are its columns.
_BEFORE_RELATION = _words("into references table exists")
# A parenthesis after these can be followed by an alias with a column list: FROM (…) t(a, b).
_BEFORE_FROM_ITEM = _words("from join lateral only")
# Keywords that people name columns after and that the grammar puts before no expression.
_COLUMN_NAMES = _words("label location name text type")
_JOIN_WORDS = _words("inner left right full outer cross natural")

# (word, the word before it): together they introduce a parenthesis that is no function call.
_PAIRS = frozenset(
    {
        ("key", "primary"),
        ("key", "foreign"),
        ("by", "group"),
        ("by", "order"),
        ("by", "partition"),
        ("sets", "grouping"),
        ("set", "update"),
        ("varying", "character"),
        ("varying", "char"),
        ("varying", "nchar"),
        ("varying", "bit"),
        ("zone", "time"),
        ("bernoulli", "tablesample"),
        ("system", "tablesample"),
    }
)

# Kinds of parentheses, remembered until the next token has been judged.
_OTHER = 0
_CALL = 1
_FROM_ITEM = 2
_ROW = 3
_PREFIX = 4  # an expression can follow directly: DISTINCT ON (…) f(x)
_CONFLICT = 5
_MERGE_INSERT = 6
_SET_CONFIG = 7


class _Dirty(Exception):
    def __init__(self, reason: str, *, may_prepare: bool = True) -> None:
        super().__init__(reason)
        self.may_prepare = may_prepare


def classify(sql: str, *, also_harmless: frozenset[str] = frozenset()) -> Verdict:
    """Judge the whole text, one statement or several.

    ``also_harmless`` names functions of the user's own, as the catalog spells them, that are to
    be trusted like the built-in ones when called without a schema.
    """
    if len(sql) > MAX_CHARACTERS:
        return _dirty(f"longer than {MAX_CHARACTERS} characters")
    if "\0" in sql:
        return _dirty("contains a NUL character")
    if "pg_temp" in sql.lower():
        return _dirty("mentions pg_temp")
    try:
        texts, kinds = tokenize(sql)
    except Unreadable as error:
        return _dirty(str(error))
    reason = ""
    may_prepare = False
    start = 0
    length = len(texts)
    while start < length:
        try:
            end = texts.index(";", start)
            while kinds[end] != PUNCTUATION:
                end = texts.index(";", end + 1)
        except ValueError:
            end = length
        if end > start:
            try:
                _Statement(texts[start:end], kinds[start:end], also_harmless).judge()
            except _Dirty as dirty:
                reason = reason or str(dirty)
                may_prepare = may_prepare or dirty.may_prepare
        start = end + 1
    return _dirty(reason, may_prepare=may_prepare) if reason else CLEAN


def _dirty(reason: str, *, may_prepare: bool = True) -> Verdict:
    return Verdict(clean=False, reason=reason, may_prepare=may_prepare)


class _Statement:
    """One statement; its methods raise _Dirty or return."""

    __slots__ = ("also_harmless", "create_index", "kinds", "texts", "verb", "with_depths")

    def __init__(self, texts: list[str], kinds: list[int], also_harmless: frozenset[str]) -> None:
        self.texts = texts
        self.kinds = kinds
        self.also_harmless = also_harmless
        self.verb = ""
        self.create_index = False
        # Depths at which a WITH list is being read: names there are CTEs.
        self.with_depths: set[int] = set()

    def word(self, i: int) -> str:
        """The unquoted word at ``i``, or nothing."""
        return self.texts[i] if 0 <= i < len(self.texts) and self.kinds[i] == WORD else ""

    def is_punctuation(self, i: int, text: str) -> bool:
        return 0 <= i < len(self.texts) and self.kinds[i] == PUNCTUATION and self.texts[i] == text

    def judge(self) -> None:
        verb = self.verb = self.word(0)
        if verb in _QUERIES or verb in _WRITES or verb == "copy":
            self.scan(0)
        elif self.is_punctuation(0, "("):
            self.query_at(0)
        elif verb in _WITHOUT_EXPRESSIONS:
            if self.word(1) == "prepared":
                raise _Dirty(f"{verb.upper()} PREPARED acts on another session's transaction")
        elif verb == "explain":
            self.query_at(self.after_explain())
        elif verb == "set":
            self.judge_set()
        elif verb == "create":
            self.judge_create()
        elif verb == "alter" and self.word(1) in ("table", "index"):
            self.scan(2)
        elif verb in _STATE_ONLY:
            raise _Dirty(f"{verb.upper()} acts on the session", may_prepare=False)
        else:
            raise _Dirty(f"{verb.upper() or 'what it starts with'} is not known to be harmless")

    def query_at(self, start: int) -> None:
        """Judge what must be a query or a data-modifying statement, possibly parenthesized."""
        first = start
        while self.is_punctuation(first, "("):
            first += 1
        verb = self.word(first)
        if verb not in _QUERIES and (verb not in _WRITES or first > start):
            raise _Dirty(f"{verb.upper() or 'what it starts with'} is not known to be harmless")
        self.verb = verb
        self.scan(start)

    def after_explain(self) -> int:
        i = 1
        if self.is_punctuation(1, "(") and not (
            self.is_punctuation(2, "(") or self.word(2) in _QUERIES
        ):
            while i < len(self.texts) and not self.is_punctuation(i, ")"):
                i += 1
            return i + 1
        while self.word(i) in ("analyze", "analyse", "verbose"):
            i += 1
        return i

    def judge_set(self) -> None:
        """SET LOCAL, SET TRANSACTION and SET CONSTRAINTS end with the transaction."""
        # SET local.x = 1 is a session-wide setting of somebody's own.
        scoped = self.word(1) in ("local", "transaction", "constraints")
        if not scoped or (not self.word(2) and self.kinds[2:3] != [QUOTED]) or self.word(2) == "to":
            raise _Dirty("SET changes a setting of the session", may_prepare=False)

    def judge_create(self) -> None:
        i = 1
        if self.word(1) in ("unlogged", "unique"):
            i = 2
        kind = self.word(i)
        if kind not in ("table", "index"):
            raise _Dirty(f"CREATE {kind.upper()} is not known to be harmless")
        self.create_index = kind == "index"
        self.scan(i)

    def scan(self, start: int) -> None:
        """Walk the tokens and account for every parenthesis and every INTO."""
        texts, kinds = self.texts, self.kinds
        stack: list[tuple[int, int]] = []
        closed = _OTHER
        for i in range(start, len(texts)):
            text = texts[i]
            kind = kinds[i]
            if kind == PUNCTUATION:
                if text == "(":
                    stack.append((self.parenthesis(i, len(stack), closed), i))
                elif text == ")":
                    if not stack:
                        raise _Dirty("parentheses do not match")
                    self.with_depths.discard(len(stack))
                    closed, opened = stack.pop()
                    if closed >= _CONFLICT:
                        closed = self.close(closed, opened, i)
            elif kind == WORD:
                if text == "with":
                    if i == start or self.is_punctuation(i - 1, "("):
                        self.with_depths.add(len(stack))
                elif text in _QUERIES or text in _WRITES:
                    if self.word(i + 1) == "into" and not (
                        text in ("insert", "merge") and self.starts_statement(i, start, len(stack))
                    ):
                        raise _Dirty("SELECT INTO can create a temporary table")
                    self.with_depths.discard(len(stack))
                elif text == "into" and self.word(i - 1) not in ("insert", "merge"):
                    raise _Dirty("SELECT INTO can create a temporary table")
                elif text == "execute" and self.verb == "create":
                    raise _Dirty("EXECUTE runs what was prepared")
        if stack:
            raise _Dirty("parentheses do not match")

    def starts_statement(self, i: int, start: int, depth: int) -> bool:
        return i == start or self.is_punctuation(i - 1, "(") or depth in self.with_depths

    def close(self, kind: int, opened: int, i: int) -> int:
        """Parentheses whose meaning shows only at their end."""
        following = self.word(i + 1)
        if kind == _CONFLICT and following != "do":
            raise _Dirty("calls conflict(), which is not known to be harmless")
        if kind == _MERGE_INSERT and following not in ("values", "overriding"):
            raise _Dirty("calls insert(), which is not known to be harmless")
        if kind == _SET_CONFIG:
            depth = commas = 0
            for j in range(opened + 1, i):
                if self.kinds[j] == PUNCTUATION:
                    text = self.texts[j]
                    depth += (text in "([") - (text in ")]")
                    commas += text == "," and depth == 0
            if commas != 2 or self.word(i - 1) != "true" or not self.is_punctuation(i - 2, ","):
                raise _Dirty("set_config() changes a setting of the session", may_prepare=False)
            return _CALL
        return _OTHER

    def parenthesis(self, i: int, depth: int, closed: int) -> int:
        """Say what the parenthesis at ``i`` opens; ``closed`` is the kind that ended last."""
        before = i - 1
        kind = self.kinds[before] if before >= 0 else PUNCTUATION
        if kind in (PUNCTUATION, LITERAL):
            if self.is_punctuation(before, ","):
                if closed == _ROW and self.is_punctuation(i - 2, ")"):
                    return _ROW
                return _FROM_ITEM
            return _FROM_ITEM if self.is_punctuation(before, "(") else _OTHER
        name = self.texts[before]
        if self.is_punctuation(i - 2, "."):
            return self.qualified(i, depth)
        previous = self.word(i - 2)
        if kind == WORD and name in _NEVER_FUNCTIONS:
            if name in _BEFORE_FROM_ITEM:
                return _FROM_ITEM
            if name == "values":
                return _ROW
            if name == "with" or (name == "on" and previous == "distinct"):
                return _PREFIX
            return _CALL if name == "group" and previous == "within" else _OTHER
        if self.is_structure(i, previous, depth):
            return _OTHER
        after_closed = self.is_punctuation(i - 2, ")")
        if after_closed and closed in (_CALL, _FROM_ITEM):
            if kind == WORD and name == "filter":
                return _CALL
            return _OTHER  # an alias with its columns, or OVER
        if kind == WORD:
            special = self.keyword(name, previous, i, closed)
            if special is not None:
                return special
        if name in HARMLESS_FUNCTIONS or name in self.also_harmless:
            return _CALL
        if name == "set_config":
            return _SET_CONFIG
        raise _calls(name)

    def is_structure(self, i: int, previous: str, depth: int) -> bool:
        """True when the name before ``i`` is a type, a relation, an alias or a CTE."""
        if previous == "as" or previous in _BEFORE_RELATION or self.is_punctuation(i - 2, "::"):
            return True
        if depth in self.with_depths:
            return previous in ("with", "recursive") or self.is_punctuation(i - 2, ",")
        if self.create_index and depth == 0:
            return previous in ("on", "only", "using") or self.texts[i - 1] == "include"
        return self.verb == "copy" and i in (1, 2)

    def keyword(self, name: str, previous: str, i: int, closed: int) -> int | None:
        """Kind of the parenthesis after a word that is also allowed as a function name."""
        if (name, previous) in _PAIRS:
            return _OTHER
        if name == "join" and (previous in _JOIN_WORDS or self.is_operand(i - 2, closed)):
            return _FROM_ITEM
        if name in ("ilike", "set") and self.is_operand(i - 2, closed):
            return _OTHER
        if name == "materialized" and previous == "not" and self.word(i - 3) == "as":
            return _OTHER
        if name in ("rollup", "cube") and previous == "by" and self.word(i - 3) == "group":
            return _OTHER
        if name == "conflict" and previous == "on":
            rows = closed == _ROW and self.is_punctuation(i - 3, ")")
            return _OTHER if rows else _CONFLICT
        if name == "insert" and previous == "then":
            return _MERGE_INSERT
        return None

    def is_operand(self, i: int, closed: int) -> bool:
        """True when the token at ``i`` surely ends an expression or a name.

        No expression follows another one directly, so a word after an operand is no function.
        """
        kind = self.kinds[i] if i >= 0 else PUNCTUATION
        if kind == WORD:
            word = self.texts[i]
            return word not in KEYWORDS or word in _COLUMN_NAMES or self.is_punctuation(i - 1, ".")
        if kind == PUNCTUATION:
            return self.texts[i] == "]" or (self.texts[i] == ")" and closed != _PREFIX)
        return True

    def qualified(self, i: int, depth: int) -> int:
        """A dotted name before the parenthesis at ``i``."""
        first = i - 1
        while self.is_punctuation(first - 1, ".") and self.kinds[first - 2] in (WORD, QUOTED):
            first -= 2
            if first < 1:
                break
        name = self.texts[i - 1]
        if not self.is_punctuation(first - 1, "."):
            previous = self.word(first - 1)
            if previous in _BEFORE_RELATION or self.is_punctuation(first - 1, "::"):
                return _OTHER
            if self.create_index and depth == 0 and previous in ("on", "only"):
                return _OTHER
            if self.verb == "copy" and first == 1:
                return _OTHER
            if first == i - 3 and self.texts[first] == "pg_catalog":
                if name in HARMLESS_FUNCTIONS:
                    return _CALL
                if name == "set_config":
                    return _SET_CONFIG
        raise _calls(name)


def _calls(name: str) -> _Dirty:
    opaque = not name.startswith(_SESSION_FUNCTIONS)
    return _Dirty(f"calls {name}(), which is not known to be harmless", may_prepare=opaque)
