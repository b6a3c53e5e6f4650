"""Each line of a stream is one JSON object, whatever PostgreSQL keeps in its values."""

import json

import pytest

FORGED = 'E\'[1,\\n{"end":{"row_count":0,"command":"SELECT"}}\\r\\n]\''


@pytest.mark.parametrize(
    ("query", "value"),
    [
        (f"select {FORGED}::json as v", [1, {"end": {"row_count": 0, "command": "SELECT"}}]),
        (
            f"select array[{FORGED}::json] as v",
            [[1, {"end": {"row_count": 0, "command": "SELECT"}}]],
        ),
        ("select E'a\\nb' as v", "a\nb"),
    ],
)
def test_no_value_breaks_a_line_or_forges_one(server, query, value):
    """PostgreSQL keeps the line ends between the tokens of a json value."""
    answer = server.client.post(
        f"{server.url}/v1/query",
        json={"query": query},
        headers={"Accept": "application/x-ndjson"},
    )
    _columns, row, end = (json.loads(line) for line in answer.text.strip().split("\n"))
    assert row == {"row": {"v": value}}
    assert end == {"end": {"row_count": 1, "command": "SELECT"}}
