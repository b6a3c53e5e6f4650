"""Run a command within a time limit and leave no process of it behind.

guard.py SECONDS COMMAND...: exit code of the command; 124 when it took too long; 1 when it
succeeded but left processes, which are named and ended.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time

PR_SET_CHILD_SUBREAPER = 36


def leftovers() -> list[tuple[int, str]]:
    """Processes that lost their parent: as the subreaper we became it (Linux only)."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc") if os.path.isdir("/proc") else []):
        try:
            with open(f"/proc/{pid}/stat") as stat:
                state, parent = stat.read().rpartition(")")[2].split()[:2]
            with open(f"/proc/{pid}/cmdline") as cmdline:
                command = cmdline.read().replace("\0", " ").strip()
        except OSError:
            continue
        if int(parent) == os.getpid() and state != "Z":
            found.append((int(pid), command))
    return found


def wait(pid: int, seconds: float) -> int | None:
    """Exit code of a process, None when it takes longer; meanwhile, reap orphans as init does."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            ended, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if ended == pid:
            return os.waitstatus_to_exitcode(status)
        if not ended:
            time.sleep(0.02)
    return None


def main() -> int:
    """Run, wait, clean up."""
    limit, command = float(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    pid = subprocess.Popen(command, start_new_session=True).pid

    def stop(*_: object) -> None:
        os.killpg(pid, signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    code = wait(pid, limit)
    if code is None:
        print(f"guard: not finished after {limit:.0f}s; ended", file=sys.stderr, flush=True)
        stop()
        if wait(pid, 10) is None:
            os.killpg(pid, signal.SIGKILL)
        code = 124
    # what is about to exit by itself gets a moment to do so
    grace = time.monotonic() + 3
    while (left := leftovers()) and time.monotonic() < grace:
        wait(0, 0.1)
    for orphan, name in left:
        print(f"guard: left behind: {orphan} {name}", file=sys.stderr, flush=True)
    # ending a parent hands its children to us: repeat until there are none
    while left := leftovers():
        for orphan, _ in left:
            os.kill(orphan, signal.SIGKILL)
        wait(0, 0.1)
        code = code or 1
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
