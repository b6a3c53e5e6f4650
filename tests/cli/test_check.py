"""The diagnosis, on a real server and on peers that are none."""

import contextlib
import json
import socket
import threading

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.cli.commands import poolkeeper


def changed(url, **parts):
    given = {k: str(v) for k, v in conninfo_to_dict(url).items()} | parts
    return "postgresql://{user}:{password}@{host}:{port}/{dbname}".format(**given)


def diagnosed(url, *options, **kwargs):
    """The exit code and the steps by name."""
    answer = poolkeeper("check", url, "--json", "--timeout=2", *options, **kwargs)
    assert "Traceback" not in answer.stderr
    report = json.loads(answer.stdout)
    assert report["usable"] == (answer.returncode == 0)
    return answer.returncode, {step["step"].split()[0]: step for step in report["steps"]}


def test_a_usable_database_passes_every_step(postgres):
    """Each with the facts behind it."""
    code, steps = diagnosed(postgres.url)
    assert code == 0
    assert list(steps) == [
        "URL",
        "TCP",
        "TLS",
        "login",
        "pooler",
        "version",
        "mode",
        "role",
        "connections",
        "round",
    ]
    assert not [step for step in steps.values() if step["verdict"] == "failed"]
    assert steps["pooler"]["facts"]["mode"] is None
    assert steps["connections"]["facts"]["left"] > 0
    assert steps["role"]["facts"]["superuser"] is True


def test_the_text_names_what_is_wrong_and_what_to_do(postgres):
    """For people, and without the password."""
    answer = poolkeeper("check", changed(postgres.url, password="hush-hush"))
    assert answer.returncode == 1
    assert "✗ login" in answer.stdout
    assert "28P01" in answer.stdout
    assert "percent-encoded" in answer.stdout
    assert "The database cannot be used." in answer.stdout
    assert "hush" not in answer.stdout + answer.stderr


def test_the_url_may_come_from_the_environment(postgres):
    """DATABASE_URL, as for the pool."""
    answer = poolkeeper("check", env={"DATABASE_URL": postgres.url})
    assert answer.returncode == 0
    assert "can be used" in answer.stdout
    nothing = poolkeeper("check")
    assert nothing.returncode == 2
    assert "Suggestion: " in nothing.stderr


@pytest.mark.parametrize(
    ("change", "failed", "words"),
    [
        ({"password": "wr0ng"}, "login", "28P01"),
        ({"dbname": "nowhere"}, "login", "3D000"),
        ({"port": "1"}, "TCP", "refused"),
        ({"host": "no.such.host.invalid"}, "DNS", "no address"),
        ({"port": "0"}, "URL", "port"),
    ],
)
def test_the_first_obstacle_is_named(postgres, change, failed, words):
    """The steps after it are left out."""
    code, steps = diagnosed(changed(postgres.url, **change))
    step = list(steps.values())[-1]
    assert (code, step["step"].split()[0], step["verdict"]) == (1, failed, "failed")
    assert words in step["summary"]
    assert step["advice"]


def test_tls_that_is_required_and_not_offered_is_a_failure(postgres):
    """It says both sides of the contradiction."""
    code, steps = diagnosed(f"{postgres.url}?sslmode=require")
    assert (code, steps["TLS"]["verdict"]) == (1, "failed")
    assert "sslmode=require" in steps["TLS"]["summary"]


def test_roles_and_limits_are_examined(postgres):
    """What a role may do and how many connections are left for it."""
    with psycopg.connect(postgres.url, autocommit=True) as admin:
        admin.execute(f"create role r_{postgres.name} login password 'pw' connection limit 3")
        try:
            _code, steps = diagnosed(
                changed(postgres.url, user=f"r_{postgres.name}", password="pw")
            )
        finally:
            admin.execute(f"drop role r_{postgres.name}")
    assert steps["role"]["facts"]["superuser"] is False
    assert steps["connections"]["verdict"] == "warning"
    assert steps["connections"]["facts"]["left"] <= 2


def test_a_read_only_database_is_a_warning(postgres):
    """Reading works."""
    with psycopg.connect(postgres.url, autocommit=True) as admin:
        admin.execute(f"alter database {postgres.name} set default_transaction_read_only = on")
    code, steps = diagnosed(postgres.url)
    assert (code, steps["mode"]["verdict"]) == (0, "warning")
    assert "25006" in steps["mode"]["advice"]


@contextlib.contextmanager
def peer(answer):
    """A TCP server that says this much to whoever talks to it, and then nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as open_ones:

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    sock, _address = listener.accept()
                    open_ones.enter_context(sock)
                    if answer:
                        sock.recv(8)
                        sock.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"postgresql://a:b@127.0.0.1:{listener.getsockname()[1]}/c"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize(
    ("says", "failed", "words"),
    [
        (b"", "TLS", "said nothing"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "TLS", "does not speak PostgreSQL"),
        (b"N", "login", "no answer"),
        (b"S", "TLS", "said nothing"),
    ],
)
def test_a_peer_that_is_no_postgresql_is_found_out_in_time(says, failed, words):
    """Silence is bounded at every step."""
    with peer(says) as url:
        code, steps = diagnosed(url)
    step = list(steps.values())[-1]
    assert (code, step["step"].split()[0]) == (1, failed)
    assert words in step["summary"]
    assert step["advice"]
