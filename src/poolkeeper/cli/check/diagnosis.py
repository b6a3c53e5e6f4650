"""The order of the steps, and which may be skipped after a failure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg

from poolkeeper.cli.check.database import examine, measure_latency
from poolkeeper.cli.check.findings import Finding, StepFailedError
from poolkeeper.cli.check.login import bounded, log_in
from poolkeeper.cli.check.network import ask_for_tls, look_for_socket, reach, resolve
from poolkeeper.cli.check.pooler import look_for_pooler
from poolkeeper.cli.check.target import parse_target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from poolkeeper.cli.check.login import Connection
    from poolkeeper.cli.check.target import Host, Target


def diagnose(url: str, timeout: float) -> Iterator[Finding]:
    """Examine every host of a URL; a failure ends the steps of its host only.

    Args:
        url: The database URL.
        timeout: Seconds each step may take.
    """
    try:
        target, finding = parse_target(url)
    except StepFailedError as failure:
        yield failure.finding
        return
    yield finding
    for host in target.hosts:
        try:
            yield from _diagnose_host(target, host, timeout)
        except StepFailedError as failure:
            yield failure.finding
        except psycopg.Error as error:
            yield Finding(
                f"session {host}",
                "failed",
                f"lost: {' '.join(str(error).split())}",
                "Look into the server's log, and run this again.",
            )


def _diagnose_host(target: Target, host: Host, timeout: float) -> Iterator[Finding]:
    yield from _reach(target, host, timeout)
    conn, finding = log_in(target, host, timeout)
    yield finding
    with conn:
        yield from _examine(conn, target, host, timeout)


def _examine(conn: Connection, target: Target, host: Host, timeout: float) -> Iterator[Finding]:
    steps: list[Callable[[], Iterable[Finding]]] = [
        lambda: [look_for_pooler(conn, target, host, timeout)],
        lambda: examine(conn),
        lambda: [measure_latency(conn)],
    ]
    for step in steps:
        with bounded(conn, timeout):
            findings = list(step())
        yield from findings


def _reach(target: Target, host: Host, timeout: float) -> Iterator[Finding]:
    if host.is_socket:
        yield look_for_socket(host)
        return
    addresses = [host.name]
    if not host.is_address:
        addresses, finding = resolve(host, timeout)
        yield finding
    reached = False
    for address in addresses:
        try:
            sock, finding = reach(host, address, timeout)
        except StepFailedError as failure:
            if address == addresses[-1] and not reached:
                raise
            # One address of several may be dead, ::1 of localhost for instance.
            yield replace(failure.finding, verdict="warning")
            continue
        yield finding
        if reached:
            sock.close()
        else:
            reached = True
            yield ask_for_tls(sock, host, target)
