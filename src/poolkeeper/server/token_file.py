"""Reads the file that ``--token-file`` names: one ``[[token]]`` table of TOML for each token."""

from __future__ import annotations

import logging
import re
import stat
import tomllib
from typing import TYPE_CHECKING, Any, NoReturn

from poolkeeper.exceptions import PoolConfigurationError
from poolkeeper.server.settings import DEFAULT_BURST, Token

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger("poolkeeper.server")

_HEADER = re.compile(r"^\s*\[\[\s*(?:token|\"token\"|'token')\s*\]\]")
_NAME = re.compile(r"[\w.@:-]{1,64}")
# What a client can send after "Bearer ", and long enough not to be guessed.
_SECRET = re.compile(r"[!-~]{16,}")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")

_EXAMPLE = (
    'write [[token]], name = "…" and secret = "…" for each; `openssl rand -hex 32` makes a secret'
)


def read_tokens(path: Path) -> tuple[Token, ...]:
    """The tokens of a file, at least one. Warns in the log if others may read the file.

    Raises:
        PoolConfigurationError: The file cannot be read or a token in it cannot be used; says in
            which line, and never what the secret is.
    """
    try:
        text = path.read_text(encoding="utf-8")
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        reason = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise _refusal(f"{path} cannot be read: {reason}", "check its name and mode") from error
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _refusal(f"{path} is not TOML: {_without_values(error)}", _EXAMPLE) from error
    tables = document.pop("token", [])
    if not (isinstance(tables, list) and all(isinstance(table, dict) for table in tables)):
        raise _refusal(f"`token` in {path} is not a list of tables", _EXAMPLE)
    if document:
        raise _refusal(f"{path} has the unknown key {next(iter(document))!r}", _EXAMPLE)
    if not tables:
        raise _refusal(f"{path} holds no token", _EXAMPLE)
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        _log.warning(
            "token_file_readable_by_others",
            extra={
                "path": str(path),
                "mode": f"{stat.S_IMODE(mode):04o}",
                "suggestion": "chmod 600",
            },
        )
    lines = [n for n, line in enumerate(text.splitlines(), start=1) if _HEADER.match(line)]
    places = [f"{path}, line {n}" for n in lines] if len(lines) == len(tables) else []
    tokens = [
        _Table(table, places[index] if places else f"{path}, token {index + 1}").token()
        for index, table in enumerate(tables)
    ]
    _refuse_twins(tokens, path)
    return tuple(tokens)


class _Table:
    """One ``[[token]]``; takes its keys out one by one, so that what is left is unknown."""

    def __init__(self, values: dict[str, Any], place: str) -> None:
        self._values = dict(values)
        self._place = place

    def token(self) -> Token:
        name = self._text("name", _NAME, "up to 64 letters, digits and _.@:-")
        if not name:
            self._refuse("has no name", 'add name = "…", which the access log will show')
        secret = self._text("secret", _SECRET, "at least 16 printable ASCII characters, no spaces")
        digest = self._text("secret_sha256", _SHA256, "64 hexadecimal digits")
        if bool(secret) == bool(digest):
            self._refuse(
                "has both secret and secret_sha256" if secret else "has no secret",
                "write one of secret and secret_sha256; `openssl rand -hex 32` makes a secret",
            )
        token = Token(
            name,
            secret,
            digest.lower(),
            admin=self._flag("admin"),
            read_only=self._flag("read_only"),
            max_concurrency=self._count("max_concurrency"),
            rate=self._rate(),
            burst=self._count("burst") or DEFAULT_BURST,
        )
        for key in self._values:
            self._refuse(
                f"has the unknown key {key!r}",
                "use name, secret or secret_sha256, admin, read_only, max_concurrency, rate, burst",
            )
        return token

    def _text(self, key: str, pattern: re.Pattern[str], wanted: str) -> str:
        value = self._values.pop(key, "")
        if value != "" and not (isinstance(value, str) and pattern.fullmatch(value)):
            self._refuse(f"has a {key} that cannot be used", f"give it {wanted}")
        return str(value)

    def _flag(self, key: str) -> bool:
        value = self._values.pop(key, False)
        if not isinstance(value, bool):
            self._refuse(f"has {key} = {value!r}", f"write {key} = true or leave it out")
        return value

    def _count(self, key: str) -> int | None:
        value = self._values.pop(key, None)
        if value is not None and (type(value) is not int or value < 1):
            self._refuse(f"has {key} = {value!r}", f"give {key} a whole number from 1 on")
        return value

    def _rate(self) -> float | None:
        value = self._values.pop("rate", None)
        if value is None:
            return None
        # not (0 < nan): a NaN is refused as well
        if type(value) not in {int, float} or not 0 < value < 1e9:
            self._refuse(f"has rate = {value!r}", "give rate the requests per second, as 50 or 0.5")
        return float(value)

    def _refuse(self, problem: str, suggestion: str) -> NoReturn:
        raise _refusal(f"{self._place}: the token {problem}", suggestion)


def _refuse_twins(tokens: list[Token], path: Path) -> None:
    for what, values in (
        ("name", [token.name for token in tokens]),
        ("secret", [token.digest() for token in tokens]),
    ):
        if len(set(values)) < len(values):
            raise _refusal(
                f"Two tokens in {path} have the same {what}", f"give each its own {what}"
            )


def _without_values(error: tomllib.TOMLDecodeError) -> str:
    """Where it is wrong. The parser's words may quote what is there, which may be a secret."""
    position = re.search(r"\(at (line \d+, column \d+|end of document)\)", str(error))
    return f"it is wrong at {position[1]}" if position else "it cannot be parsed"


def _refusal(problem: str, suggestion: str) -> PoolConfigurationError:
    return PoolConfigurationError(f"{problem}. Suggestion: {suggestion}.", option="token_file")
