"""Where a database URL points: what to call the pool, and whose door to knock at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_PORT = 5432


def endpoints_of(url: str | None, connect_kwargs: Mapping[str, Any]) -> list[tuple[str, int] | str]:
    """The addresses a connection may be dialled at: (host, port) pairs and socket paths.

    Empty if they are not named here but in the driver's environment.
    """
    hosts, ports, _database = _parts(url, connect_kwargs)
    if len(ports) == 1:
        ports *= len(hosts)
    found: list[tuple[str, int] | str] = []
    for index, host in enumerate(hosts):
        port = ports[index] if index < len(ports) else DEFAULT_PORT
        found.append(f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port))
    return found


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
    return list(value) if isinstance(value, list | tuple) else [value]
