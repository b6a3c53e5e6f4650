"""The commands of operations as processes that can be watched, signalled and held in the middle."""

import contextlib
import os
import signal
import subprocess
import sys
import threading

import psycopg

_DEADLINE = 60
ROWS = 200_000
HELD_AT = 30_000
"""After the first chunk of 2 MB, and before the last: chunks grow twofold at the most."""
BACKGROUND = ("sh", "-c", "trap '' INT; exec \"$@\"", "sh")
"""Run a command as a shell without job control runs `command &`: it ignores SIGINT."""


def environment(url=None, **more):
    """Of a user who has named a database, and nothing else of ours."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("POOL", "DATABASE"))}
    return {**inherited, **({"DATABASE_URL": url} if url else {}), **more}


class Process:
    """`poolkeeper …`, whose lines can be waited for."""

    def __init__(self, url, *arguments, stdin=None, cwd=None, within=(), **env):
        self.process = subprocess.Popen(
            [*within, sys.executable, "-m", "poolkeeper", *arguments],
            stdin=stdin or subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
            env=environment(url, **env),
        )
        self.lines = []
        self._news = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stdout.close()
        self.process.stderr.close()

    @property
    def pid(self):
        return self.process.pid

    def wait_for(self, text):
        """The first line on standard error that contains it; fails when the process ends before."""
        with self._news:
            self._news.wait_for(lambda: self._ended or self._line(text), _DEADLINE)
            line = self._line(text)
        assert line is not None, "\n".join(self.lines)
        return line

    def _line(self, text):
        return next((line for line in self.lines if text in line), None)

    def signal(self, number=signal.SIGINT):
        self.process.send_signal(number)

    def kill(self):
        """As `kill -9` does; returns when it is gone."""
        self.process.kill()
        self.process.wait()

    def end(self):
        """Exit code, standard output and standard error."""
        code = self.process.wait(_DEADLINE)
        self._reader.join()
        return code, self.process.stdout.read(), "\n".join(self.lines)


@contextlib.contextmanager
def held(url, table="orders"):
    """Whoever inserts row `HELD_AT` waits until `release()` or the end of the block."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"""
            create or replace function hold() returns trigger language plpgsql as $$
            begin
                perform pg_advisory_xact_lock_shared(77);
                return new;
            end $$;
            create or replace trigger held before insert or update on {table}
                for each row when (new.id = {HELD_AT}) execute function hold()""")
        connection.execute("select pg_advisory_lock(77)")
        yield _Hold(connection)


class _Hold:
    """A lock that somebody else is going to wait for."""

    def __init__(self, connection):
        self._connection = connection

    def wait_until_reached(self, by, besides=()):
        """The process id of the session that waits; fails when the process `by` ends before."""
        query = """
            select pid from pg_locks where locktype = 'advisory' and objid = 77 and not granted
             and pid <> all (%s)"""
        while True:
            row = self._connection.execute(query, [list(besides)]).fetchone()
            if row is not None:
                return row[0]
            assert by.process.poll() is None, by.end()

    def release(self):
        self._connection.execute("select pg_advisory_unlock(77)")


def write_orders(path, rows=ROWS):
    """A file whose rows can be told apart."""
    with path.open("w", encoding="utf-8") as file:
        file.write("id,note\n")
        file.writelines(f"{n},{n:>90}\n" for n in range(rows))
    return path


def make_orders(url):
    """The table for them: without a key, so that a doubled row is seen and not refused."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create table orders (id int, note text)")


def all_there_once(url, rows=ROWS):
    """Whether the table holds each row of the file once."""
    query = "select count(*), count(distinct id), min(id), max(id) from orders"
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(query).fetchone() == (rows, rows, 0, rows - 1)


def state(url, name="orders.csv into orders"):
    """State and rows of an operation, from the table."""
    query = (
        "select state, rows_done from poolkeeper.operations where name = %s"
        " order by created_at desc limit 1"
    )
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(query, [name]).fetchone()
