"""How rows become bytes: by a COPY in the format asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# COPY quotes a value that contains the quote, the delimiter or a line break. JSON contains none of
# these control characters, so that nothing is quoted and each object stands on a line as it is.
_JSON_OPTIONS = {"quote": "\x01", "delimiter": "\x02"}

_PLAIN_JSON = frozenset(
    {"bool", "bpchar", "bytea", "char", "cidr", "date", "float4", "float8", "inet", "int2", "int4"}
    | {"int8", "interval", "jsonb", "macaddr", "money", "name", "numeric", "oid", "text", "time"}
    | {"timestamp", "timestamptz", "timetz", "uuid", "varchar"}
)
"""Types whose JSON has no line break in it; `json` keeps those it was written with."""


def rows_of(select: str, spec: Mapping[str, Any]) -> str:
    """The SELECT whose rows COPY is to bring for an export of the rows of ``select``."""
    if spec["format"] != "ndjson":
        return select
    # with the asterisk, for a column may be called j as well
    row = "row_to_json(j.*)"
    if not all(column["type"] in _PLAIN_JSON for column in spec["described"]):
        # in JSON, a line break as such only stands between tokens
        row = f"translate({row}::text, E'\\n\\r', '  ')"
    return f"SELECT {row} FROM ({select}) AS j"


def copy_options(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Options of COPY, by asyncpg's names."""
    options: dict[str, Any] = {"format": "csv", "encoding": "UTF8"}
    if spec["format"] == "ndjson":
        return options | _JSON_OPTIONS
    if spec["format"] == "csv":
        options |= {name: spec[name] for name in ("delimiter", "null", "quote")}
    return options
