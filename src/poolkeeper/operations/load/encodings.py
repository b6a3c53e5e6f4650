"""Which encoding a file has: one that COPY is told of, or one to be turned into UTF-8 first."""

from __future__ import annotations

import codecs
import difflib
from dataclasses import dataclass
from typing import Final

from poolkeeper.operations.load.errors import SourceError

POSTGRES: Final[dict[str, str | None]] = {
    "UTF8": "utf-8",
    "LATIN1": "iso8859-1",
    "LATIN2": "iso8859-2",
    "LATIN3": "iso8859-3",
    "LATIN4": "iso8859-4",
    "LATIN5": "iso8859-9",
    "LATIN6": "iso8859-10",
    "LATIN7": "iso8859-13",
    "LATIN8": "iso8859-14",
    "LATIN9": "iso8859-15",
    "LATIN10": "iso8859-16",
    "ISO_8859_5": "iso8859-5",
    "ISO_8859_6": "iso8859-6",
    "ISO_8859_7": "iso8859-7",
    "ISO_8859_8": "iso8859-8",
    "WIN866": "cp866",
    "WIN874": "cp874",
    "WIN1250": "cp1250",
    "WIN1251": "cp1251",
    "WIN1252": "cp1252",
    "WIN1253": "cp1253",
    "WIN1254": "cp1254",
    "WIN1255": "cp1255",
    "WIN1256": "cp1256",
    "WIN1257": "cp1257",
    "WIN1258": "cp1258",
    "KOI8R": "koi8-r",
    "KOI8U": "koi8-u",
    "EUC_JP": "euc_jp",
    "EUC_JIS_2004": "euc_jis_2004",
    "EUC_CN": "gb2312",
    "EUC_KR": "euc_kr",
    "EUC_TW": None,
    "SJIS": "cp932",
    "SHIFT_JIS_2004": "shift_jis_2004",
    "BIG5": "cp950",
    "GBK": "cp936",
    "UHC": "cp949",
    "GB18030": "gb18030",
    "JOHAB": "johab",
    "SQL_ASCII": "ascii",
}
"""PostgreSQL's encodings, with the codec of Python that is the same. All are supersets of ASCII in
this sense: a byte below 0x30 is that character, never a part of another one."""

TRAIL_BYTES_BELOW_0X80: Final = frozenset(
    {"SJIS", "SHIFT_JIS_2004", "BIG5", "GBK", "UHC", "GB18030", "JOHAB"}
)
"""Here letters and ``\\`` (0x30 and above) can be the second byte of a character."""

_ALIASES: Final = {
    "unicode": "UTF8",
    "iso88591": "LATIN1",
    "windows31j": "SJIS",
    "shiftjis": "SJIS",
    "mskanji": "SJIS",
    "gb2312": "EUC_CN",
    "euccn": "EUC_CN",
    "alt": "WIN866",
    "koi8": "KOI8R",
    "abc": "WIN1258",
    "tcvn": "WIN1258",
    "win": "WIN1251",
}

_BY_NAME: Final = {
    **{name.lower().replace("_", ""): name for name in POSTGRES},
    **{f"windows{name[3:]}": name for name in POSTGRES if name.startswith("WIN")},
    **_ALIASES,
}
_BY_CODEC: Final = {codec: name for name, codec in POSTGRES.items() if codec is not None}

_MARKS: Final = (
    # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the text of a file becomes that of the database.

    Attributes:
        name: For people and for the spec of an operation.
        postgres: The ENCODING of COPY.
        transcode_from: The codec to decode with first, if PostgreSQL does not know the encoding.
        codec: The codec of what the reader hands out; None: Python has none.
    """

    name: str
    postgres: str
    transcode_from: str | None
    codec: str | None


def encoding_of(name: str | None, head: bytes, path: str) -> Encoding:
    """The encoding of a file, by its name if given, else by its byte order mark, else UTF-8.

    Args:
        name: As PostgreSQL or Python call it.
        head: The first bytes of the decompressed file.
        path: For the error.

    Raises:
        SourceError: Nobody knows that name.
    """
    if name is None:
        for mark, codec in _MARKS:
            if head.startswith(mark):
                return Encoding(codec, "UTF8", codec, "utf-8")
        return Encoding("UTF8", "UTF8", None, "utf-8")
    plain = name.lower().replace("-", "").replace("_", "").replace(" ", "")
    postgres = _BY_NAME.get(plain)
    if postgres is None:
        codec = _codec_named(name, path)
        postgres = _BY_CODEC.get(codec)
        if postgres is None:
            # every other codec is decoded here; what it makes of it is UTF-8
            return Encoding(codec, "UTF8", codec, "utf-8")
    return Encoding(postgres, postgres, None, POSTGRES[postgres])


def _codec_named(name: str, path: str) -> str:
    try:
        found = codecs.lookup(name)
    except (LookupError, ValueError):
        found = None
    # Some codecs (base64, rot13) are not encodings of text.
    if found is None or not getattr(found, "_is_text_encoding", True):
        known = [*POSTGRES, "utf-16", "utf-32"]
        close = difflib.get_close_matches(name.upper(), known, n=3)
        advice = f"did you mean {' or '.join(close)}?" if close else "UTF8 and LATIN1 are common."
        raise SourceError(
            f"The encoding {name!r} of {path} is known to neither PostgreSQL nor Python. "
            f"Suggestion: {advice}",
            path=path,
        )
    return "utf-8" if found.name == "utf-8-sig" else found.name


def check_special_bytes(encoding: Encoding, special: dict[str, str], path: str) -> None:
    """See that quotes can be told from parts of characters without decoding the file.

    Raises:
        SourceError: They cannot.
    """
    if encoding.postgres not in TRAIL_BYTES_BELOW_0X80:
        return
    for option, value in special.items():
        if ord(value) >= 0x30:
            raise SourceError(
                f"In {encoding.name}, {value!r} ({option}) can be the second byte of a character, "
                f"so the records of {path} cannot be told apart. Suggestion: convert the file "
                f"first: iconv -f {encoding.codec} -t utf-8.",
                path=path,
            )
