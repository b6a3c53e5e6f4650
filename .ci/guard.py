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


def main() -> int:
    """Run, wait, clean up."""
    limit, command = float(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    run = subprocess.Popen(command, start_new_session=True)

    def stop(*_: object) -> None:
        os.killpg(run.pid, signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        code = run.wait(timeout=limit)
    except subprocess.TimeoutExpired:
        print(f"guard: not finished after {limit:.0f}s; ended", file=sys.stderr, flush=True)
        stop()
        try:
            run.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
        code = 124
    # what is about to exit by itself gets a moment to do so
    grace = time.monotonic() + 3
    while (left := leftovers()) and time.monotonic() < grace:
        time.sleep(0.1)
    for pid, name in left:
        print(f"guard: left behind: {pid} {name}", file=sys.stderr, flush=True)
    # ending a parent hands its children to us: repeat until there are none
    while left := leftovers():
        for pid, _ in left:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
        code = code or 1
    return code


if __name__ == "__main__":
    sys.exit(main())
