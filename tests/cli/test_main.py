"""The command before any subcommand does its work."""

import subprocess
import sys

import pytest

from tests.cli.commands import poolkeeper


def test_help_shows_commands_and_examples():
    """Also for those who type nothing at all."""
    text = poolkeeper("--help")
    assert text.returncode == 0
    assert "serve" in text.stdout
    assert "check" in text.stdout
    assert poolkeeper().returncode == 2
    for command in ("serve", "check"):
        text = poolkeeper(command, "--help").stdout
        assert f"poolkeeper {command}" in text
        assert "Examples" in text


def test_the_version_is_one_line():
    """For scripts and bug reports."""
    shown = poolkeeper("--version")
    assert shown.returncode == 0
    assert shown.stdout.startswith("poolkeeper ")
    assert shown.stdout.count("\n") == 1


@pytest.mark.parametrize("arguments", [["chekc"], ["serve", "--prot=1"], ["serve", "--port=x"]])
def test_a_wrong_call_exits_with_2_and_no_traceback(arguments):
    """With a hint where to look."""
    answer = poolkeeper(*arguments)
    assert answer.returncode == 2
    assert "Traceback" not in answer.stderr
    assert answer.stderr


def test_the_base_install_says_what_is_missing():
    """Instead of a traceback about typer."""
    program = (
        "import importlib.util, sys\n"
        "sys.argv[1:] = ['serve']\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name: None if name == 'typer' else find(name)\n"
        "from poolkeeper.cli.main import main\n"
        "sys.exit(main())\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 1
    assert answer.stderr.count("\n") == 1
    assert "(typer)" in answer.stderr
    assert "pip install 'poolkeeper[server]'" in answer.stderr


def test_debug_shows_where_a_command_failed():
    """Only then."""
    assert "Traceback" in poolkeeper("--debug", "serve", "--host=no.such.host.invalid").stderr
    assert "Traceback" not in poolkeeper("serve", "--host=no.such.host.invalid").stderr
