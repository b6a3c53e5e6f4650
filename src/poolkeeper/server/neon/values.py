"""Values between JSON and PostgreSQL's text format, in both directions."""

from __future__ import annotations

import functools
import json
from json.encoder import encode_basestring
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable


class NumberText(str):
    """A JSON number as the client wrote it, so that no digit is lost on the way to PostgreSQL."""

    __slots__ = ()


# OIDs are part of PostgreSQL's wire contract and never change for built-in types.
_BOOL = 16
_INTEGERS = frozenset({21, 23})
_FLOATS = frozenset({700, 701})
_NOT_NUMBERS = frozenset({"NaN", "Infinity", "-Infinity"})
_JSON = frozenset({114, 3802})

# Built-in array types whose elements are not plain strings, with their element type.
_ELEMENT_TYPES = {1000: 16, 1005: 21, 1007: 23, 1021: 700, 1022: 701, 199: 114, 3807: 3802}
_BOX_ARRAY = 1020
# Every other built-in type with the input function array_in.
_STRING_ARRAYS = frozenset(
    {143, 271, 629, 651, 719, 775, 791, 1001, 1002, 1003, 1006, 1008, 1009, 1010, 1011, 1012}
    | {1013, 1014, 1015, 1016, 1017, 1018, 1019, _BOX_ARRAY, 1027, 1028, 1034, 1040, 1041}
    | {1115, 1182, 1183, 1185, 1187, 1231, 1263, 1270, 1561, 1563, 2201, 2207, 2208, 2209}
    | {
        2210,
        2211,
        2287,
        2949,
        2951,
        3221,
        3643,
        3644,
        3645,
        3735,
        3770,
        3905,
        3907,
        3909,
        3911,
        3913,
    }
    | {3927, 4073, 4090, 4097, 4192, 5039, 6150, 6151, 6152, 6153, 6155, 6157}
)


def parameter_text(value: object) -> str | None:
    """The text PostgreSQL gets for one entry of ``params``; None is NULL.

    Strings pass verbatim, arrays become array literals, everything else its JSON text.
    """
    if value is None or type(value) is str:
        return value
    if isinstance(value, list):
        return array_literal(value)
    return json_text(value)


def array_literal(items: list[object]) -> str:
    """Write a JSON array as PostgreSQL's array literal; objects in it become JSON strings."""
    return "{" + ",".join(map(_array_element, items)) + "}"


def _array_element(value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return array_literal(value)
    if type(value) is str:
        return _quoted(value)
    if isinstance(value, dict):
        return _quoted(json_text(value))
    return json_text(value)


def _quoted(text: str) -> str:
    # Only these two have a meaning inside an array's quotes; JSON's \n would arrive as "n".
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def json_text(value: object) -> str:
    """Write parsed JSON back as text, numbers digit for digit as they came."""
    if isinstance(value, NumberText):
        return str(value)
    if isinstance(value, dict):
        pairs = (f"{encode_basestring(k)}:{json_text(v)}" for k, v in value.items())
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(json_text, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def json_fragment(text: str, type_oid: int) -> str:
    """The JSON of one cell for callers that did not ask for raw text.

    bool, int2, int4, floats and JSON documents become themselves, built-in arrays become JSON
    arrays (without their bounds), all else stays PostgreSQL's text: int8 and numeric because
    JSON numbers would lose digits. Arrays of types made by the user arrive as their text.
    """
    if type_oid in _STRING_ARRAYS:
        delimiter = ";" if type_oid == _BOX_ARRAY else ","
        return _array_fragment(parse_array(text, delimiter), 0)
    element = _ELEMENT_TYPES.get(type_oid)
    if element is not None:
        return _array_fragment(parse_array(text), element)
    return _scalar_fragment(text, type_oid)


def fragment_encoder(type_oid: int) -> Callable[[str], str]:
    """What `json_fragment` does for cells of one type, chosen once for many of them."""
    if type_oid in _INTEGERS or type_oid in _JSON:
        return str
    if type_oid in _STRING_ARRAYS or type_oid in _ELEMENT_TYPES or type_oid in _FLOATS:
        return functools.partial(json_fragment, type_oid=type_oid)
    if type_oid == _BOOL:
        return _bool_fragment
    return encode_basestring


def _bool_fragment(text: str) -> str:
    return "true" if text == "t" else "false"


def _scalar_fragment(text: str, type_oid: int) -> str:
    if type_oid == _BOOL:
        return _bool_fragment(text)
    # What PostgreSQL prints for these is JSON already; parsing it could only lose digits.
    if type_oid in _INTEGERS or type_oid in _JSON:
        return text
    if type_oid in _FLOATS and text not in _NOT_NUMBERS:
        return text
    return encode_basestring(text)


def _array_fragment(item: ArrayItem, element: int) -> str:
    if item is None:
        return "null"
    if isinstance(item, list):
        return "[" + ",".join([_array_fragment(part, element) for part in item]) + "]"
    return _scalar_fragment(item, element)


ArrayItem: TypeAlias = "str | list[ArrayItem] | None"


def parse_array(text: str, delimiter: str = ",") -> list[ArrayItem]:
    """Read PostgreSQL's array output; ``[2:3]={…}`` bounds are dropped.

    Raises:
        ValueError: The text is not the output of an array type.
    """
    start = text.find("={") + 1 if text.startswith("[") else 0
    if not text.startswith("{", start):
        raise ValueError(f"not an array: {text[:40]!r}")
    root: list[ArrayItem] = []
    open_arrays = [root]
    position, end = start + 1, len(text)
    while position < end:
        char = text[position]
        if char == "{":
            inner: list[ArrayItem] = []
            open_arrays[-1].append(inner)
            open_arrays.append(inner)
            position += 1
        elif char == "}":
            open_arrays.pop()
            position += 1
            if not open_arrays:
                break
        elif char == delimiter:
            position += 1
        else:
            read = _read_quoted if char == '"' else _read_bare
            item, position = read(text, position, delimiter)
            open_arrays[-1].append(item)
    if open_arrays or position != end:
        raise ValueError(f"array ends at the wrong place: {text[-40:]!r}")
    return root


def _read_quoted(text: str, position: int, _delimiter: str) -> tuple[str, int]:
    parts = []
    position += 1
    while True:
        close = text.index('"', position)
        escape = text.find("\\", position, close)
        if escape < 0:
            parts.append(text[position:close])
            return "".join(parts), close + 1
        parts.append(text[position:escape] + text[escape + 1])
        position = escape + 2


def _read_bare(text: str, position: int, delimiter: str) -> tuple[str | None, int]:
    begin = position
    while text[position] != delimiter and text[position] != "}":
        position += 1
        if position == len(text):
            raise ValueError(f"array is not closed: {text[-40:]!r}")
    item = text[begin:position]
    # A string that spells null is always quoted by PostgreSQL.
    return (None if item == "NULL" else item), position
