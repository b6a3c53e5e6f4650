"""Judges a recorded history against what the database holds at the end.

::

    report = check(history, FinalRead(inserts=[row["id"] for row in rows]))
    assert report.ok, str(report)
"""

from poolkeeper.testing.checker.evidence import Bounds, FinalRead, Finding, Kind
from poolkeeper.testing.checker.report import Report, check, combined

__all__ = ["Bounds", "FinalRead", "Finding", "Kind", "Report", "check", "combined"]
