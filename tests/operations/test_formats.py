"""What the name of a file tells, for load as for export."""

import pytest

from poolkeeper.operations.formats import COMPRESSION_OF, SUFFIX_OF, told_by


@pytest.mark.parametrize(
    ("name", "format_", "compression", "delimiter"),
    [
        ("a.csv", "csv", None, None),
        ("a.TSV", "csv", None, "\t"),
        ("a.tab.gzip", "csv", "gzip", "\t"),
        ("/data/a.b.jsonl.gz", "ndjson", "gzip", None),
        ("a.ndjson.zstd", "ndjson", "zstd", None),
        ("a.pq", "parquet", None, None),
        ("a.gz", None, "gzip", None),
        ("a.xml.zst", None, "zstd", None),
        ("a", None, None, None),
        ("", None, None, None),
        (".csv", None, None, None),
    ],
)
def test_a_name_tells_format_compression_and_delimiter(name, format_, compression, delimiter):
    told = told_by(name)
    assert (told.format, told.compression, told.delimiter) == (format_, compression, delimiter)


def test_a_suffix_that_is_given_to_a_file_is_told_by_it():
    for compression, suffix in SUFFIX_OF.items():
        assert COMPRESSION_OF.get(suffix, "none") == compression
