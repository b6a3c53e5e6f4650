"""Operations of a server touch the files they may touch, whoever wrote what they are to do."""

from copy import deepcopy

import pytest

from poolkeeper.operations.confinement import confined, place_in
from poolkeeper.operations.errors import NotHereError


class Recording:
    """A kind that notes what it was asked for; what it does itself does not matter here."""

    tunable = frozenset()
    sizing = None

    def __init__(self, name):
        self.name = name
        self.started = []
        self.begun = []

    def start(self, spec, _fingerprint, _chunks):
        self.started.append(spec)
        return self

    async def begin(self, _connection, cursor):
        self.begun.append(cursor)


@pytest.fixture
def home(tmp_path):
    home = tmp_path / "home"
    (home / "sub").mkdir(parents=True)
    (home / "people.csv").write_text("id\n1\n")
    (tmp_path / "secret").write_text("no")
    (home / "link.csv").symlink_to(home / "people.csv")
    (home / "out").symlink_to(tmp_path)
    (home / "loop").symlink_to(home / "loop")
    return home


@pytest.mark.parametrize("given", ["people.csv", "./people.csv", "link.csv"])
def test_a_relative_path_is_one_below_the_directory(home, given):
    """Links that stay inside are followed; an absolute path inside is as good."""
    assert place_in(home, given) == home / "people.csv"
    assert place_in(home, str(home / given)) == home / "people.csv"


@pytest.mark.parametrize(
    "given",
    [
        "",
        ".",
        "/",
        "../secret",
        "sub/../people.csv",
        "out/secret",
        "out",
        "loop",
        "/etc/passwd",
        "a\0b",
    ],
)
def test_no_path_leads_out_of_the_directory(home, given):
    """Not by .., by links or by being absolute; and the message says what to do."""
    with pytest.raises(NotHereError, match=r"Suggestion: "):
        place_in(home, given)


def test_without_a_directory_no_file_is_touched():
    """Those kinds are not even claimed."""
    kinds = {name: Recording(name) for name in ("load", "export", "backfill", "custom")}
    assert set(confined(kinds, None)) == {"backfill", "custom"}


GOOD = {"directory": "sub", "file": None, "suffix": ".csv"}
CURSOR = {
    "export": "1f2e3d4c",
    "attempt": 2,
    "written": {"part": 1, "attempt": 1, "finished": [{"part": 1, "attempt": 1, "size": 3}]},
}


def test_a_load_in_the_table_is_believed_inside_only(home):
    """Whoever may write to the table might have put it there."""
    recording = Recording("load")
    kind = confined({"load": recording}, home)["load"]
    kind.start({"path": str(home / "people.csv")}, None, None)
    for path in ("/etc/passwd", str(home / "out" / "secret"), None):
        with pytest.raises(NotHereError):
            kind.start({"path": path}, None, None)
    assert len(recording.started) == 1


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("spec", "directory"), "/etc"),
        (("spec", "directory"), "out"),
        (("spec", "file"), "../secret"),
        (("spec", "file"), "/etc/cron.d/x"),
        (("spec", "suffix"), "/../../../secret"),
        (("cursor", "export"), "/../../x"),
        (("cursor", "attempt"), "/../x"),
        (("cursor", "written", "attempt"), "/../x"),
        (("cursor", "written", "finished", 0, "part"), "/../x"),
    ],
)
async def test_an_export_in_the_table_is_believed_inside_only(home, where, value):
    """Nor do the names of its files, which are made of its spec and its checkpoint."""
    told = {"spec": {**GOOD, "directory": str(home / "sub")}, "cursor": deepcopy(CURSOR)}

    async def carry_out():
        kind = confined({"export": Recording("export")}, home)["export"]
        run = kind.start(told["spec"], None, None)
        await run.begin(None, told["cursor"])

    await carry_out()
    place = told
    for step in where[:-1]:
        place = place[step]
    place[where[-1]] = value
    with pytest.raises(NotHereError):
        await carry_out()
