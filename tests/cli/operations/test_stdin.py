"""A signal ends a process that reads standard input, at whatever moment it arrives."""

import signal
import subprocess
import sys

import pytest

from tests.cli.operations.processes import environment

BEGIN = """
import ctypes, functools, operator, os, select, sys
from poolkeeper.cli.operations.stdin import Ending, heedful

number = int(sys.argv[1])
wait = select.select
"""
READ = """
with Ending() as ending, heedful(0, ending) as source:
    source.read(1)
"""
RIGHT_BEFORE_THE_WAIT = """
def select_late(*arguments):
    select.select = wait
    # No bytecode in between, where Python would call its handler.
    signalled = functools.partial(ctypes.CDLL(None)["raise"], number)
    return list(map(operator.call, [signalled, functools.partial(wait, *arguments)]))[1]

select.select = select_late
"""
WHERE_EXCEPTIONS_ARE_DROPPED = """
class Finalized:
    def __del__(self):
        os.kill(os.getpid(), number)

def select_late(*arguments):
    select.select = wait
    Finalized()
    return wait(*arguments)

select.select = select_late
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(
    "when",
    [
        pytest.param(RIGHT_BEFORE_THE_WAIT, id="right before the wait"),
        pytest.param(WHERE_EXCEPTIONS_ARE_DROPPED, id="where exceptions are dropped"),
    ],
)
def test_it_is_heard(when, number) -> None:
    """Although nothing ever comes through the pipe, and its writer stays."""
    command = [sys.executable, "-c", BEGIN + when + READ, str(int(number))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment()) as process:
        try:
            assert process.wait(60) == 128 + number
        finally:
            process.kill()


def test_what_comes_is_read_to_its_end() -> None:
    """In spite of signals that end nothing."""
    script = """
import os, signal, sys
from poolkeeper.cli.operations.stdin import Ending, heedful

signal.signal(signal.SIGUSR1, lambda *_: None)
with Ending() as ending, heedful(0, ending) as source:
    while block := source.read(3):
        os.kill(os.getpid(), signal.SIGUSR1)
        os.write(1, block)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=b"0123456789",
        env=environment(),
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == b"0123456789"
