"""What clients may send to POST /sql."""

import json

import pytest
from starlette.datastructures import Headers

from poolkeeper.server.neon.request import BadRequestError, Query, parse_request


def parse(body, **headers):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse_request(raw, Headers({k.replace("_", "-"): v for k, v in headers.items()}))


def parameters(*params):
    [query] = parse({"query": "select", "params": list(params)}).queries
    return query.params


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (None, None),
        ("1", b"1"),
        ("", b""),
        ("größe", "größe".encode()),
        (42, b"42"),
        (-1.5, b"-1.5"),
        (True, b"true"),
        ({"a": [1, None, "x"]}, b'{"a":[1,null,"x"]}'),
        ([], b"{}"),
        ([1, 2, 3], b"{1,2,3}"),
        ([[1], [None]], b"{{1},{NULL}}"),
        (["a", 'q"u', "back\\slash", "null", ""], b'{"a","q\\"u","back\\\\slash","null",""}'),
        (["line\nbreak"], b'{"line\nbreak"}'),
        ([{"foo": 1}], b'{"{\\"foo\\":1}"}'),
        ([True, None], b"{true,NULL}"),
    ],
)
def test_values_become_postgresql_text(value, sent):
    """Strings verbatim, arrays as array literals, everything else as its JSON text."""
    assert parameters(value) == (sent,)


def test_numbers_keep_every_digit():
    """A number travels as it was written; a float in between would round it."""
    text = b'{"query": "", "params": [12345678901234567890123.4500, 1e400, {"n": 0.10}, [1.0]]}'
    [query] = parse(text).queries
    assert query.params == (b"12345678901234567890123.4500", b"1e400", b'{"n":0.10}', b"{1.0}")


def test_params_may_be_missing():
    """The statement then has none."""
    assert parse({"query": "select 1"}).queries == (Query(b"select 1", (), array_mode=False),)


def test_headers_choose_the_form_of_the_answer_and_the_body_overrides_array_mode():
    """Anything but the literal true is false."""
    request = parse({"query": "x"}, neon_array_mode="true", neon_raw_text_output="true")
    assert (request.raw_text, request.queries[0].array_mode) == (True, True)
    request = parse({"query": "x", "arrayMode": False}, neon_array_mode="true")
    assert request.queries[0].array_mode is False
    request = parse({"query": "x"}, neon_array_mode="TRUE", neon_raw_text_output="1")
    assert (request.raw_text, request.queries[0].array_mode) == (False, False)


def test_batches_carry_their_transaction_options():
    """Options are headers; each entry may choose its own array mode."""
    request = parse(
        {"queries": [{"query": "a", "params": [1]}, {"query": "b", "arrayMode": True}]},
        neon_batch_isolation_level="RepeatableRead",
        neon_batch_read_only="true",
        neon_batch_deferrable="true",
    )
    assert request.is_batch
    assert [query.sql for query in request.queries] == [b"a", b"b"]
    assert [query.array_mode for query in request.queries] == [False, True]
    assert request.isolation_level == "REPEATABLE READ"
    assert (request.read_only, request.deferrable) == (True, True)


def test_an_empty_batch_is_legal():
    """Clients send it, and expect an empty list of results."""
    assert parse({"queries": []}).queries == ()


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (b"", "", "not JSON"),
        (b"{", "", "not JSON"),
        (b"\xff\xfe", "", "not JSON"),
        (b'{"query": NaN}', "", "NaN"),
        (b"[" * 100_000, "", "too deeply"),
        (b"[]", "", "not a JSON object"),
        (b"{}", "", "neither `query`"),
        (b'{"query": 1}', "", "not a string"),
        (b'{"query": "a", "params": {}}', "", "not a list"),
        (b'{"queries": "a"}', "", "neither `query`"),
        (b'{"queries": ["a"]}', "", "Entry 1"),
        (b'{"queries": [{"query": "a"}, {"query": null}]}', "", "entry 2"),
        (b'{"query": "a\\u0000b"}', "22021", "zero character"),
        (b'{"query": "a", "params": ["x\\u0000"]}', "22021", "parameter $1"),
        (b'{"query": "a", "params": ["\\ud800"]}', "22021", "surrogate"),
    ],
)
def test_what_cannot_be_understood_is_refused_with_a_suggestion(body, code, words):
    """Nothing is guessed, nothing is sent to PostgreSQL."""
    with pytest.raises(BadRequestError) as refusal:
        parse(body)
    assert words in str(refusal.value)
    assert "Suggestion: " in str(refusal.value)
    assert refusal.value.code == code


def test_too_many_parameters_are_refused_before_they_reach_the_driver():
    """The wire protocol counts them in 16 bits."""
    assert len(parameters(*range(65535))) == 65535
    with pytest.raises(BadRequestError, match="65536 entries") as refusal:
        parameters(*range(65536))
    assert refusal.value.code == "54023"


def test_an_unknown_isolation_level_is_refused():
    """It names the levels there are."""
    with pytest.raises(BadRequestError, match="Serializable"):
        parse({"queries": []}, neon_batch_isolation_level="serializable")


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("commit", "COMMIT"),
        (" ;; -- a\n/* b /* c */ */ CoMMit and chain", "COMMIT"),
        ("begin isolation level serializable", "BEGIN"),
        ("start transaction", "START"),
        ("end", "END"),
        ("abort;", "ABORT"),
        ("rollback", "ROLLBACK"),
        ("rollback /* to */ work", "ROLLBACK"),
        ("commit /* nested /* */ */", "COMMIT"),
        ("prepare transaction 'to'", "PREPARE TRANSACTION"),
        ("rollback to s", None),
        ("rollback work to savepoint s", None),
        ("prepare p as select 1", None),
        ("savepoint commit", None),
        ("release s", None),
        ("/* commit */ select 'commit'", None),
        ("/* never closed", None),
        ("", None),
    ],
)
def test_a_batch_may_not_control_its_transaction(sql, words):
    """However it is written; a statement by itself may."""
    body = {"queries": [{"query": "select 1"}, {"query": sql}]}
    assert len(parse({"query": sql}).queries) == 1
    if words is None:
        assert len(parse(body).queries) == 2
    else:
        with pytest.raises(BadRequestError, match=f"Entry 2 of `queries` is {words},") as refusal:
            parse(body)
        assert refusal.value.code == "2D000"
