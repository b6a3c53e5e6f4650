"""Keeps web pages of others from using a server that asks for no token.

A browser lets any page send a text/plain POST to this machine. Without a token the page's origin
is all there is to tell the user's own page from a stranger's.
"""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit


def is_local_origin(origin: str) -> bool:
    """Whether an ``Origin`` header names a page served by this machine."""
    try:
        host = urlsplit(origin).hostname or ""
        return host == "localhost" or host.endswith(".localhost") or ip_address(host).is_loopback
    except ValueError:
        return False
