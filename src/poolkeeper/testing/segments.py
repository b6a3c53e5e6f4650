"""What the fault proxy passes on, piece by piece, and what may become of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from poolkeeper.testing.links import Link
    from poolkeeper.testing.wire import Direction, Message


class Verdict(enum.Enum):
    """What becomes of a segment.

    Attributes:
        PASS: It is delivered.
        DROP: It is swallowed, and the link is silent in both directions from then on.
        LOSE: It is swallowed, and both sides get RST.
        DELIVER_THEN_RESET: It is delivered, then the client gets RST. The server hears of that
            only after it has answered; its answer is swallowed.
        HOLD: It and all that follows on this link in this direction waits for `release()`.
    """

    PASS = enum.auto()
    DROP = enum.auto()
    LOSE = enum.auto()
    DELIVER_THEN_RESET = enum.auto()
    HOLD = enum.auto()


class FaultProxyError(RuntimeError):
    """The proxy cannot do what was asked of it."""


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Messages that are delivered or lost as a whole; see `poolkeeper.testing.wire`.

    Attributes:
        index: 0, 1, 2, … in the order of arrival at the proxy, over all links and directions.
        link: The connection it belongs to.
        direction: `TO_SERVER` or `TO_CLIENT`.
        messages: What it consists of.
        text: SQL of the first Query or Parse in it, or of the statement a Bind in it names; None
            if there is none.
        data: Its bytes.
    """

    index: int
    link: Link
    direction: Direction
    messages: tuple[Message, ...]
    text: str | None
    data: bytes = field(repr=False)

    @property
    def types(self) -> str:
        """The type letters of its messages, such as `PBDES`; packets without one by name."""
        return "".join(message.type for message in self.messages)


@dataclass(frozen=True, slots=True)
class Shape:
    """How slow the network is. Seconds, bytes per second, bytes."""

    latency: float = 0.0
    jitter: float = 0.0
    bandwidth: float | None = None
    slice_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Unread:
    """Bytes nobody can read."""

    data: bytes = field(repr=False)
    reason: str


@dataclass(frozen=True, slots=True)
class End:
    """The sender has finished, or broken off."""

    error: OSError | None
    data: bytes = b""


def unreadable(reason: str) -> FaultProxyError:
    """Why segments cannot be seen."""
    option = "gssencmode" if "GSSAPI" in reason else "sslmode"
    return FaultProxyError(
        f"The bytes on a link of this proxy cannot be read: {reason}. Segments, and a policy for "
        "them, need a connection that is not encrypted; faults that need no segments work all the "
        f"same. Suggestion: connect with {option}=disable through the proxy."
    )
