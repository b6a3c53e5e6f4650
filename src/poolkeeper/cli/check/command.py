"""The command itself: what it takes, what it prints, how it ends."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from poolkeeper.cli.errors import RUNTIME_FAILURE, USAGE_FAILURE, CommandError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from poolkeeper.cli.check.findings import Finding, Verdict

_MARKS: dict[Verdict, tuple[str, str]] = {
    "ok": ("✓", "green"),
    "warning": ("!", "yellow"),
    "failed": ("✗", "red"),
}


HELP_TEXT = (
    "Find out what keeps a database from being used, step by step.\n\n"
    "Name, network, TLS, login, pooler, server, role, free connections and round trip. Every step "
    "that fails says what to do next. Nothing is changed in the database. "
    "The exit code is 0 when it can be used, 1 when not.\n\n"
    "[bold]Examples[/bold]\n\n"
    "  DATABASE_URL=postgresql://app:…@db.example.com/shop poolkeeper check\n\n"
    "  poolkeeper check postgresql://app@localhost/shop --json\n\n"
    "A password on the command line is visible to other users; use DATABASE_URL, PGPASSWORD or "
    "~/.pgpass."
)


def check(
    url: Annotated[
        str | None,
        typer.Argument(
            help="Database URL, postgresql://user@host:5432/database.",
            envvar="DATABASE_URL",
            show_default=False,
            show_envvar=True,
        ),
    ] = None,
    *,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds each step may take.")] = 5.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of text.")
    ] = False,
) -> None:
    """Examine ``url``; the help of the command is `HELP_TEXT`."""
    if not url:
        raise CommandError(
            "No database URL. Suggestion: set DATABASE_URL, or, if it needs no password, "
            "poolkeeper check postgresql://user@host/database.",
            exit_code=USAGE_FAILURE,
        )
    # psycopg takes a while to import, and the other commands do without
    from poolkeeper.cli.check.diagnosis import diagnose  # noqa: PLC0415

    findings = diagnose(url, timeout)
    usable = _print_json(findings) if as_json else _print_text(findings)
    if not usable:
        raise typer.Exit(RUNTIME_FAILURE)


def _print_json(findings: Iterable[Finding]) -> bool:
    steps = list(findings)
    usable = _usable(steps)
    document = {
        "usable": usable,
        "steps": [
            {
                "step": finding.step,
                "verdict": finding.verdict,
                "summary": finding.summary,
                "advice": finding.advice,
                "facts": dict(finding.facts),
            }
            for finding in steps
        ],
    }
    print(json.dumps(document, indent=2, ensure_ascii=False))
    return usable


def _print_text(findings: Iterable[Finding]) -> bool:
    console = Console(highlight=False, soft_wrap=True)
    steps = []
    for finding in findings:
        steps.append(finding)
        mark, color = _MARKS[finding.verdict]
        console.print(Text.assemble((f"{mark} {finding.step}: ", color), finding.summary))
        if finding.advice:
            console.print(Text(f"    {finding.advice}"))
    usable = _usable(steps)
    console.print(
        Text("The database can be used.", "bold green")
        if usable
        else Text("The database cannot be used.", "bold red")
    )
    return usable


def _usable(steps: list[Finding]) -> bool:
    """Whether at least one host let us in, which is what libpq needs."""
    return any(finding.step == "round trip" for finding in steps)
