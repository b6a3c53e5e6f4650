"""Runs one PostgreSQL server and ends it when the process that asked for it is gone.

This file is executed as a process of its own, with the standard library only. It exists because
nobody else can keep three promises:

- The server does not outlive its parent, not even a parent that was killed. A parent death signal
  on the server alone would not do: it fires when the *thread* that forked it ends.
- The server is gone when this process is gone. As the subreaper of the server's tree it also
  waits for backends that a killed postmaster leaves behind: those may still finish and commit.
- No zombie keeps `postmaster.pid` looking alive.

Commands arrive on standard input, one signal name per line, and go to the postmaster; end of
input means the parent let go. The lock on the data directory is an inherited descriptor and ends
with this process.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
LINUX = sys.platform == "linux"
# seconds after the parent's end: fast shutdown, immediate shutdown, kill
ESCALATION = [(0.0, signal.SIGINT), (60.0, signal.SIGQUIT), (75.0, signal.SIGKILL)]


def main() -> int:
    """Starts the server, tells its pid on standard output, and waits for everything to end."""
    job: dict[str, Any] = json.loads(sys.argv[1])
    wakeup = _wake_on_signals()
    if LINUX:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    postmaster = _launch(job)
    _tell_pid(postmaster)
    try:
        return _watch(job["parent"], postmaster, wakeup)
    finally:
        for leftover in job["remove"]:
            shutil.rmtree(leftover, ignore_errors=True)


def _wake_on_signals() -> int:
    """A descriptor that turns readable on SIGCHLD; a terminal's or supervisor's signals do nothing.

    Handlers, not SIG_IGN: an ignored signal would stay ignored in the server.
    """
    readable, writable = os.pipe()
    os.set_blocking(readable, False)
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    return readable


def _launch(job: dict[str, Any]) -> int:
    guardian = os.getpid()

    def die_with_guardian() -> None:
        # runs after the switch of accounts, which would clear it
        if LINUX:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)
            if os.getppid() != guardian:
                os._exit(1)

    server = subprocess.Popen(
        job["command"],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        cwd=job["cwd"],
        preexec_fn=die_with_guardian,  # noqa: PLW1509 - this process has a single thread
        user=job["uid"],
        group=job["gid"],
        extra_groups=None if job["uid"] is None else [],
    )
    server.returncode = 0  # its status is collected below, with everyone else's
    return server.pid


def _tell_pid(pid: int) -> None:
    os.write(1, f"{pid}\n".encode())
    os.dup2(2, 1)


def _watch(parent: int, postmaster: int, wakeup: int) -> int:
    """Returns the postmaster's exit code once it and all of its descendants are reaped."""
    watched = [wakeup, 0]
    poll_seconds: float | None = 1.0  # where a process cannot be watched, look after it
    if hasattr(os, "pidfd_open"):
        try:
            watched.append(os.pidfd_open(parent))
            poll_seconds = None
        except OSError:  # gone already, or a kernel without: getppid() tells
            pass
    exit_code = None
    orphaned_at: float | None = None
    steps = list(ESCALATION)
    while True:
        try:
            while (reaped := os.waitpid(-1, os.WNOHANG))[0]:
                if reaped[0] == postmaster:
                    exit_code = os.waitstatus_to_exitcode(reaped[1])
        except ChildProcessError:
            return 1 if exit_code is None else exit_code if exit_code >= 0 else 128 - exit_code

        now = time.monotonic()
        if orphaned_at is None and os.getppid() != parent:
            orphaned_at = now
        if orphaned_at is not None:
            while steps and now >= orphaned_at + steps[0][0]:
                _end(postmaster if exit_code is None else None, steps.pop(0)[1])

        timeout = poll_seconds if orphaned_at is None else 0.5
        ready = select.select(watched, [], [], timeout)[0]
        if wakeup in ready:
            os.read(wakeup, 4096)
        if 0 in ready:
            commands = os.read(0, 4096).split()
            for name in commands:
                if exit_code is None:
                    os.kill(postmaster, signal.Signals[name.decode()])
            if not commands:
                watched.remove(0)
                orphaned_at = now if orphaned_at is None else orphaned_at
        if orphaned_at is not None:
            watched = [fd for fd in watched if fd in {wakeup, 0}]


def _end(postmaster: int | None, how: signal.Signals) -> None:
    if postmaster is not None:
        os.kill(postmaster, how)
    # a server that a test has frozen could not shut down
    to_all = signal.SIGKILL if how == signal.SIGKILL else signal.SIGCONT
    for pid in _descendants(os.getpid()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, to_all)


def _descendants(pid: int) -> list[int]:
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except OSError:
        return []
    children = [int(child) for child in listed.split()]
    return [found for child in children for found in (child, *_descendants(child))]


if __name__ == "__main__":
    sys.exit(main())
