"""The kernel is asked to notice a peer that is gone."""

import os
import socket
import sys

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="names and numbers are Linux's")
@pytest.mark.asyncio
async def test_the_kernel_gives_up_a_silent_peer_after_four_seconds(server_subject) -> None:
    """Keepalive bounds a quiet connection, the user timeout one with unacknowledged data."""
    session = await server_subject.connect()
    with socket.socket(fileno=os.dup(server_subject.descriptor(session))) as copy:
        assert copy.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 1
        assert copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 1
        assert copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 3
        assert copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 4000
