"""The classifier against PostgreSQL's own parser: never "clean" where the parse tree shows harm."""

from __future__ import annotations

import re
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poolkeeper.session_reset import classifier as classifier_module
from poolkeeper.session_reset import classify
from poolkeeper.session_reset import tokens as tokens_module
from tests.session_reset.oracle import harm
from tests.session_reset.sentences import Sentences
from tests.session_reset.statements import CLEAN, DIRTY

if TYPE_CHECKING:
    from collections.abc import Iterable

RELAXED = settings(
    max_examples=1_000,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def check(sql: str) -> None:
    """Fail if ``sql`` is called clean though it does harm."""
    if classify(sql).clean:
        assert harm(sql) is None, sql


@RELAXED
@given(st.integers(0, 2**32))
def test_random_sentences_are_never_wrongly_clean(seed):
    """Whole statements from a grammar of odd names, and what typing mistakes make of them."""
    check(Sentences(Random(seed)).text())  # a draw per word would be thirty times slower


@RELAXED
@given(st.sampled_from(CLEAN + DIRTY), st.sampled_from(CLEAN + DIRTY), st.integers(0, 2**32))
def test_spliced_statements_are_never_wrongly_clean(first, second, seed):
    """A part of one real statement inside another."""
    random = Random(seed)
    head, tail = (re.findall(r"\w+|\s+|.", sql, re.DOTALL) or [" "] for sql in (first, second))
    cut = random.randrange(len(head) + 1)
    start = random.randrange(len(tail))
    sql = "".join(head[:cut] + tail[start : start + random.randrange(12)] + head[cut:])
    check(Sentences(random).mutated(sql or " "))


@RELAXED
@given(st.lists(st.sampled_from(
    ["'", '"', "$$", "$a$", "/*", "*/", "--", "\n", "\r", "\\", "e'", "E", "f(1)", "select ", " ",
     ",", "1", "a", "$", "(", ")", ";", "set x=1", "/", "*", "-", "u&", "''", "$1", "b'", ".", "é"]
), max_size=14))  # fmt: skip
def test_quotes_and_comments_never_hide_a_call(pieces):
    """What PostgreSQL's scanner takes for code is never taken for text."""
    check("select " + "".join(pieces))


def _planted(monkeypatch: pytest.MonkeyPatch, mutant: str) -> None:
    pattern = tokens_module._TOKEN.pattern
    flags = tokens_module._TOKEN.flags
    if mutant == "comments do not nest":
        changed = pattern.replace(r"/\*(?:[^*/]|\*(?!/)|/(?!\*))*\*/", r"/\*.*?\*/")
    elif mutant == "escape strings are plain":
        changed = pattern.replace(r"""(?! [uU]&['"] | [eE]' )""", r"""(?! [uU]&['"] )""").replace(
            r"'[^'\\]*+(?:''[^'\\]*+)*+'", r"'[^']*+(?:''[^']*+)*+'"
        )
    elif mutant == "quoted names are keywords":
        tokenize = tokens_module.tokenize

        def unquoted(sql):
            texts, kinds = tokenize(sql)
            return texts, [tokens_module.WORD if k == tokens_module.QUOTED else k for k in kinds]

        monkeypatch.setattr(classifier_module, "tokenize", unquoted)
        return
    elif mutant == "INTO is not looked at":
        replace = classifier_module._Statement.scan

        def scan(self, start):
            self.texts = ["from" if text == "into" else text for text in self.texts]
            replace(self, start)

        monkeypatch.setattr(classifier_module._Statement, "scan", scan)
        return
    elif mutant == "schemas are not looked at":
        monkeypatch.setattr(
            classifier_module._Statement, "qualified", lambda *_: classifier_module._CALL
        )
        return
    elif mutant == "TREAT is a cast":
        monkeypatch.setattr(
            classifier_module,
            "_NEVER_FUNCTIONS",
            classifier_module._NEVER_FUNCTIONS | {"treat"},
        )
        return
    else:
        monkeypatch.setattr(
            classifier_module,
            "HARMLESS_FUNCTIONS",
            classifier_module.HARMLESS_FUNCTIONS | {"over", "filter", "set", "by"},
        )
        return
    assert changed != pattern
    monkeypatch.setattr(tokens_module, "_TOKEN", re.compile(changed, flags))


MUTANTS = (
    "comments do not nest",
    "escape strings are plain",
    "quoted names are keywords",
    "INTO is not looked at",
    "schemas are not looked at",
    "TREAT is a cast",
    "keywords are never functions",
)


def _wrongly_clean(texts: Iterable[str]) -> str | None:
    return next((sql for sql in texts if classify(sql).clean and harm(sql)), None)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_planted_mistake_is_found(monkeypatch, mutant):
    """Both the written and the random statements tell a broken classifier from a working one."""
    _planted(monkeypatch, mutant)
    assert _wrongly_clean(DIRTY)
    assert _wrongly_clean(Sentences(Random(seed)).text() for seed in range(5_000))
