"""Who may use the server: everybody with the token, or everybody on this machine."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from poolkeeper.server.origin import is_local_origin
from poolkeeper.server.status import UnauthorizedError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Access:
    """Decides by the headers of a request."""

    def __init__(self, token: str | None) -> None:
        self._token = token.encode() if token is not None else None

    def check(self, headers: Mapping[str, str]) -> None:
        """Let the request pass or raise.

        Raises:
            UnauthorizedError: No token, a wrong one, or a web page from elsewhere.
        """
        if self._token is None:
            origin = headers.get("origin")
            if origin is not None and not is_local_origin(origin):
                raise UnauthorizedError(
                    f"Pages of {origin} may not use this server, because it asks for no token. "
                    "Suggestion: start it with --token and send Authorization: Bearer <token>."
                )
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(
            given.strip().encode(), self._token
        ):
            raise UnauthorizedError(
                "missing authentication credentials. "
                "Suggestion: send the header Authorization: Bearer <token>, with the token the "
                "server was started with (--token or POOLKEEPER_TOKEN)."
            )

    def cors_headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Which pages may read the answer."""
        if self._token is not None:
            return {"Access-Control-Allow-Origin": "*"}
        origin = headers.get("origin")
        if origin is None:
            return {"Access-Control-Allow-Origin": "*"}
        allowed = {"Access-Control-Allow-Origin": origin} if is_local_origin(origin) else {}
        return {**allowed, "Vary": "Origin"}
