"""The shape of a successful answer."""

import json

import pytest

from poolkeeper.server.neon.response import Field, StatementResult, encode_batch, encode_result

ID = Field("id", 23, 16384, 1, 4, -1)
NAME = Field("name", 25, 16384, 2, -1, -1)


def encoded(result, **mode):
    return json.loads(encode_result(result, **({"raw_text": True, "array_mode": True} | mode)))


RESULT = StatementResult((ID, NAME), [("1", "ann"), ("2", None)], "SELECT 2")


def test_an_answer_has_exactly_the_fields_neons_clients_read():
    """Names and order are the protocol's."""
    assert encoded(RESULT) == {
        "fields": [
            {
                "name": "id",
                "dataTypeID": 23,
                "tableID": 16384,
                "columnID": 1,
                "dataTypeSize": 4,
                "dataTypeModifier": -1,
                "format": "text",
            },
            {
                "name": "name",
                "dataTypeID": 25,
                "tableID": 16384,
                "columnID": 2,
                "dataTypeSize": -1,
                "dataTypeModifier": -1,
                "format": "text",
            },
        ],
        "rows": [["1", "ann"], ["2", None]],
        "command": "SELECT",
        "rowCount": 2,
        "rowAsArray": True,
    }


def test_modes_choose_between_text_and_values_and_between_arrays_and_objects():
    """All four combinations."""
    assert encoded(RESULT, raw_text=False)["rows"] == [[1, "ann"], [2, None]]
    assert encoded(RESULT, array_mode=False)["rows"][0] == {"id": "1", "name": "ann"}
    both = encoded(RESULT, raw_text=False, array_mode=False)
    assert both["rows"] == [{"id": 1, "name": "ann"}, {"id": 2, "name": None}]
    assert both["rowAsArray"] is False


@pytest.mark.parametrize("raw_text", [True, False])
def test_of_two_columns_with_one_name_an_object_keeps_the_last(raw_text):
    """As the client does with arrays; arrays keep both."""
    result = StatementResult((ID, ID), [("1", "2")], "SELECT 1")
    row = encoded(result, raw_text=raw_text, array_mode=False)["rows"][0]
    assert list(map(int, row.values())) == [2]
    assert len(encoded(result, raw_text=raw_text)["rows"][0]) == 2


@pytest.mark.parametrize(
    ("tag", "command", "count"),
    [
        ("SELECT 3", "SELECT", 3),
        ("INSERT 0 5", "INSERT", 5),
        ("DELETE 0", "DELETE", 0),
        ("CREATE TABLE", "CREATE", None),
        ("BEGIN", "BEGIN", None),
        ("", "", None),
    ],
)
def test_command_and_count_come_from_the_tag(tag, command, count):
    """A statement without a count has null."""
    answer = encoded(StatementResult((), [], tag))
    assert (answer["command"], answer["rowCount"]) == (command, count)
    assert (answer["fields"], answer["rows"]) == ([], [])


def test_a_batch_wraps_its_results():
    """Also when there are none."""
    assert json.loads(encode_batch([])) == {"results": []}
    one = encode_result(RESULT, raw_text=True, array_mode=True)
    assert json.loads(encode_batch([one, one]))["results"] == [json.loads(one)] * 2


@pytest.mark.parametrize("count", [0, 1, 16, 17, 1000, 1001, 2500])
@pytest.mark.parametrize("array_mode", [True, False])
def test_results_of_any_length_are_encoded_alike(count, array_mode):
    """Long ones go in portions."""
    field = Field("a", 25, 0, 0, -1, -1)
    rows = [(str(number),) for number in range(count)]
    result = StatementResult((field,), rows, f"SELECT {count}")
    decoded = json.loads(encode_result(result, raw_text=True, array_mode=array_mode))
    assert decoded["rows"] == [list(row) if array_mode else {"a": row[0]} for row in rows]
