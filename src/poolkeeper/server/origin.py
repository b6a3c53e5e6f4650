"""Keeps web pages of others from using a server that asks for no token.

A browser lets any page send a text/plain POST to this machine, and a page whose name its owner
points to this machine (DNS rebinding) even read the answers. Without a token the page's origin and
the name the server is called by are all there is to tell the user's own page from a stranger's.
"""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

# Public DNS has none of these, so no stranger can point a name in them here.
_PRIVATE_ZONES = frozenset({"arpa", "internal", "lan", "local", "localhost", "svc", "test"})


def is_local_origin(origin: str) -> bool:
    """Whether an ``Origin`` header names a page served by this machine."""
    host = _host_of(origin)
    return host is not None and is_this_machine(host)


def is_same_origin(origin: str, host: str) -> bool:
    """Whether an ``Origin`` header names the page of the server called as ``host``."""
    scheme, separator, place = origin.lower().partition("://")
    return bool(separator) and scheme in {"http", "https"} and place == host.lower()


def is_own_host(host: str, names: frozenset[str], *, open_to_network: bool) -> bool:
    """Whether a ``Host`` header is one by which the user, not a stranger's page, calls the server.

    An address is: nobody can point somebody else's address here. So are localhost, ``names``, and
    for a server that is open to its network every name that public DNS cannot resolve.
    """
    name = _host_of(f"//{host}")
    if name is None:
        return False
    if _is_address(name) or is_this_machine(name) or name in names:
        return True
    return open_to_network and ("." not in name or name.rpartition(".")[2] in _PRIVATE_ZONES)


def _host_of(url: str) -> str | None:
    """In lower case, without port, brackets and the root's dot."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises if it is no number
    except ValueError:
        return None
    return (parts.hostname or "").rstrip(".") or None


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def is_this_machine(name: str) -> bool:
    """Whether a host name or address can only mean the machine it is used on."""
    if _is_address(name):
        return ip_address(name).is_loopback
    return name == "localhost" or name.endswith(".localhost")
