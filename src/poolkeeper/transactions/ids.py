"""Ids of transactions: UUIDs of version 7, which begin with the time they were made."""

from __future__ import annotations

import os
from time import time
from uuid import RFC_4122, UUID

from poolkeeper.exceptions import PoolUsageError

_VERSION_7 = 0x7 << 76
_VARIANT = 0b10 << 62
_RANDOM_HIGH = (1 << 12) - 1
_RANDOM_LOW = (1 << 62) - 1


def new_id() -> UUID:
    """Make an id nobody else makes; ids made later sort later, to the millisecond."""
    random = int.from_bytes(os.urandom(10))
    milliseconds = int(time() * 1000)
    return UUID(
        int=milliseconds << 80
        | _VERSION_7
        | (random >> 62 & _RANDOM_HIGH) << 64
        | _VARIANT
        | random & _RANDOM_LOW
    )


def id_from(given: UUID | str) -> UUID:
    """An id as it comes from a header or a message.

    Raises:
        PoolUsageError: It is not a UUID.
    """
    if isinstance(given, UUID):
        return given
    try:
        return UUID(given)
    except (AttributeError, TypeError, ValueError):
        raise PoolUsageError(
            f"The id of a transaction is a UUID, not {given!r}. Suggestion: make one of your key, "
            "as in uuid.uuid5(uuid.NAMESPACE_URL, key)."
        ) from None


def age_of(key: UUID) -> float | None:
    """Seconds since the id was made by this machine's clock; None where it does not tell."""
    if key.version != 7 or key.variant != RFC_4122:
        return None
    return time() - (key.int >> 80) / 1000
