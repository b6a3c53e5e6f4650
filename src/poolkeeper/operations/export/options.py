"""What an export can be asked for, checked without a database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from poolkeeper.operations.export.compression import compressor
from poolkeeper.operations.export.errors import ExportError
from poolkeeper.operations.export.parquet import arrow
from poolkeeper.operations.formats import COMPRESSIONS, FORMATS, SUFFIX_OF, told_by

if TYPE_CHECKING:
    from collections.abc import Mapping

PART_BYTES: Final = 64 * 1024 * 1024
"""Of a part file, before compression."""
PARQUET_PART_BYTES: Final = 256 * 1024 * 1024
"""Of a Parquet part, while it still is CSV: some 64 MiB of Parquet."""

_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "query": (str,),
    "table": (str,),
    "columns": (list, tuple),
    "where": (str,),
    "key": (list, tuple, str),
    "to": (str, Path),
    "format": (str,),
    "compression": (str,),
    "header": (bool,),
    "delimiter": (str,),
    "null": (str,),
    "quote": (str,),
    "overwrite": (bool,),
    "parts": (bool,),
    "part_bytes": (int,),
    "consistent": (bool,),
}
"""Every option; None is the same as leaving it out."""

_CSV_DEFAULTS: Final = {"header": True, "null": "", "quote": '"'}


def normalized(given: Mapping[str, Any]) -> dict[str, Any]:
    """All options, with defaults for what was left out.

    Raises:
        ExportError: They are wrong, or contradict each other.
    """
    asked = {name: value for name, value in given.items() if value is not None}
    _check_types(asked)
    if ("query" in asked) == ("table" in asked):
        raise ExportError(
            "An export is of a query or of a table. Suggestion: give exactly one of 'query' and "
            "'table'."
        )
    if "query" in asked:
        for name in ("columns", "where"):
            if name in asked:
                raise ExportError(
                    f"'{name}' goes with 'table'. Suggestion: put it into the query itself."
                )
    target = _target(asked)
    spec = _format(asked, target)
    _check_csv(asked, spec["format"])
    key = asked.get("key", ())
    return {
        "query": asked["query"].rstrip().rstrip(";") if "query" in asked else None,
        "table": asked.get("table"),
        "columns": list(asked["columns"]) if "columns" in asked else None,
        "where": asked.get("where"),
        "key": [key] if isinstance(key, str) else list(key),
        "to": str(target),
        **spec,
        **{name: asked.get(name, default) for name, default in _CSV_DEFAULTS.items()},
        "overwrite": asked.get("overwrite", False),
        "consistent": asked.get("consistent", False),
    }


def _check_types(asked: Mapping[str, Any]) -> None:
    for name, value in asked.items():
        if name not in _TYPES:
            raise ExportError(
                f"An export has no option {name!r}. Suggestion: use {', '.join(_TYPES)}."
            )
        # True is an int as well
        wrong = not isinstance(value, _TYPES[name]) or (name == "part_bytes" and value is True)
        if wrong:
            expected = " or ".join(kind.__name__ for kind in _TYPES[name])
            raise ExportError(
                f"The option {name!r} is {value!r}. Suggestion: give a value of type {expected}."
            )
    if asked.get("part_bytes", 1) < 1:
        raise ExportError(
            f"part_bytes is {asked['part_bytes']}. Suggestion: give a number of bytes, such as "
            f"{PART_BYTES}."
        )


def _target(asked: Mapping[str, Any]) -> Path:
    if "to" not in asked:
        raise ExportError("It is not said where the export goes. Suggestion: give 'to'.")
    target = Path(asked["to"])
    if not target.is_absolute():
        raise ExportError(
            f"{target} is not an absolute path, and a worker has a working directory of its own. "
            f"Suggestion: give {Path.cwd() / target}.",
            path=target,
        )
    return target


def _format(asked: Mapping[str, Any], target: Path) -> dict[str, Any]:
    guessed = "part_bytes" in asked or target.is_dir() or not target.suffix
    one_file = not asked.get("parts", guessed)
    if one_file and "part_bytes" in asked:
        raise ExportError(
            "part_bytes is given and parts is False. Suggestion: leave out one of them.",
            path=target,
        )
    if one_file and target.is_dir():
        raise ExportError(
            f"{target} is a directory, but parts is False. Suggestion: name a file in it.",
            path=target,
        )
    told = told_by(target.name if one_file else "")
    form = asked.get("format", told.format or "csv")
    compression = asked.get("compression", told.compression)
    for what, value, allowed in (
        ("format", form, FORMATS),
        ("compression", compression or "none", COMPRESSIONS),
    ):
        if value not in allowed:
            raise ExportError(
                f"There is no {what} {value!r}. Suggestion: use {', '.join(allowed)}.", path=target
            )
    if form == "parquet":
        arrow("parquet")
        if told.compression is not None:
            raise ExportError(
                f"{target.name}: a Parquet file is compressed inside. Suggestion: call it "
                f"{target.with_suffix('').name} and give compression={told.compression!r}.",
                path=target,
            )
        suffix = ".parquet"
    else:
        compression = compression or "none"
        compressor(compression)
        suffix = f".{form}{SUFFIX_OF[compression]}"
    default = PARQUET_PART_BYTES if form == "parquet" else PART_BYTES
    return {
        "format": form,
        "compression": compression,
        "delimiter": asked.get("delimiter", told.delimiter or ","),
        "directory": str(target.parent if one_file else target),
        "file": target.name if one_file else None,
        "suffix": suffix,
        "part_bytes": None if one_file else asked.get("part_bytes", default),
    }


def _check_csv(asked: Mapping[str, Any], form: str) -> None:
    if form == "csv":
        return
    for name in ("delimiter", *_CSV_DEFAULTS):
        if name in asked:
            raise ExportError(
                f"'{name}' says how CSV is written, but the format is {form}. Suggestion: leave it "
                "out, or export to CSV."
            )
