"""The server as its users run it: a process of its own."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time

import httpx
import psycopg

_DEADLINE = 60


class ServerProcess:
    """`poolkeeper serve --log-format json`, from the first log record to the exit code."""

    def __init__(self, *options, database_url=None, env=None):
        given = {"DATABASE_URL": database_url} if database_url else {}
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("POOL", "DATABASE"))}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "poolkeeper", "serve", "--log-format=json", *options],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**inherited, **given, **(env or {})},
        )
        self.records = []
        self.lines = []
        self._incoming = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = None
        self.client = httpx.Client(timeout=_DEADLINE)

    def _read(self):
        for line in self.process.stderr:
            self._incoming.put(line)
        self._incoming.put(None)

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.client.close()
        self.process.stdout.close()
        self._reader.join()
        self.process.stderr.close()

    def wait_for(self, event):
        """The next log record with this name; fails when the process ends without one."""
        while True:
            line = self._incoming.get(timeout=_DEADLINE)
            assert line is not None, f"ended without {event}: {''.join(self.lines)}"
            record = self._note(line)
            if record is not None and record["event"] == event:
                return record

    def logged(self, *events):
        """The log records with these names until now; waits for nothing."""
        while not self._incoming.empty():
            line = self._incoming.get()
            assert line is not None, f"ended: {''.join(self.lines)}"
            self._note(line)
        return [record for record in self.records if record["event"] in events]

    def _note(self, line):
        self.lines.append(line)
        if not line.startswith("{"):
            return None
        record = json.loads(line)
        self.records.append(record)
        return record

    def start(self):
        """Wait until it serves."""
        started = self.wait_for("server_started")
        self.url = started["urls"][0]
        return self

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def end(self):
        """The exit code and everything it wrote to standard error."""
        code = self.process.wait(_DEADLINE)
        while (line := self._incoming.get(timeout=_DEADLINE)) is not None:
            self.lines.append(line)
        return code, "".join(self.lines)

    def sql(self, query, *params, **options):
        """Send one statement; the response as httpx gives it."""
        body = {"query": query, "params": list(params)}
        return self.client.post(f"{self.url}/sql", json=body, **options)

    def get(self, path, **options):
        return self.client.get(f"{self.url}{path}", **options)


def until(condition):
    """Ask again and again; the test's own time limit is the end of patience."""
    while not (result := condition()):
        time.sleep(0.01)
    return result


@contextlib.contextmanager
def barrier(url):
    """A statement that waits until the end of the block: `select … from pg_advisory_lock(77)`."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("select pg_advisory_lock(77)")
        yield


def active(url, text):
    """How many sessions run a statement that contains this text."""
    query = (
        "select count(*) from pg_stat_activity"
        " where state = 'active' and query like %s and pid <> pg_backend_pid()"
    )
    with psycopg.connect(url, autocommit=True) as conn:
        return conn.execute(query, [f"%{text}%"]).fetchone()[0]


def sessions(url):
    """How many sessions the server holds in this database."""
    query = (
        "select count(*) from pg_stat_activity"
        " where application_name = 'poolkeeper' and datname = current_database()"
    )
    with psycopg.connect(url, autocommit=True) as conn:
        return conn.execute(query).fetchone()[0]
