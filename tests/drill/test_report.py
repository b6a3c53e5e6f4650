"""The pages a drill leaves behind."""

import json
import re
from xml.etree import ElementTree as ET

import pytest

from poolkeeper.drill.clients import Call, Writes
from poolkeeper.drill.plot import figure
from poolkeeper.drill.report import Run, as_json, html, markdown, seconds, write
from poolkeeper.drill.terms import Terms
from tests.drill.test_measuring import outage, report

ERROR = Call("write", 1.5, 1.62, "Conn<ectionError")


def run(*reports):
    return Run("2026-01-01", "PostgreSQL", "a machine.", Terms(), list(reports))


KEPT = run(report(outage(ERROR)))
BROKEN = run(report(outage(), Writes(acknowledged={1})))


def test_a_drawing_is_a_well_formed_file_that_needs_nothing_else():
    """Errors of any name are escaped; nothing is loaded from anywhere."""
    text = figure([*KEPT.reports, *BROKEN.reports], columns=2)
    root = ET.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "Conn&lt;ectionError" in text
    assert set(re.findall(r"https?://[^\"]*", text)) == {"http://www.w3.org/2000/svg"}
    assert "prefers-color-scheme: dark" in text


def test_the_drawing_shows_the_hole_and_the_error():
    """One red column, and no success while nothing succeeded."""
    root = ET.fromstring(figure(KEPT.reports, columns=1))
    rects = [each for each in root.iter() if each.tag.endswith("rect")]
    assert len([each for each in rects if each.get("class") == "failed"]) == 1
    (broken,) = [each for each in rects if each.get("class") == "broken"]
    left = float(broken.get("x"))
    right = left + float(broken.get("width"))
    columns = [float(each.get("x")) for each in rects if each.get("class") == "done"]
    assert [x for x in columns if left + 1 < x < right - 12] == []
    assert min(columns) < left < right < max(columns)


@pytest.mark.parametrize("reports", [KEPT, BROKEN], ids=["kept", "broken"])
def test_all_pages_come_to_the_same_conclusion(reports, tmp_path):
    """Markdown, HTML and JSON."""
    written = {path.suffix: path.read_text() for path in write(reports, tmp_path / "new" / "one")}
    said = "Nothing was lost" if reports.kept else "1 acknowledged and lost"
    assert said in written[".md"]
    assert said in written[".html"]
    assert json.loads(written[".json"])["kept"] is reports.kept


def test_the_page_escapes_what_it_shows():
    assert "Conn<ectionError" not in html(KEPT)


def test_the_table_has_the_same_columns_in_every_row():
    lines = [line for line in markdown(KEPT).splitlines() if line.startswith("| ")]
    assert len({line.count("|") for line in lines[:3]}) == 1


def test_json_has_the_timeline():
    (found,) = json.loads(as_json(KEPT))["reports"]
    assert len(found["timeline"]) == 40


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0 ms"), (0.0494, "49 ms"), (0.9999, "1.00 s"), (12.34, "12.3 s")],
)
def test_durations_have_a_unit_and_no_noise(value, text):
    assert seconds(value) == text
