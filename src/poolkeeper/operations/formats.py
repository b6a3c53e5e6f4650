"""Formats and compressions of files, and what their names tell of them."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMATS: Final = ("csv", "ndjson", "parquet")
COMPRESSIONS: Final = ("none", "gzip", "zstd")

FORMAT_OF: Final[Mapping[str, str]] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
    ".txt": "csv",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".parquet": "parquet",
    ".pq": "parquet",
}
COMPRESSION_OF: Final[Mapping[str, str]] = {
    ".gz": "gzip",
    ".gzip": "gzip",
    ".zst": "zstd",
    ".zstd": "zstd",
}
SUFFIX_OF: Final[Mapping[str, str]] = {"none": "", "gzip": ".gz", "zstd": ".zst"}
"""What the name of a compressed file is to end with."""
TAB_SEPARATED: Final = frozenset({".tsv", ".tab"})


class Told(NamedTuple):
    """What the name of a file tells; None where it does not.

    Attributes:
        suffix: Its ending without that of a compression, in small letters; ``""`` if it has none.
        format: ``csv``, ``ndjson`` or ``parquet``.
        compression: ``gzip`` or ``zstd``.
        delimiter: Of CSV.
    """

    suffix: str
    format: str | None
    compression: str | None
    delimiter: str | None


def told_by(name: str) -> Told:
    """What a file of that name, or path, should be."""
    suffixes = [suffix.lower() for suffix in PurePath(name).suffixes]
    compression = COMPRESSION_OF.get(suffixes[-1]) if suffixes else None
    if compression is not None:
        suffixes.pop()
    suffix = suffixes[-1] if suffixes else ""
    delimiter = "\t" if suffix in TAB_SEPARATED else None
    return Told(suffix, FORMAT_OF.get(suffix), compression, delimiter)
