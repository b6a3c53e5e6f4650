"""Operations as JSON."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, Final

from poolkeeper.server.status_page import secrets_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from poolkeeper.operations.model import OperationStatus
    from poolkeeper.server.parts import Parts

_LONGEST_RAW: Final = 8 * 1024
"""Of a rejected row that much is shown; it may be as long as a file."""


def operation_documents(parts: Parts, statuses: Iterable[OperationStatus]) -> list[dict[str, Any]]:
    """Each as `operation_document`."""
    secrets = secrets_of(parts)
    return [secrets.clean(_facts(parts, status)) for status in statuses]


def operation_document(parts: Parts, status: OperationStatus) -> dict[str, Any]:
    """Everything about one operation, without secrets.

    ``waiting_for`` says why it does not go on right now, if this server works on it.
    """
    [document] = operation_documents(parts, [status])
    return document


def _facts(parts: Parts, status: OperationStatus) -> dict[str, Any]:
    parts.operations.known = True
    document = status.to_dict()
    # What it was asked to do, beside what that means.
    document["spec"] = {key: value for key, value in status.spec.items() if key != "asked"}
    document["waiting_for"] = parts.operations.waiting_for(status.id)
    return document


def reject_document(reject: Mapping[str, Any]) -> dict[str, Any]:
    """One row that was left out; ``raw_base64`` in place of ``raw`` where that is no UTF-8."""
    raw = bytes(reject["raw"])
    shown = raw[:_LONGEST_RAW]
    document: dict[str, Any] = {
        "line": reject["line"],
        "sqlstate": reject["sqlstate"],
        "message": reject["message"],
        "truncated": len(raw) > len(shown),
    }
    try:
        # What was cut off may have been the rest of a character.
        text = shown.decode(errors="ignore") if document["truncated"] else shown.decode()
    except UnicodeDecodeError:
        return {**document, "raw_base64": base64.b64encode(shown).decode()}
    return {**document, "raw": text}


def encoded(content: object) -> bytes:
    """JSON in UTF-8."""
    return json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")
