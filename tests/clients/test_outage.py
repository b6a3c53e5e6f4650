"""A database that goes away and comes back under an unmodified Neon driver."""

import json
from collections import Counter

import pytest

from tests.clients.node import DRIVERS
from tests.clients.page import save_programs
from tests.server.processes import ServerProcess

WORKERS = 8


class Program:
    """The inserting program, driven by lines."""

    def __init__(self, node, server, tmp_path, *arguments, driver="newest"):
        save_programs(tmp_path, server)
        environment = node.environment(server, driver=driver)
        self.process = node.start("outage.mjs", str(tmp_path), *arguments, env=environment)
        self.wait_for("ready")

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.process.kill()
        self.process.communicate()

    def say(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def wait_for(self, start):
        lines = []
        for line in self.process.stdout:
            if line.startswith(start):
                return line
            lines.append(line)
        raise AssertionError("".join(lines))

    def result(self):
        return json.loads(self.wait_for("{"))


def serve(postgres, **variables):
    postgres.psql("create table witness (id int)")
    server = ServerProcess("--port=0", "--max-size=4", database_url=postgres.url, env=variables)
    server.database_url = postgres.url
    return server


def written(postgres):
    rows = postgres.psql("select id from witness").split()
    return Counter(map(int, rows))


@pytest.mark.parametrize("driver", DRIVERS)
def test_with_the_patient_fetch_a_restart_fails_no_request(
    node, crashable_postgres, tmp_path, driver
):
    """Requests made during the outage are refused, sent again when told, and done once each."""
    with (
        serve(crashable_postgres, POOL_OUTAGE_PATIENCE="0.1") as server,
        Program(node, server.start(), tmp_path, "once", "20", driver=driver) as program,
    ):
        crashable_postgres.stop()
        program.say()
        program.wait_for("refused 503")
        crashable_postgres.start()
        result = program.result()
    assert result["failed"] == []
    assert written(crashable_postgres) == dict.fromkeys(range(1, 21), 1)


def test_a_crash_in_mid_traffic_doubles_nothing_and_fails_only_what_is_unknown(
    node, crashable_postgres, tmp_path
):
    """At most the statements under way are 502; everything else is there exactly once."""
    with (
        serve(crashable_postgres) as server,
        Program(node, server.start(), tmp_path, "during", str(WORKERS)) as program,
    ):
        program.say()
        program.wait_for("inserted 200")
        crashable_postgres.crash()
        crashable_postgres.start()
        for _ in range(4):
            program.wait_for("inserted")
        program.say()
        result = program.result()
    unknown = {number for number, _message in result["failed"]}
    assert len(unknown) <= WORKERS
    for _number, message in result["failed"]:
        assert message.startswith("Server error (HTTP status 502)")
        assert '"outcome": "unknown"' in message or '"outcome":"unknown"' in message
    there = written(crashable_postgres)
    assert set(there.values()) == {1}
    assert set(result["done"]) <= set(there) <= set(result["done"]) | unknown


def test_statements_that_may_run_twice_are_all_done_through_a_crash(
    node, crashable_postgres, tmp_path
):
    """With keys of the client's and `again`, nobody sees an error and nothing is doubled."""
    with serve(crashable_postgres) as server:
        crashable_postgres.psql("alter table witness add primary key (id)")
        server.start()
        with Program(node, server, tmp_path, "during", str(WORKERS), "again") as program:
            program.say()
            program.wait_for("inserted 200")
            crashable_postgres.crash()
            crashable_postgres.start()
            for _ in range(4):
                program.wait_for("inserted")
            program.say()
            result = program.result()
    assert result["failed"] == []
    assert written(crashable_postgres) == dict.fromkeys(sorted(result["done"]), 1)


def test_a_planned_restart_fails_no_request_at_all(node, crashable_postgres, tmp_path):
    """Paused, restarted, resumed: the traffic waits, nothing is sent twice, nothing is in doubt."""
    with (
        serve(crashable_postgres, POOL_OUTAGE_PATIENCE="60") as server,
        Program(node, server.start(), tmp_path, "during", str(WORKERS)) as program,
    ):
        program.say()
        program.wait_for("inserted 200")
        paused = server.client.post(f"{server.url}/admin/pause?wait=30")
        assert paused.status_code == 200, paused.text
        crashable_postgres.stop()
        crashable_postgres.start()
        assert server.client.post(f"{server.url}/admin/reconnect").status_code == 200
        assert server.client.post(f"{server.url}/admin/resume").status_code == 200
        for _ in range(4):
            program.wait_for("inserted")
        program.say()
        result = program.result()
    assert result["failed"] == []
    assert written(crashable_postgres) == dict.fromkeys(sorted(result["done"]), 1)
