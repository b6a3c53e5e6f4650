"""What the core asks for. The pool carries it out and reports the outcome back."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from poolkeeper.core.slots import Slot
    from poolkeeper.core.waiters import Ticket
    from poolkeeper.snapshot import PoolSnapshot


class Refusal(Enum):
    """Why a request ends without a connection."""

    TIMEOUT = "timeout"
    VALIDATION = "validation"
    HOPELESS = "hopeless"
    QUEUE_FULL = "queue_full"
    UNAVAILABLE = "unavailable"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Connect:
    """Dial a connection for ``slot``; report ``connected`` or ``connect_failed``."""

    slot: Slot


@dataclass(frozen=True, slots=True)
class Validate:
    """Probe the connection of ``slot``; report ``validated`` or ``validation_failed``."""

    slot: Slot


@dataclass(frozen=True, slots=True)
class Reset:
    """Clean the session of ``slot``; report ``reset_done`` or ``reset_failed``."""

    slot: Slot


@dataclass(frozen=True, slots=True)
class Close:
    """Close the connection of ``slot``; report ``closed``.

    With ``abort`` there is nobody to say goodbye to: drop the transport and do not wait.
    """

    slot: Slot
    reason: str
    abort: bool = False


@dataclass(frozen=True, slots=True)
class Grant:
    """``ticket`` has been given ``slot``; wake its owner."""

    ticket: Ticket
    slot: Slot


@dataclass(frozen=True, slots=True)
class Refuse:
    """``ticket`` ends without a connection; tell its owner why.

    ``snapshot`` is what that was decided on: whoever waited still waits in it.
    """

    ticket: Ticket
    why: Refusal
    snapshot: PoolSnapshot


@dataclass(frozen=True, slots=True)
class OutageBegan:
    """The last usable connection is gone and not by our own doing.

    Attributes:
        silent_for: Seconds between the last sign of life and now.
        connections_lost: How many connections went with it.
    """

    silent_for: float
    connections_lost: int
    reason: str


@dataclass(frozen=True, slots=True)
class OutageEnded:
    """A connection could be opened again."""

    duration: float


Effect = Connect | Validate | Reset | Close | Grant | Refuse | OutageBegan | OutageEnded
