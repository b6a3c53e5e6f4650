"""Who may use the server: everybody with the token, or everybody on this machine."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from poolkeeper.server.origin import is_local_origin
from poolkeeper.server.status import UnauthorizedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from poolkeeper.server.settings import Token


class Access:
    """Decides by the headers of a request."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = [(token.secret.encode(), token) for token in tokens]

    def check(self, headers: Mapping[str, str]) -> Token | None:
        """Let the request pass or raise; the token it showed, None where none is asked for.

        Raises:
            UnauthorizedError: No token, a wrong one, or a web page from elsewhere.
        """
        if not self._tokens:
            origin = headers.get("origin")
            if origin is not None and not is_local_origin(origin):
                raise UnauthorizedError(
                    f"Pages of {origin} may not use this server, because it asks for no token. "
                    "Suggestion: start it with --token and send Authorization: Bearer <token>."
                )
            return None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        shown = given.strip().encode()
        # Every token is compared, so that the time tells nothing about any of them.
        matches = [token for secret, token in self._tokens if hmac.compare_digest(shown, secret)]
        if scheme.lower() != "bearer" or not matches:
            raise UnauthorizedError(
                "missing authentication credentials. "
                "Suggestion: send the header Authorization: Bearer <token>, with the token the "
                "server was started with (--token or POOLKEEPER_TOKEN)."
            )
        return matches[0]

    def cors_headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Which pages may read the answer."""
        if self._tokens:
            return {"Access-Control-Allow-Origin": "*"}
        origin = headers.get("origin")
        if origin is None:
            return {"Access-Control-Allow-Origin": "*"}
        allowed = {"Access-Control-Allow-Origin": origin} if is_local_origin(origin) else {}
        return {**allowed, "Vary": "Origin"}
