"""What a statement can leave behind in its session, and how to remove it."""

from poolkeeper.session_reset.cache import StatementClassifier
from poolkeeper.session_reset.classifier import Verdict, classify
from poolkeeper.session_reset.cleaning import CLEANING_SQL, cleaning_sql

__all__ = ["CLEANING_SQL", "StatementClassifier", "Verdict", "classify", "cleaning_sql"]
