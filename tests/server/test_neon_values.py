"""PostgreSQL's text output as JSON."""

import json

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolkeeper.server.neon.values import array_literal, json_fragment, parse_array

EXAMPLES = [
    ("true", True),
    ("false", False),
    ("12::int2", 12),
    ("-7::int4", -7),
    ("9007199254740993::int8", "9007199254740993"),
    ("1.50::numeric", "1.50"),
    ("0.1::float8", 0.1),
    ("1e300::float8", 1e300),
    ("2.5::float4", 2.5),
    ("'NaN'::float8", "NaN"),
    ("'-Infinity'::float4", "-Infinity"),
    ("""'{"a": [1, "x", null]}'::json""", {"a": [1, "x", None]}),
    ("""'[1, {"b": "\\u00e9"}]'::jsonb""", [1, {"b": "é"}]),
    ("'a\"b\\c'", 'a"b\\c'),
    ("E'tab\\tline\\n'", "tab\tline\n"),
    ("array[1, null, 3]", [1, None, 3]),
    ("array[array[true], array[false]]", [[True], [False]]),
    ("'{}'::int[]", []),
    ("'[2:3]={7,8}'::int[]", [7, 8]),
    ("array[1.5, 'NaN']::float8[]", [1.5, "NaN"]),
    ("array[1]::int8[]", ["1"]),
    ("array['a,b', 'NULL', null, '', 'q\"', '\\', '{}', ' ']", None),
    ("""array['{"a":"}"}']::jsonb[]""", [{"a": "}"}]),
    ("array['(1,1),(0,0)', '(3,3),(2,2)']::box[]", ["(1,1),(0,0)", "(3,3),(2,2)"]),
    ("array['2020-01-01']::date[]", ["2020-01-01"]),
    ("'1 2'::int2vector", "1 2"),
]


@pytest.mark.parametrize(("expression", "expected"), EXAMPLES)
def test_values_of_a_real_server_become_json(postgres, expression, expected):
    """Every kind of type, as PostgreSQL itself prints it."""
    with psycopg.connect(postgres.url) as conn:
        result = conn.pgconn.exec_params(f"select {expression}".encode(), [])
    text = result.get_value(0, 0).decode()
    if expected is None:
        expected = ["a,b", "NULL", None, "", 'q"', "\\", "{}", " "]
    assert json.loads(json_fragment(text, result.ftype(0))) == expected


def test_every_built_in_array_type_of_the_server_is_known(postgres):
    """A type missing in the table would arrive as text instead of an array."""
    with psycopg.connect(postgres.url) as conn:
        rows = conn.execute(
            "select a.oid, a.typname from pg_type a join pg_type e on e.oid = a.typelem"
            " where a.typinput = 'array_in'::regproc and e.typtype <> 'c' and a.oid < 10000"
        ).fetchall()
    unknown = [name for oid, name in rows if not json_fragment("{}", oid).startswith("[")]
    assert unknown == []


def test_json_documents_are_passed_on_digit_for_digit():
    """However deep or precise: they are never parsed here."""
    document = "[" * 5000 + "1e400,0.10" + "]" * 5000
    assert json_fragment(document, 114) == document


elements = st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
arrays = st.lists(elements, min_size=1) | st.lists(st.lists(elements, min_size=1), min_size=1)


@given(arrays)
def test_what_is_written_as_an_array_literal_is_read_back(items):
    """Quotes, commas, braces and backslashes survive both directions."""
    assert parse_array(array_literal(items)) == items


@given(st.lists(st.text(alphabet='ab",{}\\ n\nNUL', max_size=6) | st.none(), min_size=1))
def test_postgresql_reads_the_literal_as_it_was_meant(postgres_server, items):
    """The server's own parser is the judge, and its own output is read back."""
    with psycopg.connect(postgres_server.url) as conn:
        literal = array_literal(items)
        row = conn.execute("select %s::text[], %s::text[]::text", [literal, literal]).fetchone()
    assert row[0] == items
    assert parse_array(row[1]) == items


@pytest.mark.parametrize("text", ["", "1", "{", "{1", "{1}}", '{"a', "[0:1]"])
def test_what_is_no_array_is_refused(text):
    """Rather than half understood."""
    with pytest.raises(ValueError):
        parse_array(text)
