"""Names of a request: its id, and the trace it belongs to (W3C Trace Context)."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_ACCEPTABLE_ID = re.compile(rb"[\w.:-]{1,128}", re.ASCII)
# Version 00, or a later one, which may have more after it; ff is not a version.
_TRACEPARENT = re.compile(
    rb"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(?P<more>-.*)?", re.DOTALL
)
_NO_TRACE = "0" * 32
_NO_SPAN = "0" * 16

# Names must differ, not be secret; the operating system need not be asked for each.
_bits = random.Random().getrandbits  # noqa: S311


def names_of(headers: Iterable[tuple[bytes, bytes]]) -> tuple[str, str, str | None]:
    """Request id, trace id and the client's span, new ones where the client sent no valid ones.

    Args:
        headers: As in an ASGI scope: names in lower case.
    """
    request_id = trace_id = None
    parent_id = None
    for name, value in headers:
        if name == b"x-request-id":
            if _ACCEPTABLE_ID.fullmatch(value):
                request_id = value.decode("ascii")
        elif name == b"traceparent":
            trace_id, parent_id = _parents(value)
    if request_id is None or trace_id is None:
        new = f"{_bits(128) or 1:032x}"
        trace_id = trace_id or new
        request_id = request_id or f"{new[:8]}-{new[8:12]}-{new[12:16]}-{new[16:20]}-{new[20:]}"
    return request_id, trace_id, parent_id


def _parents(value: bytes) -> tuple[str | None, str | None]:
    match = _TRACEPARENT.fullmatch(value)
    if match is None or (value[:2] == b"00" and match["more"]):
        return None, None
    trace_id, span_id = match[1].decode("ascii"), match[2].decode("ascii")
    if trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None, None
    return trace_id, span_id
