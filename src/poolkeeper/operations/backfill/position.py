"""How far a backfill is; what its checkpoints hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Position:
    """A checkpoint.

    Attributes:
        key: The last key that is done, as texts; None: the beginning of the table.
        number: Which pass over the table this is, from 1.
        changed: Rows this pass has changed so far.
        visited: Rows all passes have gone through, about.
    """

    key: tuple[str, ...] | None = None
    number: int = 1
    changed: int = 0
    visited: int = 0

    @classmethod
    def of(cls, cursor: dict[str, Any]) -> Self:
        """What is stored."""
        key = cursor["key"]
        return cls(
            key=None if key is None else tuple(key),
            number=cursor["pass"],
            changed=cursor["changed"],
            visited=cursor["visited"],
        )

    def to_cursor(self) -> dict[str, Any]:
        """The other way round."""
        return {
            "key": None if self.key is None else list(self.key),
            "pass": self.number,
            "changed": self.changed,
            "visited": self.visited,
        }

    def after(self, key: Sequence[str], *, visited: int, changed: int) -> Self:
        """The place after a range of keys that ends with ``key``."""
        return replace(
            self,
            key=tuple(key),
            visited=self.visited + visited,
            changed=self.changed + changed,
        )

    def next_pass(self) -> Self:
        """The beginning of the table again."""
        return replace(self, key=None, number=self.number + 1, changed=0)
