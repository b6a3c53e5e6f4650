"""What a database URL points at, as libpq understands it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from psycopg.conninfo import conninfo_to_dict

from poolkeeper.cli.check.findings import Finding, fail
from poolkeeper.exceptions import PoolConfigurationError
from poolkeeper.urls import mask_url, split_url

if TYPE_CHECKING:
    from collections.abc import Mapping

_STEP = "URL"


@dataclass(frozen=True, slots=True)
class Host:
    """One server named by the URL; a name that starts with ``/`` is a directory of sockets."""

    name: str
    port: int

    @property
    def is_socket(self) -> bool:
        """Whether it is reached through the file system."""
        return self.name.startswith("/")

    @property
    def is_address(self) -> bool:
        """Whether there is nothing to look up."""
        try:
            ipaddress.ip_address(self.name)
        except ValueError:
            return False
        return True

    def __str__(self) -> str:
        name = f"[{self.name}]" if ":" in self.name else self.name
        return f"{name}:{self.port}"


@dataclass(frozen=True, slots=True)
class Target:
    """A parsed URL. Its options hold the password: never print them."""

    options: Mapping[str, str]
    hosts: tuple[Host, ...]
    user: str | None
    database: str | None
    sslmode: str

    def options_for(self, host: Host) -> dict[str, str]:
        """The options that reach one host and no other."""
        return {**self.options, "host": host.name, "port": str(host.port)}


def parse_target(url: str) -> tuple[Target, Finding]:
    """Read a URL as the pool does.

    Raises:
        StepFailedError: The pool or libpq cannot work with it.
    """
    masked = mask_url(url)
    try:
        _driver, plain = split_url(url)
        given = {key: str(value) for key, value in conninfo_to_dict(plain).items()}
    except PoolConfigurationError as error:
        summary, _, advice = str(error).partition(" Suggestion: ")
        raise fail(_STEP, summary, advice[:1].upper() + advice[1:]) from error
    except psycopg.ProgrammingError as error:
        # Its words may quote a piece of the password, unless they are about an option's name.
        words = " ".join(str(error).split())
        reason = words if words.startswith("invalid URI query parameter") else "libpq refuses it"
        raise fail(
            _STEP,
            f"{masked} cannot be used: {reason}",
            "After the ? of a URL, use libpq's parameters only, such as sslmode or "
            "target_session_attrs; options of the pool are variables (POOL_MAX_SIZE).",
        ) from error
    hosts = _hosts(given)
    target = Target(
        options=given,
        hosts=hosts,
        user=given.get("user"),
        database=given.get("dbname") or given.get("user"),
        sslmode=given.get("sslmode", "prefer"),
    )
    return target, Finding(
        _STEP,
        "ok",
        masked,
        facts={
            "url": masked,
            "hosts": [str(host) for host in hosts],
            "user": target.user,
            "database": target.database,
            "sslmode": target.sslmode,
        },
    )


def _hosts(given: Mapping[str, str]) -> tuple[Host, ...]:
    names = given.get("host", "").split(",")
    ports = given.get("port", "").split(",")
    if len(ports) == 1:
        ports *= len(names)
    return tuple(
        Host(name or "localhost", int(port or "5432"))
        for name, port in zip(names, ports, strict=True)
    )
