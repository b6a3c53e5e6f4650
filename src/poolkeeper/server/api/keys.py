"""Idempotency keys: the names clients give to transactions that must not happen twice."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from uuid import NAMESPACE_URL, UUID, uuid5

from poolkeeper.server.neon.request import BadRequestError
from poolkeeper.transactions.ids import age_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from poolkeeper.server.settings import Token

HEADER = "idempotency-key"
LONGEST = 255

_KEY = re.compile(rf"[\x20-\x7e]{{1,{LONGEST}}}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_NAMESPACE = uuid5(NAMESPACE_URL, "urn:poolkeeper:idempotency-key")


def key_of(headers: Mapping[str, str], token: Token | None, retention: float) -> UUID | None:
    """The transaction id of the key a request carries, None without one.

    Raises:
        BadRequestError: It cannot be a key, or is too old to be one.
    """
    given = headers.get(HEADER)
    if given is None:
        return None
    # The draft standard writes it as a quoted string.
    if len(given) > 2 and given[0] == given[-1] == '"':
        given = given[1:-1]
    return transaction_id(given, token, retention)


def transaction_id(key: str, token: Token | None, retention: float) -> UUID:
    """The id of the transaction with this key: the key itself if it is a UUID.

    Any other text is the token's own, so that clients with different tokens need not agree on
    their keys.

    Args:
        key: As the client gave it.
        token: The client's.
        retention: Seconds transactions are remembered for.

    Raises:
        BadRequestError: It cannot be a key, or is too old to be one.
    """
    if not _KEY.fullmatch(key):
        raise BadRequestError(
            f"A key of a transaction has 1 to {LONGEST} printable ASCII characters. "
            "Suggestion: send a new UUID for each transaction as Idempotency-Key."
        )
    if not _UUID.fullmatch(key):
        owner = "" if token is None else token.name
        return uuid5(_NAMESPACE, f"{owner}\0{key}")
    name = UUID(key)
    age = age_of(name)
    if age is not None and age > retention:
        raise BadRequestError(
            f"The transaction {name} is {age:.0f} s old, and transactions are remembered for "
            f"{retention:.0f} s: whether it was committed before cannot be known. "
            "Suggestion: use a new key, or raise POOL_LEDGER_RETENTION."
        )
    return name
