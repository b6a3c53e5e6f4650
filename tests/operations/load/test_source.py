"""What a file is, by name, by content, by what the user says."""

import gzip

import pytest

from poolkeeper.operations.load.encodings import POSTGRES, TRAIL_BYTES_BELOW_0X80, encoding_of
from poolkeeper.operations.load.errors import SourceError
from poolkeeper.operations.load.source import Source


def detect(tmp_path, name, data=b"a\n", **options):
    path = tmp_path / name
    path.write_bytes(data)
    source = Source.detect(str(path), options)
    return source.format, source.compression


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("x.csv", b"a", ("csv", "none")),
        ("X.CSV", b"a", ("csv", "none")),
        ("x.tsv", b"a", ("csv", "none")),
        ("x.tab.gz", gzip.compress(b"a\tb", mtime=0), ("csv", "gzip")),
        ("x.txt", b"", ("csv", "none")),
        ("x.2024.jsonl", b"{}", ("ndjson", "none")),
        ("x.ndjson.gz", gzip.compress(b"{}", mtime=0), ("ndjson", "gzip")),
        ("x.csv", gzip.compress(b"a", mtime=0), ("csv", "gzip")),
    ],
)
def test_name_and_content_tell(tmp_path, name, data, expected):
    """What the content says of compression counts more than the name."""
    assert detect(tmp_path, name, data) == expected


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x", b"a,b\n", "has no ending.*--format csv"),
        ("x.dat", b"a,b\n", "ends in '.dat'"),
        ("x.csv", b"PK\x03\x04", "zip archive"),
        ("x.csv.bz2", b"BZh91", "bzip2"),
        ("x.dump", b"PGDMP", "pg_restore"),
        ("x.csv.gz", b"a,b\n", "is no gzip file"),
        ("x.parquet.gz", gzip.compress(b"PAR1", mtime=0), "compressed Parquet"),
    ],
)
def test_what_cannot_be_told_is_asked_for(tmp_path, name, data, message):
    """And what another tool reads is named."""
    with pytest.raises(SourceError, match=message):
        detect(tmp_path, name, data)


def test_what_the_user_says_counts(tmp_path):
    """Whatever the name is."""
    assert detect(tmp_path, "x.csv", format="ndjson") == ("ndjson", "none")
    assert detect(tmp_path, "x", gzip.compress(b"a"), format="csv") == ("csv", "gzip")


@pytest.mark.parametrize("name", ["x.tsv", "x.tab"])
def test_options_found_out_find_the_same_again(tmp_path, name):
    """They are kept in the operation, for every later run."""
    path = tmp_path / name
    path.write_bytes("a\tb\r1\t2\r".encode("utf-16"))
    source = Source.detect(str(path), {})
    assert source.line_end == "\r"
    assert source.delimiter == "\t"
    assert Source.detect(str(path), source.options()) == source


@pytest.mark.parametrize(
    ("name", "postgres", "transcoded"),
    [
        (None, "UTF8", None),
        ("utf-8", "UTF8", None),
        ("UTF8", "UTF8", None),
        ("latin1", "LATIN1", None),
        ("ISO-8859-15", "LATIN9", None),
        ("windows-1252", "WIN1252", None),
        ("cp1252", "WIN1252", None),
        ("shift_jis", "SJIS", None),
        ("KOI8-R", "KOI8R", None),
        ("euc-tw", "EUC_TW", None),
        ("utf-16-le", "UTF8", "utf-16-le"),
        ("cp037", "UTF8", "cp037"),
        ("mac-roman", "UTF8", "mac-roman"),
    ],
)
def test_encodings_go_by_the_names_of_postgresql_and_python(name, postgres, transcoded):
    """What PostgreSQL does not know is turned into UTF-8."""
    encoding = encoding_of(name, b"", "x")
    assert (encoding.postgres, encoding.transcode_from) == (postgres, transcoded)


def test_no_encoding_that_passes_through_hides_quotes_or_line_ends():
    """No byte below 0x80 is a part of another character, or at least none below 0x30."""
    everything = "".join(map(chr, [*range(0x80, 0xD800), *range(0xE000, 0x30000)]))
    for name, codec in POSTGRES.items():
        if codec is None:
            continue
        # by themselves these two stand for a yen sign and an overline
        found = set(everything.encode(codec, errors="ignore")) - {0x5C, 0x7E}
        assert min(found, default=0x80) >= (0x30 if name in TRAIL_BYTES_BELOW_0X80 else 0x80), name


def test_escape_that_may_be_half_a_character_is_refused(tmp_path):
    """A backslash is one in Shift JIS."""
    with pytest.raises(SourceError, match=r"second byte.*iconv -f cp932 -t utf-8"):
        detect(tmp_path, "x.csv", encoding="SJIS", escape="\\")
    assert detect(tmp_path, "x.csv", encoding="SJIS") == ("csv", "none")
