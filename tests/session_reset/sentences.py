# ruff: noqa: E501, SIM905 - SQL reads better unbroken
"""Random SQL that PostgreSQL mostly parses, full of what makes reading it hard.

Every keyword that may name something does so here: columns called ``insert``, functions called
``over``, tables called ``temp``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pglast import keywords

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

COLUMN_WORDS = sorted(keywords.UNRESERVED_KEYWORDS | keywords.COL_NAME_KEYWORDS)
FUNCTION_WORDS = sorted(keywords.UNRESERVED_KEYWORDS | keywords.TYPE_FUNC_NAME_KEYWORDS)
TRICKY = (
    "insert merge over filter by set join conflict key zone varying materialized rollup cube sets "
    "range rows include into_ execute with_ values_ local transaction temp temporary recursive "
    "prepare within partition update do copy explain"
).split()
HARMFUL = ["f", "set_config", "pg_advisory_lock", '"SELECT"', '"in"', '"Now"', "ünder", "setseed"]
HARMLESS = ["now", "lower", "count", "coalesce", '"lower"', "pg_catalog.lower", "left", "NOW"]
QUALIFIED = [
    "s.f",
    "s.lower",
    "pg_catalog.pg_advisory_lock",
    "pg_catalog.s.lower",
    '"s".in',
    "s.set",
]
OPERATORS = [
    "+",
    "-",
    "*",
    "/",
    "||",
    "->>",
    "@>",
    "=",
    "<>",
    "<",
    "?",
    "&&",
    "@@",
    "and",
    "or",
    "like",
    "ilike",
    "not ilike",
    "similar to",
    "is distinct from",
    "operator(pg_catalog.+)",
    "overlaps",
    "at time zone",
    "#>",
    "-/**/-",
    "~~",
    'collate "C" ||',
]
TYPES = ["int", "text", "numeric(10,2)", "varchar(5)", "timestamp(3) with time zone",
         "double precision", "character varying(3)", "int[]", "bit varying(4)", "interval(2)"]  # fmt: skip
LITERALS = ["1", "2.5", "1e3", "$1", "null", "true", "'x'", "'it''s f(1)'", "e'a\\'b'", "$$;set$$",
            "$q$ f( $$ $q$", "b'1'", "interval '1 day'", "array[1,2]", "'; set x=1; --'",
            "n'x'"]  # fmt: skip


# A scanner that gets one quote wrong takes the call for text, or the text for a call.
HIDING_PLACES = [
    ", '\\', f(1) --'",
    ", e'\\'', f(1) --'",
    "/* /* */ ' */ , f(1) --'",
    "/*/ ' */ , f(1) --'",
    "-- '\r , f(1) --'",
    ", $a$ $$ ' $a$, f(1) --'",
    ", a$$, f(1) --$$",
    ', "a""\'", f(1) --\'',
    ", 'a'\n'\\', f(1) --'",
]


class Sentences:
    """Builds statements from ``random``; ``fuel`` bounds the depth."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.fuel = random.choice((4, 8, 12))
        # One piece of harm among harmless ones is what a hasty reader overlooks.
        self.harm = random.choice((0.02, 0.1, 0.2, 0.4))
        self.oddness = random.choice((0.02, 0.2, 0.6))

    def one(self, *choices: str | Callable[[], str]) -> str:
        choice = self.random.choice(choices)
        return choice if isinstance(choice, str) else choice()

    def maybe(self, part: Callable[[], str] | str, chance: float = 0.3) -> str:
        if self.random.random() > chance:
            return ""
        return part if isinstance(part, str) else part()

    def many(self, part: Callable[[], str], most: int = 3) -> str:
        return ", ".join(part() for _ in range(self.random.randint(1, most)))

    def name(self) -> str:
        if self.random.random() > self.oddness:
            return self.one("a", "b", "t", "x")
        return self.one('"Q"', '"in"', "é", lambda: self.random.choice(TRICKY),
                        lambda: self.random.choice(COLUMN_WORDS))  # fmt: skip

    def names(self) -> str:
        return self.many(self.name)

    def relation(self) -> str:
        return self.one(self.name, lambda: f"s.{self.name()}", self.name)

    def call(self) -> str:
        names = HARMLESS
        if self.random.random() < self.harm:
            names = self.random.choice((HARMFUL, QUALIFIED, FUNCTION_WORDS, TRICKY))
        name = self.random.choice(names)
        arguments = self.one("", "*", lambda: self.many(self.expression, 2),
                             lambda: f"x => {self.expression()}",
                             lambda: f"'a', {self.expression()}, true")  # fmt: skip
        return (
            f"{name}({arguments})"
            + self.maybe(lambda: f" filter (where {self.expression()})", 0.1)
            + self.maybe(lambda: f" over ({self.window()})", 0.1)
        )

    def window(self) -> str:
        return (
            self.maybe(lambda: f"partition by {self.expression()} ")
            + self.maybe(lambda: f"order by {self.expression()} ")
            + self.maybe(lambda: f"rows {self.expression()} preceding", 0.1)
        )

    def expression(self) -> str:
        self.fuel -= 1
        if self.fuel < 0:
            return self.one("a", "1", "$1", self.name)
        return self.one(
            self.name,
            lambda: self.random.choice(LITERALS),
            self.call,
            self.call,
            lambda: f"({self.expression()})",
            lambda: f"{self.expression()} {self.random.choice(OPERATORS)} {self.expression()}",
            lambda: f"{self.expression()}::{self.random.choice(TYPES)}",
            lambda: f"cast({self.expression()} as {self.random.choice(TYPES)})",
            lambda: f"({self.query()})",
            lambda: f"exists ({self.query()})",
            lambda: f"a in ({self.many(self.expression)})",
            lambda: f"a = any ({self.expression()})",
            lambda: (
                f"case when {self.expression()} then {self.expression()} else {self.expression()} end"
            ),
            lambda: f"case {self.name()} when 1 then {self.call()} end",
            lambda: f"coalesce({self.many(self.expression)})",
            lambda: f"row({self.many(self.expression)})",
            lambda: f"array({self.query()})",
            lambda: f"extract(epoch from {self.expression()})",
            lambda: f"substring({self.expression()} from {self.expression()} for 1)",
            lambda: f"trim(both {self.expression()} from {self.expression()})",
            lambda: self.maybe(f"treat({self.expression()} as f)", self.harm) or "1",
            lambda: f"not {self.expression()}",
            lambda: f"({self.expression()}).{self.name()}",
            lambda: f"a[{self.expression()}:{self.expression()}]",
            lambda: f"{self.name()}.{self.name()}",
            lambda: f"x between {self.expression()} and {self.expression()}",
            lambda: f"json_object('a' : {self.expression()})",
            lambda: f"xmlelement(name foo, {self.expression()})",
            lambda: f"percentile_cont(0.5) within group (order by {self.expression()})",
            lambda: f"current_timestamp(3) || {self.expression()}",
            lambda: f"grouping({self.expression()})",
            lambda: f"{self.random.choice(TYPES)} 'x'",
        )

    def from_item(self) -> str:
        self.fuel -= 1
        if self.fuel < 0:
            return "t"
        alias = self.one("", lambda: f" as {self.name()}", lambda: f" {self.name()}",
                         lambda: f" as {self.name()}({self.names()})",
                         lambda: f" {self.name()}({self.names()})", " x(a)", " t (a int, b numeric(3,1))")  # fmt: skip
        return self.one(
            lambda: self.relation() + alias,
            lambda: self.call() + alias,
            lambda: f"({self.query()}){alias}",
            lambda: f"lateral ({self.query()}){alias}",
            lambda: f"lateral {self.call()}{alias}",
            lambda: f"rows from ({self.call()}, {self.call()}){alias}",
            lambda: f"only ({self.relation()}){alias}",
            lambda: f"{self.from_item()} {self.join()} {self.from_item()} on {self.expression()}",
            lambda: f"{self.from_item()} {self.join()} {self.from_item()} using ({self.names()})",
            lambda: f"({self.from_item()} cross join {self.from_item()}){alias}",
            lambda: f"{self.relation()} tablesample {self.one('system', 'bernoulli', 'f')} (1)",
            lambda: f"(values ({self.many(self.expression)})){alias}",
        )

    def join(self) -> str:
        return self.one("join", "left join", "inner join", "full outer join", "right join")

    def with_list(self) -> str:
        def cte() -> str:
            columns = self.maybe(lambda: f"({self.names()})", 0.5)
            hint = self.one("", " not materialized", " materialized", "")
            body = self.one(self.query, self.insert, self.update)
            return f"{self.name()}{columns} as{hint} ({body})"

        return f"with {self.maybe('recursive ')}{self.many(cte, 2)} "

    def query(self) -> str:
        self.fuel -= 1
        if self.fuel < 0:
            return "select 1"

        def target() -> str:
            return self.expression() + self.one(
                "", "", lambda: f" as {self.name()}", lambda: f" {self.name()}"
            )

        return (
            self.maybe(self.with_list, 0.2)
            + self.one(
                lambda: (
                    "select "
                    + self.maybe(
                        lambda: self.one(
                            "distinct ", "all ", lambda: f"distinct on ({self.names()}) "
                        ),
                        0.2,
                    )
                    + self.many(target)
                    + self.maybe(lambda: self.random.choice(HIDING_PLACES) + "\n", self.harm / 5)
                    + self.maybe(
                        lambda: (
                            f" into {self.one('', 'temp ', 'table ', 'temporary table ', 'unlogged ')}{self.relation()}"
                        ),
                        0.05,
                    )
                    + self.maybe(lambda: f" from {self.many(self.from_item, 2)}", 0.8)
                    + self.maybe(lambda: f" where {self.expression()}")
                    + self.maybe(
                        lambda: (
                            f" group by {self.one(self.names, lambda: f'rollup ({self.names()})', lambda: f'grouping sets (({self.names()}), ())', self.expression)}"
                        ),
                        0.2,
                    )
                    + self.maybe(lambda: f" window {self.name()} as ({self.window()})", 0.1)
                ),
                lambda: f"values ({self.many(self.expression)}), ({self.many(self.expression)})",
                lambda: f"({self.query()}) union all ({self.query()})",
                lambda: f"select {self.call()} except select {self.expression()}",
            )
            + self.maybe(lambda: f" order by {self.expression()}", 0.2)
            + self.maybe(lambda: f" limit {self.expression()}", 0.1)
            + self.maybe(" for update", 0.05)
        )

    def returning(self) -> str:
        return " returning " + self.maybe("with (old as o) ", 0.3) + self.many(self.expression)

    def insert(self) -> str:
        return (
            f"insert into {self.relation()}"
            + self.maybe(lambda: f" as {self.name()}", 0.2)
            + self.maybe(lambda: f" ({self.names()})", 0.5)
            + self.one(
                lambda: f" values ({self.many(self.expression)}), ({self.many(self.expression)})",
                lambda: f" {self.query()}",
                " default values",
            )
            + self.maybe(
                lambda: f" on conflict ({self.one(self.names, self.call)})"
                + self.maybe(lambda: f" where {self.expression()}")
                + self.one(" do nothing",
                           lambda: f" do update set {self.name()} = {self.expression()}"),
            )
            + self.maybe(self.returning, 0.2)
        )  # fmt: skip

    def update(self) -> str:
        return (
            f"update {self.maybe('only ', 0.1)}{self.relation()}{self.maybe(lambda: f' {self.name()}')} set "
            + self.one(lambda: f"{self.name()} = {self.expression()}",
                       lambda: f"({self.names()}) = ({self.query()})")
            + self.maybe(lambda: f" from {self.from_item()}")
            + self.maybe(lambda: f" where {self.expression()}")
            + self.maybe(self.returning, 0.2)
        )  # fmt: skip

    def merge(self) -> str:
        return (
            f"merge into {self.relation()} using {self.from_item()} on {self.expression()}"
            f" when matched then update set a = {self.expression()}"
            f" when not matched then insert ({self.names()}) values ({self.expression()})"
        )

    def schema_change(self) -> str:
        def column() -> str:
            constraint = self.one("", "primary key", lambda: f"default {self.expression()}",
                                  lambda: f"check ({self.expression()})",
                                  lambda: f"references {self.relation()} (a)")  # fmt: skip
            return f"{self.name()} {self.random.choice(TYPES)} {constraint}"

        return self.one(
            lambda: (
                f"create {self.one('', '', 'temp ', 'unlogged ', 'local temporary ')}table {self.maybe('if not exists ')}{self.relation()} ({self.many(column)})"
            ),
            lambda: (
                f"create table {self.relation()} as {self.one(self.query, 'execute p(1)', 'table t')}"
            ),
            lambda: (
                f"create unique index on {self.relation()} using btree ({self.name()}, ({self.expression()})) where {self.expression()}"
            ),
            lambda: (
                f"create index {self.name()} on {self.relation()} ({self.one(self.call, self.name)}) include (a)"
            ),
            lambda: f"alter table {self.relation()} add column {column()}",
            lambda: (
                f"alter table {self.relation()} alter a type numeric(3,1) using {self.expression()}"
            ),
        )

    def other(self) -> str:
        return self.one(
            lambda: f"copy {self.relation()} ({self.names()}) from stdin where {self.expression()}",
            lambda: f"copy ({self.query()}) to stdout with (format csv, header)",
            lambda: (
                f"explain {self.one('', 'analyze ', '(analyze, format json) ')}{self.statement()}"
            ),
            lambda: (
                f"set {self.one('', 'local ', 'transaction ', 'session ', 'local.')}{self.name()} {self.one('=', 'to')} 1"
            ),
            lambda: f"set constraints {self.one('all', self.name)} deferred",
            lambda: (
                f"{self.one('listen', 'unlisten', 'discard', 'reset', 'deallocate', 'close', 'truncate', 'show', 'lock', 'analyze', 'notify')} {self.name()}"
            ),
            lambda: f"prepare {self.name()} as {self.query()}",
            lambda: f"{self.one('do', 'do language sql')} $$f()$$",
            lambda: (
                f"{self.one('commit', 'rollback', 'prepare')} {self.one('', 'prepared ', 'transaction ')}{self.maybe(chr(39) + 'x' + chr(39))}"
            ),
            lambda: f"declare c cursor with hold for {self.query()}",
            lambda: f"drop function {self.relation()}({self.random.choice(TYPES)})",
            lambda: f"create {self.one('', 'temp ')}view {self.relation()} as {self.query()}",
            lambda: f"call {self.call()}",
        )

    def statement(self) -> str:
        return self.one(self.query, self.query, self.insert, self.update, self.merge, self.other,
                        self.schema_change,
                        lambda: f"delete from {self.relation()} using {self.from_item()} where {self.expression()}",
                        lambda: self.with_list() + self.one(self.insert, self.update, self.query, self.merge))  # fmt: skip

    def text(self) -> str:
        """One text as a caller could send it, mutated more often than not."""
        sql = self.statement() + self.maybe(lambda: f"; {self.statement()}", 0.1)
        for _ in range(self.random.choice((0, 0, 1, 1, 2, 4))):
            sql = self.mutated(sql or " ")
        return sql

    def mutated(self, sql: str) -> str:
        pieces = re.findall(r"\w+|\s+|'[^']*'|\"[^\"]*\"|.", sql, re.DOTALL)
        at = self.random.randrange(len(pieces))
        piece = pieces[at]
        match self.random.randrange(9):
            case 0:
                pieces[at] = self.one(" ", "\n", "\t", "--x\n", "/* f( */", "/* /* */ f( */",
                                      "\u00a0", "-- ' \r", "/**/") + piece  # fmt: skip
            case 1:
                pieces[at] = piece.swapcase()
            case 2:
                del pieces[at]
            case 3:
                pieces[at] = self.random.choice(pieces)
            case 4 if piece[0].isalpha():
                pieces[at] = f'"{piece}"'
            case 5:
                pieces[at] += " " + self.one("f(1)", "(", ")", ",", "into temp q", ";", "'", '"',
                                             "\\", "$$", "$a$", "e'", "u&\"f\"(1)", "set", "/*",
                                             "*/", "--", "as", ".", "::", "insert", "with", "on",
                                             "distinct on (a)", "(1)", "pg_temp.x", "\x00")  # fmt: skip
            case 6:
                pieces[at] = self.random.choice(TRICKY)
            case 7 if piece == " ":
                pieces[at] = ""
            case _:
                other = self.random.randrange(len(pieces))
                pieces[at], pieces[other] = pieces[other], pieces[at]
        return "".join(pieces)
