"""The file with the tokens."""

import logging

import pytest

from poolkeeper.exceptions import PoolConfigurationError
from poolkeeper.server.settings import Token
from poolkeeper.server.token_file import read_tokens

SECRET = "correct-horse-battery"
DIGEST = "ab" * 32


def write(tmp_path, text, mode=0o600):
    path = tmp_path / "tokens.toml"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def test_every_option_of_a_token_can_be_given(tmp_path, caplog):
    """One table for each token, in order."""
    text = f"""
        # who may do what
        [[token]]
        name = "web"
        secret = "{SECRET}"
        max_concurrency = 20
        rate = 50
        burst = 100

        [[token]]
        name = "report@example.com"
        secret_sha256 = "{DIGEST.upper()}"
        read_only = true

        [[token]]
        name = "ops"
        secret = "{SECRET}-2"
        admin = true
        rate = 0.5
    """
    assert read_tokens(write(tmp_path, text)) == (
        Token("web", SECRET, max_concurrency=20, rate=50.0, burst=100),
        Token("report@example.com", secret_sha256=DIGEST, read_only=True),
        Token("ops", f"{SECRET}-2", admin=True, rate=0.5),
    )
    assert not caplog.records


GOOD = f'[[token]]\nname = "good"\nsecret = "{SECRET}-good"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no token"),
        ("token = 1", "not a list of tables"),
        ('[token]\nname = "web"', "not a list of tables"),
        (f"tokens = []\n{GOOD}", "unknown key 'tokens'"),
        (f"[[token]]\nsecret = {SECRET}", "line 2, column"),
        (f'{GOOD}[[token]]\nsecret = "{SECRET}"', "line 4: the token has no name"),
        (f'{GOOD}[[token]]\nname = "web"', "line 4: the token has no secret"),
        ('[[token]]\nname = "web"\nsecret = ""', "line 1: the token has no secret"),
        (
            f'[[token]]\nname = "web"\nsecret = "{SECRET}"\nsecret_sha256 = "{DIGEST}"',
            "has both secret and secret_sha256",
        ),
        ('[[token]]\nname = "web"\nsecret = "correct"', "has a secret that cannot be used"),
        (
            '[[token]]\nname = "web"\nsecret = "correct horse battery"',
            "has a secret that cannot be used",
        ),
        ('[[token]]\nname = "web"\nsecret_sha256 = "correct"', "has a secret_sha256 that cannot"),
        (f'[[token]]\nname = "a b"\nsecret = "{SECRET}"', "has a name that cannot be used"),
        (f'{GOOD}admin = "yes"', "line 1: the token has admin = 'yes'"),
        (f"{GOOD}rate = 0", "has rate = 0"),
        (f"{GOOD}rate = nan", "has rate = nan"),
        (f"{GOOD}rate = true", "has rate = True"),
        (f"{GOOD}burst = 0", "has burst = 0"),
        (f"{GOOD}max_concurrency = 1.5", "has max_concurrency = 1.5"),
        (f"{GOOD}max_concurrency = true", "has max_concurrency = True"),
        (f"{GOOD}maxconcurrency = 1", "unknown key 'maxconcurrency'"),
        (f"{GOOD}{GOOD}", "have the same name"),
        (f'{GOOD}[[token]]\nname = "other"\nsecret = "{SECRET}-good"', "have the same secret"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_never_with_the_secret(tmp_path, text, said):
    """A server that reads half of its tokens would be a surprise."""
    path = write(tmp_path, text)
    with pytest.raises(PoolConfigurationError, match="Suggestion: ") as caught:
        read_tokens(path)
    message = str(caught.value)
    assert said in message
    assert str(path) in message
    assert "correct" not in message


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    """With the reason."""
    with pytest.raises(PoolConfigurationError, match="No such file"):
        read_tokens(tmp_path / "missing.toml")
    path = tmp_path / "latin.toml"
    path.write_bytes(b"# \xff")
    with pytest.raises(PoolConfigurationError, match="not UTF-8"):
        read_tokens(path)


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, True), (0o604, True)])
def test_a_file_that_others_can_read_is_warned_about(tmp_path, caplog, mode, warned):
    """It is used all the same: mounted secrets often have such a mode."""
    with caplog.at_level(logging.WARNING):
        assert len(read_tokens(write(tmp_path, GOOD, mode))) == 1
    assert [r.message for r in caplog.records] == ["token_file_readable_by_others"] * warned
