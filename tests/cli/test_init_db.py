"""``poolkeeper init-db`` says which of its steps failed, and what to do."""

from tests.cli.commands import poolkeeper


def test_a_wrong_password_is_called_that(postgres):
    """Rights are not the problem."""
    url = postgres.url.replace(postgres.server.password, "wrong")
    done = poolkeeper("init-db", url)
    assert done.returncode == 1
    assert "check host, user name and password" in " ".join(done.stderr.split())


def test_a_role_to_grant_to_must_exist(postgres):
    """The tables are there by then, and it may be run again."""
    done = poolkeeper("init-db", postgres.url, "--grant-to", "nobody_of_that_name")
    assert done.returncode == 1
    assert "roles to grant to must exist" in " ".join(done.stderr.split())
    assert poolkeeper("init-db", postgres.url).returncode == 0
