"""What is shown of an operation: a bar on a terminal, lines elsewhere, and nothing that obeys."""

import contextlib
import fcntl
import os
import pty
import struct
import sys
import termios
import threading

from tests.cli.operations.processes import (
    ROWS,
    Process,
    all_there_once,
    environment,
    held,
    make_orders,
    write_orders,
)


class OnTerminal:
    """`poolkeeper …` on a terminal of its own, so many columns wide."""

    def __init__(self, url, *arguments, columns=100):
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            try:
                fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
                given = environment(url, TERM="xterm-256color")
                given.pop("COLUMNS", None)
                command = [sys.executable, "-m", "poolkeeper", *arguments]
                os.execve(sys.executable, command, given)
            finally:
                os._exit(127)
        self.output = ""
        self._news = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        with contextlib.suppress(OSError):
            while block := os.read(self._terminal, 65536):
                with self._news:
                    self.output += block.decode("utf-8", "replace")
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def wait_for(self, text):
        """Until it has been shown."""
        with self._news:
            self._news.wait_for(lambda: self._ended or text in self.output, 60)
        assert text in self.output, self.output

    def press_ctrl_c(self):
        os.write(self._terminal, b"\x03")

    def end(self):
        """Exit code and everything that was written to the terminal."""
        _, status = os.waitpid(self.pid, 0)
        self._reader.join()
        os.close(self._terminal)
        return os.waitstatus_to_exitcode(status), self.output


BAR = "━"
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


def test_a_terminal_shows_a_bar_and_is_left_as_it_was(postgres, tmp_path) -> None:
    """With Ctrl-C pressed on it, as a person does."""
    make_orders(postgres.url)
    orders = write_orders(tmp_path / "orders.csv")
    with held(postgres.url) as hold:
        shown = OnTerminal(postgres.url, "load", str(orders), "--into", "orders")
        shown.wait_for(BAR)
        shown.wait_for(" rows  ")
        shown.press_ctrl_c()
        shown.wait_for("stopping after the present chunk")
        hold.release()
        code, output = shown.end()
    assert code == 130
    assert HIDE_CURSOR in output
    assert output.rindex(SHOW_CURSOR) > output.rindex(HIDE_CURSOR)
    assert output.rindex("laid down after") > output.rindex(BAR)
    shown = OnTerminal(postgres.url, "load", str(orders), "--into", "orders")
    code, output = shown.end()
    assert code == 0
    assert "resuming at" in output
    assert output.rindex(f"{ROWS:,} rows, ") > output.rindex(BAR)
    assert all_there_once(postgres.url)


def test_an_outage_is_told_on_the_bar_and_does_not_tear_it(crashable_postgres, tmp_path) -> None:
    """The pool's own log goes the same way: no record of it stands in the middle of the bar."""
    url = crashable_postgres.dsn("postgres")
    make_orders(url)
    orders = write_orders(tmp_path / "orders.csv")
    with held(url):
        shown = OnTerminal(url, "load", str(orders), "--into", "orders")
        shown.wait_for(" rows  ")
        crashable_postgres.crash()
        shown.wait_for("waiting for ")
        shown.wait_for("waiting: ")
        crashable_postgres.start()
        code, output = shown.end()
    assert code == 0
    assert "goes on at" in output
    assert "outage" in output.splitlines()[-1]
    assert "database_connection_lost" not in output


def test_the_second_ctrl_c_leaves_the_cursor_visible(postgres, tmp_path) -> None:
    make_orders(postgres.url)
    orders = write_orders(tmp_path / "orders.csv")
    with held(postgres.url):
        shown = OnTerminal(postgres.url, "load", str(orders), "--into", "orders")
        shown.wait_for(" rows  ")
        shown.press_ctrl_c()
        shown.wait_for("once more stops at once")
        shown.press_ctrl_c()
        code, output = shown.end()
    assert code == -2
    assert output.rindex(SHOW_CURSOR) > output.rindex(HIDE_CURSOR)


def test_a_narrow_terminal_is_not_overfilled(postgres, tmp_path) -> None:
    """A line that wraps would leave its first half behind at the next drawing."""
    make_orders(postgres.url)
    orders = write_orders(tmp_path / f"{'long name ' * 10}.csv")
    with held(postgres.url) as hold:
        shown = OnTerminal(postgres.url, "load", str(orders), "--into", "orders", columns=40)
        shown.wait_for(" rows")
        hold.release()
        code, output = shown.end()
    assert code == 0
    drawn = [line for line in output.split("\r\n") if BAR in line]
    # what is visible: without the sequences that colour it and go back up
    visible = [_visible(line) for line in drawn]
    assert max(len(line) for line in visible) <= 40
    assert "MB" not in output


def _visible(line):
    text, rest = "", line
    while rest:
        if rest.startswith("\x1b["):
            end = next(i for i, c in enumerate(rest[2:], 2) if c.isalpha())
            rest = rest[end + 1 :]
        elif rest[0] == "\r":
            text, rest = "", rest[1:]
        else:
            text, rest = text + rest[0], rest[1:]
    return text


def test_a_log_holds_text_and_nothing_a_terminal_would_obey(postgres, tmp_path) -> None:
    """Not even where a file has such a name, and its rows are bad."""
    make_orders(postgres.url)
    orders = write_orders(tmp_path / "red \x1b[31m\x07 \u202eorders.csv")
    with orders.open("a") as file:
        file.write("\x1b[31m,bad\n")
    with held(postgres.url) as hold:
        command = ("load", str(orders), "--into", "orders")
        # as CI systems set it
        with Process(postgres.url, *command, FORCE_COLOR="1") as process:
            session = hold.wait_until_reached(process)
            process.kill()
        with Process(postgres.url, *command, FORCE_COLOR="1") as process:
            session = hold.wait_until_reached(process, besides=[session])
            process.signal()
            process.wait_for("stopping")
            hold.release()
            code, _, interrupted = process.end()
            assert code == 130
    with Process(postgres.url, *command) as process:
        code, _, failed = process.end()
        assert code == 1
    with Process(postgres.url, *command, "--on-bad-row", "reject") as process:
        code, out, err = process.end()
        assert code == 0
    with Process(postgres.url, "operations", "list", "--all") as process:
        listed = process.end()[1]
    with Process(postgres.url, "operations", "show", _name(postgres)) as process:
        shown = process.end()[1]
    assert "rejected" in err
    for text in (interrupted, failed, out, err, listed, shown):
        assert text
        assert not [c for c in text if not c.isprintable() and c != "\n"]


def _name(postgres):
    query = "select id from poolkeeper.operations"
    return postgres.server.psql(query, database=postgres.name)


def test_quiet_says_nothing_but_errors(postgres, tmp_path) -> None:
    make_orders(postgres.url)
    orders = write_orders(tmp_path / "orders.csv", rows=10)
    with Process(postgres.url, "load", str(orders), "--into", "orders", "-q") as process:
        assert process.end() == (0, "", "")
    with Process(postgres.url, "load", str(orders), "--into", "missing", "-q") as process:
        code, out, err = process.end()
    assert (code, out) == (1, "")
    assert "missing" in err
