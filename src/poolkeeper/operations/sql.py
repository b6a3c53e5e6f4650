"""Names and values as SQL; pure."""

from __future__ import annotations

import json
from typing import Any


def identifier(name: str) -> str:
    """A name as SQL, exactly as it is written."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: Any) -> str:
    """A constant as SQL; its type is for the context to say.

    Raises:
        ValueError: PostgreSQL has no text like that.
    """
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, dict | list):
        text = json.dumps(value, ensure_ascii=False)
    else:
        text = str(value)
    if "\0" in text:
        raise ValueError("PostgreSQL has no character NUL")
    text = text.replace("'", "''")
    # means the same whatever standard_conforming_strings is
    return f"E'{text}'".replace("\\", "\\\\") if "\\" in text else f"'{text}'"
