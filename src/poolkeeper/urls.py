"""Database URLs: which driver they name, what is wrong with them, and how to show them safely."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import unquote, unquote_plus

from poolkeeper.exceptions import PoolConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

MASK: Final = "***"

Driver = Literal["asyncpg", "psycopg"]

_DRIVERS: Final[dict[str, Driver]] = {
    "postgres": "asyncpg",
    "postgresql": "asyncpg",
    "postgresql+asyncpg": "asyncpg",
    "postgresql+psycopg": "psycopg",
}
_EXAMPLE: Final = "postgresql://user:password@localhost:5432/app"

# libpq's connection parameters that may be shown when they follow a secret; anything else after a
# secret could be part of it
_PLAIN_PARAMETER: Final = (
    r"(?:host|hostaddr|port|dbname|database|user|sslmode|sslrootcert|sslcert|sslkey|application_name"
    r"|connect_timeout|target_session_attrs|load_balance_hosts|channel_binding|gssencmode|krbsrvname"
    r"|client_encoding|keepalives(?:_\w+)?|tcp_user_timeout)"
)
_HIDDEN_PARAMETER: Final = r"\w*(?:pass(?:word|wd|phrase)?|pwd|secret|token)"
_HIDDEN_KEYWORD: Final = re.compile(rf"(?:^|\s){_HIDDEN_PARAMETER}\s*=\s*", re.IGNORECASE)
_KEYWORD_VALUE: Final = re.compile(r"'(?:\\.|[^'\\])*'|(?:\\.|[^\s\\'])+", re.DOTALL)
_PLAIN_KEYWORDS: Final = re.compile(
    rf"(?:\s+{_PLAIN_PARAMETER}\s*=\s*(?:'[\w ,./-]*'|[\w,./-]*))*\s*", re.ASCII
)
_PLAIN_QUERY: Final = re.compile(rf"(?:&{_PLAIN_PARAMETER}=[\w,./%-]*)+", re.ASCII)
_QUERY_PARAMETER: Final = re.compile(r"[?&;]([^=&?;/@]*)=")
_SCHEME: Final = re.compile(r"[A-Za-z][\w+.-]*://")
# [::1]:5432,db.example:5433/app?sslmode=require
_HOST: Final = r"(?:\[[^\]/?#@]*\]|[^:/?#,@\[\]]*)(?::\d*)?"
_HOSTS_AND_REST: Final = re.compile(rf"{_HOST}(?:,{_HOST})*(?:[/?#].*)?", re.DOTALL)
_BAD_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


def mask_url(url: str) -> str:
    """Return the URL or keyword/value DSN with every password replaced by ``***``.

    Works on what people really type, not only on valid URLs: where it is not certain which part is
    the password (an unescaped ``@``, ``/`` or ``&`` in it), more is masked rather than less. A URL
    without a password comes back unchanged.
    """
    scheme = _SCHEME.search(url)
    keyword = _HIDDEN_KEYWORD.search(url)
    if keyword and not (scheme and scheme.start() < keyword.start()):
        return _mask_keywords(url, keyword)
    if scheme:
        return url[: scheme.end()] + _mask_after_scheme(url[scheme.end() :])
    if re.match(r"\s*\w+\s*=", url):
        return url
    return _mask_after_scheme(url)


def _mask_keywords(dsn: str, secret: re.Match[str]) -> str:
    """``host=h password=… user=u``: keep what follows only if it cannot belong to the secret."""
    value = _KEYWORD_VALUE.match(dsn, secret.end())
    end = value.end() if value else secret.end()
    rest = dsn[end:]
    return dsn[: secret.end()] + MASK + (rest if _PLAIN_KEYWORDS.fullmatch(rest) else "")


def _mask_after_scheme(text: str) -> str:
    """``user:password@hosts/database?query``, with or without each part."""
    query = next(_secret_parameters(text), None)
    head_end = query.start() if query else len(text)
    tail = _masked_parameters(text, query) if query else ""
    colon = re.search(r":|%3[aA]", text[:head_end])
    if colon is None:
        return text[:head_end] + tail
    at = text.rfind("@")
    if colon.end() <= at < head_end:
        return f"{text[: colon.end()]}{MASK}{text[at:head_end]}{tail}"
    hosts = text[at + 1 : head_end] if at < head_end else ""
    # an "@" inside the secret parameter may as well end a password that began at the colon
    if at < head_end and _HOSTS_AND_REST.fullmatch(hosts):
        return text[:head_end] + tail
    return f"{text[: colon.end()]}{MASK}{tail}"


def _secret_parameters(text: str) -> Iterator[re.Match[str]]:
    for parameter in _QUERY_PARAMETER.finditer(text):
        if re.fullmatch(_HIDDEN_PARAMETER, unquote_plus(parameter[1]).strip(), re.IGNORECASE):
            yield parameter


def _masked_parameters(text: str, secret: re.Match[str]) -> str:
    value_end = text.find("&", secret.end())
    rest = text[value_end:] if value_end >= 0 else ""
    return secret[0] + MASK + (rest if _PLAIN_QUERY.fullmatch(rest) else "")


def redact(text: str, *secrets: str | None) -> str:
    """Remove known secrets from a text, such as a driver's error message.

    Each secret is a password or a database URL, whose passwords are then meant. They are found raw,
    percent-encoded (wholly or in part) and with backslash escapes. A secret of fewer than four
    characters is replaced only where it stands alone: replacing each of its letters would both
    destroy the text and give the secret away.
    """
    for pattern in _patterns(secrets):
        text = pattern.sub(MASK, text)
    return text


@lru_cache(maxsize=64)
def _patterns(secrets: tuple[str | None, ...]) -> list[re.Pattern[str]]:
    """What to look for, longest first. Every text of every event comes by, with the same few."""
    passwords = {p for secret in secrets if secret for p in _passwords_of(secret) if p}
    patterns = []
    for password in sorted(passwords, key=len, reverse=True):
        pattern = "".join(_spellings(character) for character in password)
        if len(password) < 4:
            pattern = rf"(?<!\w){pattern}(?!\w)"
        patterns.append(re.compile(pattern))
    return patterns


def _passwords_of(secret: str) -> Iterator[str]:
    scheme = _SCHEME.match(secret)
    if scheme is None or scheme[0].rstrip(":/").lower() not in _DRIVERS:
        yield secret
        return
    rest = secret[scheme.end() :]
    values = [rest[parameter.end() :] for parameter in _secret_parameters(rest)]
    found = [*values, *(value.partition("&")[0] for value in values)]
    # drivers disagree about which "@" ends a password: the first, the last before "/", the last
    _, _, after = rest.partition(":")
    found += [after[: at.start()] for at in re.finditer("@", after)]
    for raw in found:
        yield raw
        yield unquote(raw)


def _spellings(character: str) -> str:
    """A pattern for the ways one character of a password may be written."""
    encoded = "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))
    # encoded first: a password that ends in a raw "%" must take the whole of "%25" with it
    spellings = [f"(?i:{encoded})", re.escape(character)]
    if character == " ":
        spellings.append(r"\+")
    if character in "\\'\"":
        spellings.insert(0, r"\\" + re.escape(character))
    return f"(?:{'|'.join(spellings)})"


def split_url(url: str) -> tuple[Driver, str]:
    """Return the driver a URL names and the URL as that driver wants it (no ``+driver`` suffix).

    ``postgres://``, ``postgresql://`` and ``postgresql+asyncpg://`` mean asyncpg,
    ``postgresql+psycopg://`` means psycopg 3. Host and database must be named, several hosts are
    written ``host1:5432,host2:5432``.

    Raises:
        PoolConfigurationError: The URL cannot be used; says why, and shows it masked.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or not re.fullmatch(r"[A-Za-z][\w+.-]*", scheme):
        if re.match(r"\s*\w+\s*=", url):
            raise _refusal(url, "is a keyword/value DSN", f"write it as a URL: {_EXAMPLE}")
        raise _refusal(url, "is not a URL", f"write it as {_EXAMPLE}")
    driver = _DRIVERS.get(scheme.lower())
    if driver is None:
        raise _refusal(url, _scheme_problem(scheme), f"use {' or '.join(_DRIVERS)}")
    _check_after_scheme(url, rest)
    return driver, f"{scheme.partition('+')[0].lower()}://{rest}"


_ONLY_LIBPQ: Final = re.compile(
    r"connect_timeout|keepalives(?:_\w+)?|tcp_user_timeout|channel_binding|gssencmode|gssdelegation"
    r"|gsslib|sslnegotiation|sslcompression|sslsni|sslcertmode|sslcrldir|sslkeylogfile|requiressl"
    r"|requirepeer|require_auth|(?:min|max)_protocol_version|load_balance_hosts"
    r"|fallback_application_name|client_encoding|scram_\w+|oauth_\w+|authtype|tty"
)


def for_asyncpg(
    url: str | None, connect_kwargs: Mapping[str, Any]
) -> tuple[str | None, dict[str, Any]]:
    """The same place for asyncpg, whichever driver a URL and its arguments were meant for.

    What only libpq knows of is left out: asyncpg would take it for a setting of the server.
    """
    given = dict(connect_kwargs)
    if url is None:
        return None, given
    name, url = split_url(url)
    if name == "asyncpg":
        return url, given
    place, _, query = url.partition("?")
    host = place.partition("://")[2].partition("/")[0].rpartition("@")[2]
    kept = []
    for part in query.split("&"):
        parameter, _, value = part.partition("=")
        parameter = unquote(parameter)
        if parameter == "hostaddr" and not host:
            # Without a name the address is all there is.
            parameter = "host"
        if parameter not in {"", "hostaddr"} and not _ONLY_LIBPQ.fullmatch(parameter):
            kept.append(f"{parameter}={value}")
    kwargs = {
        _ASYNCPG_NAMES.get(key, key): value for key, value in given.items() if key in _FOR_BOTH
    }
    return f"{place}{'?' if kept else ''}{'&'.join(kept)}", kwargs


_ASYNCPG_NAMES: Final = {"dbname": "database"}
_FOR_BOTH: Final = frozenset(
    {"host", "port", "user", "password", "dbname", "database", "passfile", "server_settings"}
)


def _scheme_problem(scheme: str) -> str:
    dialect, _, driver = scheme.lower().partition("+")
    if dialect in {"postgresql", "postgres"} and driver:
        return f"names the driver {driver!r}, which poolkeeper does not use"
    return f"has the scheme {scheme!r}, which is not PostgreSQL's"


def _check_after_scheme(url: str, rest: str) -> None:
    if re.search(r"\s", rest):
        raise _refusal(url, "contains white space", "write a space as %20 and remove line breaks")
    if _BAD_PERCENT.search(rest):
        raise _refusal(
            url, "has a % that is not followed by two hexadecimal digits", "write % itself as %25"
        )
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    path, _, query = rest[len(authority) :].partition("?")
    userinfo, at, hosts = authority.rpartition("@")
    # "@" is harmless in a query, not before it
    if "@" in userinfo or "@" in path or "#" in rest or (not at and "@" in query and ":" in rest):
        raise _refusal(
            url,
            "has an unescaped @, /, ? or #, perhaps in its password",
            "percent-encode them: @ is %40, / is %2F, ? is %3F, # is %23",
        )
    parameters = {unquote(part.partition("=")[0]) for part in query.split("&")}
    if "service" in parameters:
        return
    _check_hosts(url, hosts, in_query=not parameters.isdisjoint({"host", "hostaddr"}))
    if not path.strip("/") and parameters.isdisjoint({"dbname", "database"}):
        raise _refusal(url, "names no database", f"add its name after the host: {_EXAMPLE}")


def _check_hosts(url: str, hosts: str, *, in_query: bool) -> None:
    if not hosts and in_query:
        return
    for host in hosts.split(","):
        match = re.fullmatch(r"(\[[^\]]+\]|[^:\[\]]*)(?::([^:]*))?", host)
        if match is None:
            raise _refusal(
                url, "has a host that cannot be read", "write an IPv6 address in brackets: [::1]"
            )
        name, port = match.groups()
        if not name:
            raise _refusal(
                url,
                "names no host",
                f"name one, as in {_EXAMPLE}, or a socket directory: "
                "postgresql://user@/app?host=/var/run/postgresql",
            )
        if port is not None and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise _refusal(
                url, "has a port that is not a number from 1 to 65535", "5432 is PostgreSQL's own"
            )


def _refusal(url: str, problem: str, suggestion: str) -> PoolConfigurationError:
    masked = mask_url(url)
    return PoolConfigurationError(
        f"The database URL {masked!r} {problem}. Suggestion: {suggestion}.",
        option="database_url",
        value=masked,
    )
