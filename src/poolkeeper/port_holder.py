"""Which process listens on a port, read from Linux's /proc; elsewhere nobody knows."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
# The state column of /proc/net/tcp for a listening socket.
_LISTEN = "0A"


@dataclass(frozen=True, slots=True)
class PortHolder:
    """A process that listens on a port."""

    pid: int
    name: str

    def __str__(self) -> str:
        return f"pid {self.pid} ({self.name})"


def find_port_holder(port: int) -> PortHolder | None:
    """The process listening on ``port``, or None where it cannot be known.

    Other users' processes are visible to root only.
    """
    wanted = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    if not wanted:
        return None
    for process in _PROC.glob("[0-9]*"):
        # Processes end while we look, and most belong to somebody else.
        with contextlib.suppress(OSError):
            if any(_target(fd) in wanted for fd in (process / "fd").iterdir()):
                return PortHolder(int(process.name), (process / "comm").read_text().strip())
    return None


def _target(descriptor: Path) -> str:
    try:
        return str(descriptor.readlink())
    except FileNotFoundError:
        return ""


def _listening_inodes(port: int) -> set[str]:
    inodes = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (_PROC / "net" / table).read_text().splitlines()[1:]:
                columns = line.split()
                if columns[3] == _LISTEN and int(columns[1].rpartition(":")[2], 16) == port:
                    inodes.add(columns[9])
    return inodes
