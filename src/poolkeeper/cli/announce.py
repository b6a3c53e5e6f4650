"""What a server says once it can be used: where it is, and a line to try."""

from __future__ import annotations

import logging
import os
import socket
import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from poolkeeper import __version__
from poolkeeper.urls import mask_url

if TYPE_CHECKING:
    from pathlib import Path

    from poolkeeper.config import PoolConfig

_log = logging.getLogger("poolkeeper.server")


def announce(
    sockets: list[socket.socket],
    config: PoolConfig,
    *,
    data_dir: Path | None,
    token_needed: bool,
    encrypted: bool,
    processes: int,
    as_json: bool,
) -> None:
    """Say that the server is ready, in a log record or for a person."""
    urls = [_url(sock, "https" if encrypted else "http") for sock in sockets]
    database = mask_url(config.require_database_url().replace("+psycopg", "", 1))
    if as_json:
        facts = {"urls": urls, "database": database, "max_size": config.max_size}
        if processes > 1:
            facts["processes"] = processes
        if data_dir is not None:
            facts["data_dir"] = str(data_dir)
        _log.info("server_started", extra=facts)
        return
    connections = f"{processes} × {config.max_size}" if processes > 1 else str(config.max_size)
    shown = "$POOLKEEPER_TOKEN" if os.environ.get("POOLKEEPER_TOKEN") else "<token>"
    token = f' -H "Authorization: Bearer {shown}"' if token_needed else ""
    lines = [
        ("serving", ", ".join(urls)),
        ("database", f"{database}, at most {connections} connections"),
        ("try", f"""curl -s {urls[0]}/sql{token} -d '{{"query":"select version()"}}'"""),
        ("stop", "Ctrl-C"),
    ]
    if data_dir is not None:
        lines[1] = ("database", "embedded PostgreSQL; for your own: --database-url postgresql://…")
        lines.insert(2, ("data", str(data_dir)))
    console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
    console.print(Text(f"poolkeeper {__version__} is ready", "bold green"))
    for name, value in lines:
        console.print(Text.assemble((f"  {name:<9}", "dim"), value))


def _url(sock: socket.socket, scheme: str) -> str:
    if sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return f"{scheme}+unix://{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}:{port}"
