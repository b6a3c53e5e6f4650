"""What the classifier calls clean, and what it never does."""

from __future__ import annotations

import random

import pytest

from poolkeeper.session_reset import StatementClassifier, classify
from poolkeeper.session_reset.classifier import MAX_CHARACTERS
from tests.session_reset.oracle import harm
from tests.session_reset.statements import CLEAN, DIRTY


@pytest.mark.parametrize("sql", CLEAN)
def test_ordinary_statement_costs_no_cleaning(sql):
    """People, SQLAlchemy and Django write these all day."""
    assert classify(sql).reason == ""
    assert classify(sql).clean


@pytest.mark.parametrize("sql", DIRTY)
def test_statement_that_can_leave_something_is_dirty_and_says_why(sql):
    """Each of these leaves session state behind or hides whether it does."""
    verdict = classify(sql)
    assert not verdict.clean
    assert verdict.reason


@pytest.mark.parametrize("sql", CLEAN)
def test_ordinary_statements_are_harmless_to_postgresqls_own_parser(sql):
    """The list above holds no mistake of ours."""
    assert harm(sql) is None


def test_reason_never_repeats_a_literal():
    """Reasons go to logs; literals can be secrets."""
    for sql in ("SELECT f('hunter2')", "SET x = 'hunter2'", "SELECT 'hunter2\\'", "'hunter2"):
        assert "hunter2" not in classify(sql).reason


@pytest.mark.parametrize(
    "sql", ["PREPARE p AS SELECT 1", "DO $$x$$", "CALL p()", "SELECT f()", "SELECT 1; DO 'x'", "?"]
)
def test_prepare_is_suspected_wherever_code_can_run(sql):
    """PL/pgSQL can EXECUTE 'PREPARE …', so unknown code may have."""
    assert classify(sql).may_prepare


@pytest.mark.parametrize(
    "sql",
    ["SET x = 1", "LISTEN x", "SELECT pg_advisory_lock(1)", "SELECT set_config('a', 'b', false)"],
)
def test_prepare_is_not_suspected_of_built_in_session_commands(sql):
    """The usual reasons for cleaning do not pay for the rarest one."""
    assert not classify(sql).may_prepare


def test_one_harmful_statement_makes_the_whole_text_dirty():
    """Position does not matter, and PREPARE is not forgotten behind an earlier reason."""
    verdict = classify("SELECT 1; SET x = 1; PREPARE p AS SELECT 1; SELECT 2")
    assert not verdict.clean
    assert verdict.may_prepare


def test_function_declared_harmless_by_the_user_is_trusted_without_a_schema():
    """Only the name as the catalog spells it, and only unqualified."""
    trusted = frozenset({"uuid_generate_v4"})
    assert not classify("SELECT uuid_generate_v4()").clean
    assert classify("SELECT UUID_generate_v4()", also_harmless=trusted).clean
    assert not classify('SELECT "UUID_generate_v4"()', also_harmless=trusted).clean
    assert not classify("SELECT s.uuid_generate_v4()", also_harmless=trusted).clean
    assert StatementClassifier(also_harmless=trusted).verdict("SELECT uuid_generate_v4()").clean


def test_text_too_long_to_be_worth_reading_is_dirty():
    """Cleaning costs less than blocking the loop over a megabyte of literals."""
    assert classify("SELECT 1".ljust(MAX_CHARACTERS)).clean
    assert not classify("SELECT 1".ljust(MAX_CHARACTERS + 1)).clean


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM t WHERE a = %s AND b IN (%s, %s) AND c LIKE 'x%%'",
        "INSERT INTO t (a, b) VALUES (%(a)s, %(b)s) ON CONFLICT (a) DO UPDATE SET b = %(b)s",
        "SELECT * FROM unnest(%s::int[], %b) AS u(a, b) LIMIT %t",
    ],
)
def test_psycopgs_placeholders_are_understood(sql):
    """What the caller writes is judged, before psycopg turns %s into $1."""
    assert classify(sql).clean


@pytest.mark.parametrize("sql", ["SELECT f(%s)", "SELECT %sf(1)", "SELECT %(lower)s(1), f(%s)"])
def test_psycopgs_placeholders_hide_no_call(sql):
    """A placeholder is no part of the name beside it."""
    assert not classify(sql).clean


@pytest.mark.parametrize("unit", ["'", "$a$", "/*", '"', "(", "--", "$", "E'", "a", "1.", ";"])
def test_hostile_text_does_not_stall_the_reader(unit):
    """No text makes the reading explode; with exponential work this test would not end."""
    classify(unit * (MAX_CHARACTERS // len(unit)))


class TestMemory:
    def test_repeated_text_is_one_membership_test(self):
        """The pool asks `sql in clean` and nothing else."""
        classifier = StatementClassifier()
        assert "SELECT 1" not in classifier.clean
        assert classifier.verdict("SELECT 1").clean
        assert "SELECT 1" in classifier.clean

    def test_dirty_text_is_never_found_among_the_clean(self):
        """Asking twice does not launder it, and the second answer comes from memory."""
        classifier = StatementClassifier()
        first = classifier.verdict("SET x = 1")
        assert classifier.verdict("SET x = 1") is first
        assert "SET x = 1" not in classifier.clean

    def test_oldest_texts_go_when_there_are_too_many(self):
        """Texts with literals of their own do not fill the memory."""
        classifier = StatementClassifier(max_entries=10)
        for number in range(25):
            classifier.verdict(f"SELECT {number}")
        assert list(classifier.clean) == [f"SELECT {number}" for number in range(15, 25)]

    def test_characters_are_bounded_too(self):
        """A few huge texts count like many small ones."""
        classifier = StatementClassifier(max_characters=1_000)
        for number in range(50):
            classifier.verdict(f"SELECT {number}, '{'x' * 100}'")
        assert 0 < sum(map(len, classifier.clean)) <= 1_000

    def test_very_long_text_is_not_remembered(self):
        """One-off bulk inserts leave no trace, and a repeated one stays dirty."""
        classifier = StatementClassifier()
        text = f"SELECT '{'x' * MAX_CHARACTERS}'"
        assert not classifier.verdict(text).clean
        assert not classifier.verdict(text).clean
        assert text not in classifier.clean

    def test_verdict_from_memory_equals_a_fresh_one(self):
        """Whatever the order and the evictions."""
        classifier = StatementClassifier(max_entries=7)
        shuffled = random.Random(4).choices(CLEAN + DIRTY, k=1_000)
        for sql in shuffled:
            assert classifier.verdict(sql) == classify(sql)
            if sql in classifier.clean:
                assert classify(sql).clean
