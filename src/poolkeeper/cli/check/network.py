"""The way to the server, from name to TLS: DNS, TCP, and PostgreSQL's own SSLRequest."""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import struct
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from poolkeeper.cli.check.findings import Finding, StepFailedError, fail

if TYPE_CHECKING:
    from poolkeeper.cli.check.target import Host, Target

# The answer to this message is one byte, before any password is asked for.
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)


def resolve(host: Host, timeout: float) -> tuple[list[str], Finding]:
    """Look the name up, bounded: the system's resolver has no deadline of its own.

    Raises:
        StepFailedError: The name has no address, or nobody answered in time.
    """
    step = f"DNS {host.name}"
    found: list[str] = []
    failure: list[OSError] = []

    def look_up() -> None:
        try:
            answers = socket.getaddrinfo(host.name, host.port, type=socket.SOCK_STREAM)
            found.extend(dict.fromkeys(str(address[0]) for *_, address in answers))
        except (OSError, UnicodeError) as error:
            failure.append(error if isinstance(error, OSError) else OSError(str(error)))

    started = time.monotonic()
    worker = threading.Thread(target=look_up, daemon=True)
    worker.start()
    worker.join(timeout)
    milliseconds = _milliseconds_since(started)
    if failure:
        raise fail(
            step,
            f"no address for {host.name} ({failure[0].strerror or failure[0]})",
            "Check the spelling of the host name, and that this machine uses the right DNS server "
            "or VPN.",
        )
    if not found:
        raise fail(
            step,
            f"no answer within {timeout:g} s",
            "Check this machine's DNS servers (/etc/resolv.conf), or use the IP address.",
        )
    return found, Finding(
        step,
        "ok",
        f"{', '.join(found)} in {milliseconds} ms",
        facts={"addresses": found, "milliseconds": milliseconds},
    )


def reach(host: Host, address: str, timeout: float) -> tuple[socket.socket, Finding]:
    """Open a connection to one address.

    Raises:
        StepFailedError: Nobody accepts it.
    """
    step = f"TCP {address}:{host.port}"
    started = time.monotonic()
    try:
        sock = socket.create_connection((address, host.port), timeout=timeout)
    except OSError as error:
        raise _unreachable(step, host, error, timeout) from error
    milliseconds = _milliseconds_since(started)
    return sock, Finding(
        step, "ok", f"connected in {milliseconds} ms", facts={"milliseconds": milliseconds}
    )


def look_for_socket(host: Host) -> Finding:
    """Check that the socket file is there.

    Raises:
        StepFailedError: It is not.
    """
    step = f"socket {host.name}"
    path = Path(host.name) / f".s.PGSQL.{host.port}"
    if path.exists():
        return Finding(step, "ok", f"{path} exists", facts={"path": str(path)})
    raise fail(
        step,
        f"{path} does not exist",
        "Check that PostgreSQL runs on this machine with this port, and that "
        f"unix_socket_directories in its configuration contains {host.name}.",
        path=str(path),
    )


def ask_for_tls(sock: socket.socket, host: Host, target: Target) -> Finding:
    """Ask the server whether it offers TLS, and what comes of it. Ends the connection.

    Raises:
        StepFailedError: TLS is required and not to be had, or this is not PostgreSQL.
    """
    step = f"TLS {host}"
    try:
        with sock:
            return _ask_for_tls(sock, step, host, target)
    except TimeoutError as error:
        raise fail(
            step,
            f"the server accepted the connection and then said nothing for {sock.timeout or 0:g} s",
            "Something accepts connections in PostgreSQL's place, or the server hangs: check a "
            "proxy or load balancer in between, and the server's log.",
        ) from error
    except OSError as error:
        raise fail(
            step,
            f"the handshake failed ({error.strerror or error})",
            "Check the server's certificate and key in its log, or a proxy in between.",
        ) from error


def _ask_for_tls(sock: socket.socket, step: str, host: Host, target: Target) -> Finding:
    sock.sendall(_SSL_REQUEST)
    answer = sock.recv(1)
    demanded = target.sslmode in {"require", "verify-ca", "verify-full"}
    facts = {"sslmode": target.sslmode, "offered": answer == b"S"}
    if answer == b"S":
        return _negotiated(sock, step, host, target)
    if answer != b"N":
        raise fail(
            step,
            f"port {host.port} does not speak PostgreSQL's protocol (answer: {answer!r})",
            "Check the port: another service listens there.",
        )
    if demanded:
        raise fail(
            step,
            f"the server does not offer TLS, and the URL says sslmode={target.sslmode}",
            "Set ssl = on with a certificate in postgresql.conf, or use sslmode=prefer on a "
            "network you trust.",
        )
    return Finding(step, "ok", "not offered; the connection is not encrypted", facts=facts)


def _negotiated(sock: socket.socket, step: str, host: Host, target: Target) -> Finding:
    # Only a look at what is spoken; whether the certificate is trusted is libpq's decision.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with context.wrap_socket(sock, server_hostname=host.name) as encrypted:
        version = encrypted.version()
        cipher = (encrypted.cipher() or ("unknown",))[0]
        with contextlib.suppress(OSError):
            encrypted.unwrap()
    facts = {"sslmode": target.sslmode, "offered": True, "version": version, "cipher": cipher}
    if target.sslmode == "disable":
        return Finding(
            step,
            "warning",
            f"offered ({version}), but the URL says sslmode=disable",
            "Remove sslmode=disable unless the network is private.",
            facts,
        )
    return Finding(step, "ok", f"{version}, {cipher}", facts=facts)


def _unreachable(step: str, host: Host, error: OSError, timeout: float) -> StepFailedError:
    if isinstance(error, TimeoutError):
        return fail(
            step,
            f"no answer within {timeout:g} s",
            "A firewall or security group drops the packets, or the machine is off: allow port "
            f"{host.port} from here, and check the address.",
        )
    if error.errno == errno.ECONNREFUSED:
        return fail(
            step,
            "connection refused",
            f"Nothing listens on port {host.port} there: start PostgreSQL, check the port, and "
            "that listen_addresses in postgresql.conf is not only localhost.",
        )
    return fail(
        step,
        f"{error.strerror or error}",
        "Check the address and this machine's route to it.",
    )


def _milliseconds_since(started: float) -> float:
    return round((time.monotonic() - started) * 1000, 1)
