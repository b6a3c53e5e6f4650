"""What every contender is given alike: how many clients, how many connections, which time-outs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from poolkeeper.config import PoolConfig

SCHEMA = "poolkeeper_drill"
"""Everything a drill creates is in here, and goes when the drill ends."""

APPLICATION = "poolkeeper-drill"
"""``application_name`` of the connections under test."""

THINGS = 1000
"""Rows to read by key."""


@dataclass(frozen=True, slots=True)
class Terms:
    """Durations are seconds."""

    clients: int = 50
    connections: int = 10
    acquire_timeout: float = 10.0
    command_timeout: float = 5.0
    connect_timeout: float = 10.0
    patience: float = 20.0
    """More than the bound. A call that takes longer is given up by its client and counts as hung,
    whatever becomes of it."""
    pause_after_error: float = 0.05
    """What a client waits after an error, as a real one would, before it calls again."""

    @property
    def bound(self) -> float:
        """What a call may take: it waits for a connection, and then for its statement."""
        return self.acquire_timeout + self.command_timeout


def environment_terms(clients: int) -> Terms:
    """The usual terms, with what ``POOL_…`` variables say instead.

    Without a time-out for statements calls would have no bound to be held to: there the usual one
    stays.

    Raises:
        PoolConfigurationError: A variable has a value that cannot be used.
    """
    config = PoolConfig(database_url="postgresql://localhost/drill")
    found = {
        "connections": "max_size",
        "acquire_timeout": "timeout",
        "command_timeout": "command_timeout",
        "connect_timeout": "connect_timeout",
    }
    chosen = {
        term: value
        for term, option in found.items()
        if option in config.model_fields_set and (value := getattr(config, option)) is not None
    }
    terms = replace(Terms(), clients=clients, **chosen)
    return replace(terms, patience=terms.bound + 5.0)


def thing(key: int) -> str:
    """What a read of ``key`` must return."""
    return f"thing {key}"
