"""Where a database URL points: what to call the pool, and whose door to knock at."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, unquote

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_PORT = 5432


class Host(NamedTuple):
    """One of the servers a URL names; ``host`` is a name, an address or a socket's directory."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class NoHostFits(ConnectionError):
    """None of several hosts could be used; the message says why of each.

    ``__cause__`` is the failure that says most about the database, if there was one at all.
    """


def hosts_of(url: str | None, connect_kwargs: Mapping[str, Any]) -> list[Host]:
    """The servers a connection may be opened to, in the order they are named.

    Empty if they are not named here but in the driver's environment.
    """
    hosts, ports, _database = _parts(url, connect_kwargs)
    if len(ports) == 1:
        ports *= len(hosts)
    return [
        Host(host, ports[index] if index < len(ports) else DEFAULT_PORT)
        for index, host in enumerate(hosts)
    ]


def endpoints_of(url: str | None, connect_kwargs: Mapping[str, Any]) -> list[tuple[str, int] | str]:
    """The addresses a connection may be dialled at: (host, port) pairs and socket paths.

    Empty if they are not named here but in the driver's environment.
    """
    return [
        f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port)
        for host, port in hosts_of(url, connect_kwargs)
    ]


def parameter_of(name: str, url: str | None, connect_kwargs: Mapping[str, Any]) -> str | None:
    """A connection parameter, as an argument or in the URL's query."""
    given = connect_kwargs.get(name)
    if given is None and url is not None:
        given = parse_qs(url.partition("?")[2]).get(name, [None])[-1]
    # asyncpg takes members of an enumeration as well
    return None if given is None else str(getattr(given, "value", given))


def target_session_attrs_of(url: str | None, connect_kwargs: Mapping[str, Any]) -> str:
    """Which of several hosts is wanted; ``any`` if nobody says."""
    wanted = parameter_of("target_session_attrs", url, connect_kwargs)
    return wanted or os.environ.get("PGTARGETSESSIONATTRS") or "any"


def default_name(url: str | None, connect_kwargs: Mapping[str, Any]) -> str:
    """``host:port/database``, OpenTelemetry's default for a pool's name; never a secret."""
    hosts, ports, database = _parts(url, connect_kwargs)
    host = hosts[0] if hosts else "localhost"
    port = ports[0] if ports else DEFAULT_PORT
    return f"{host}:{port}/{database or 'postgres'}"


def _parts(
    url: str | None, connect_kwargs: Mapping[str, Any]
) -> tuple[list[str], list[int], str | None]:
    hosts: list[str] = []
    ports: list[int] = []
    database: str | None = None
    if url is not None:
        rest = url.partition("://")[2]
        rest, _, query = rest.partition("?")
        authority, _, path = rest.partition("/")
        database = unquote(path) or None
        for item in authority.rpartition("@")[2].split(","):
            host, colon, port = item.rpartition(":")
            if not colon or "]" in port:
                host, port = item, ""
            if host:
                hosts.append(unquote(host.strip("[]")))
            ports.append(int(port) if port.isdigit() else DEFAULT_PORT)
        parameters = parse_qs(query)
        if "host" in parameters:
            hosts = parameters["host"][0].split(",")
        if "port" in parameters:
            ports = [int(port) for port in parameters["port"][0].split(",") if port.isdigit()]
        database = parameters.get("dbname", parameters.get("database", [database]))[0]
    hosts = _listed(connect_kwargs.get("host")) or hosts
    ports = [int(port) for port in _listed(connect_kwargs.get("port"))] or ports
    return hosts, ports, connect_kwargs.get("database") or database


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, str):
        # as libpq has it
        return value.split(",")
    return list(value) if isinstance(value, list | tuple) else [value]
