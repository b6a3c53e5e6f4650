"""Remember verdicts, so that judging a repeated statement costs one dict look-up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poolkeeper.session_reset.classifier import MAX_CHARACTERS, Verdict, classify

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class _Texts(dict[str, Verdict]):
    """Verdicts by text, bounded in number and in characters; the oldest goes first."""

    __slots__ = ("characters", "max_characters", "max_entries")

    def __init__(self, max_entries: int, max_characters: int) -> None:
        super().__init__()
        self.max_entries = max_entries
        self.max_characters = max_characters
        self.characters = 0

    def remember(self, sql: str, verdict: Verdict) -> None:
        self[sql] = verdict
        self.characters += len(sql)
        while len(self) > self.max_entries or self.characters > self.max_characters:
            oldest = next(iter(self))
            del self[oldest]
            self.characters -= len(oldest)


class StatementClassifier:
    """Remembers verdicts, so that a repeated text costs one dict look-up.

    ``clean`` holds the texts known to be clean; test membership on the hot path::

        if sql not in classifier.clean:
            verdict = classifier.verdict(sql)

    Not for use by several threads at once.
    """

    __slots__ = ("_also_harmless", "_clean", "_dirty", "clean")

    def __init__(
        self,
        *,
        also_harmless: Iterable[str] = (),
        max_entries: int = 10_000,
        max_characters: int = 4_000_000,
    ) -> None:
        """Create an empty classifier.

        Args:
            also_harmless: Names of the user's own functions to trust, as the catalog spells them.
            max_entries: Texts remembered per verdict, clean and dirty each.
            max_characters: Sum of their lengths, clean and dirty each.
        """
        self._clean = _Texts(max_entries, max_characters)
        self.clean: Mapping[str, Verdict] = self._clean
        self._dirty = _Texts(max_entries, max_characters)
        self._also_harmless = frozenset(also_harmless)

    def verdict(self, sql: str) -> Verdict:
        """Judge ``sql``, from memory where possible."""
        known = self.clean.get(sql) or self._dirty.get(sql)
        if known is not None:
            return known
        verdict = classify(sql, also_harmless=self._also_harmless)
        if len(sql) <= MAX_CHARACTERS:
            (self._clean if verdict.clean else self._dirty).remember(sql, verdict)
        return verdict
