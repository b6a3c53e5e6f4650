"""Who may use the server: those with a token, or everybody on this machine."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

from poolkeeper.server.origin import (
    is_local_origin,
    is_own_host,
    is_same_origin,
    is_this_machine,
)
from poolkeeper.server.status import UnauthorizedError
from poolkeeper.server.turned_away import ForbiddenError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from poolkeeper.server.settings import Token


class Access:
    """Decides by the headers of a request; the headers must find names regardless of case.

    Args:
        tokens: One of them is asked for; none asks for nothing.
        cors_origins: Web pages that may use the server and read its answers; ``*`` is any.
        hosts: Names and addresses it was told to listen on.
    """

    def __init__(
        self,
        tokens: Sequence[Token] = (),
        *,
        cors_origins: Iterable[str] = (),
        hosts: Iterable[str] = (),
    ) -> None:
        self._cors_origins = frozenset(origin.rstrip("/").lower() for origin in cors_origins)
        self._hosts = frozenset(host.lower() for host in hosts)
        self._open_to_network = not all(is_this_machine(host) for host in self._hosts)
        # Every request without a token carries the same few; bounded by being replaced when full.
        self._own_hosts: set[str] = set()
        self._tokens: list[tuple[bytes, Token]] = []
        self._secrets: tuple[str, ...] = ()
        self.replace_tokens(tokens)

    @property
    def asks_for_token(self) -> bool:
        """Whether a request needs one."""
        return bool(self._tokens)

    @property
    def has_several_tokens(self) -> bool:
        """Whether clients can be told apart."""
        return len(self._tokens) > 1

    @property
    def secrets(self) -> tuple[str, ...]:
        """What nobody may read: also of earlier tokens, which may go on under their hash."""
        return self._secrets

    def replace_tokens(self, tokens: Sequence[Token]) -> None:
        """From the next request on, these count. Requests that were let in go on.

        Raises:
            ValueError: There are none. A server that asks for tokens never ceases to.
        """
        if self._tokens and not tokens:
            raise ValueError(
                "Without any token everybody would be let in. Suggestion: keep one, or restart."
            )
        self._tokens = [(token.digest(), token) for token in tokens]
        given = [token.secret for token in tokens if token.secret]
        if fresh := [secret for secret in given if secret not in self._secrets]:
            self._secrets += tuple(fresh)

    def check(self, headers: Mapping[str, str]) -> Token | None:
        """Let the request pass or raise; the token it showed, None where none is asked for.

        Raises:
            UnauthorizedError: No token, or a wrong one.
            ForbiddenError: No token is asked for, and the request comes from a web page of others.
        """
        if not self._tokens:
            self._check_page(headers)
            return None
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        token = None
        if scheme.lower() == "bearer":
            # Header values are decoded as Latin-1, whatever the client meant by its bytes.
            token = self.token_for(secret.strip().encode("latin-1", "replace"))
        if token is None and scheme.lower() == "bearer" and secret.strip():
            raise UnauthorizedError(
                "The token was not accepted. Suggestion: send the one of --token, "
                "POOLKEEPER_TOKEN or a secret of --token-file."
            )
        if token is None:
            raise UnauthorizedError(
                "missing authentication credentials. "
                "Suggestion: send the header Authorization: Bearer <token>, with the token the "
                "server was started with (--token, POOLKEEPER_TOKEN or --token-file)."
            )
        return token

    def check_admin(self, headers: Mapping[str, str]) -> Token | None:
        """As `check`, for what only operators may do.

        Raises:
            UnauthorizedError: No token, or a wrong one.
            ForbiddenError: Not an admin's token, or a web page of others.
        """
        token = self.check(headers)
        if token is not None and not token.admin:
            raise ForbiddenError(
                f"The token {token.name!r} may not administer the server. "
                "Suggestion: use a token with admin = true, or the one given with --token."
            )
        return token

    def token_for(self, secret: bytes) -> Token | None:
        """The token with this secret, if there is one."""
        shown = hashlib.sha256(secret).digest()
        # Every token is compared, so that the time tells nothing about any of them.
        matches = [token for digest, token in self._tokens if hmac.compare_digest(shown, digest)]
        return matches[0] if matches and secret else None

    def _is_cors_origin(self, origin: str) -> bool:
        return "*" in self._cors_origins or origin.lower() in self._cors_origins

    def _check_page(self, headers: Mapping[str, str]) -> None:
        host = headers.get("host")
        if host is not None and host not in self._own_hosts:
            self._check_host(host)
        origin = headers.get("origin")
        if origin is None:
            # What a page loads as an image or script comes without one.
            if headers.get("sec-fetch-site") == "cross-site":
                raise _strange_page("other sites")
        elif not (
            is_local_origin(origin)
            or (host is not None and is_same_origin(origin, host))
            or self._is_cors_origin(origin)
        ):
            raise _strange_page(origin)

    def _check_host(self, host: str) -> None:
        if not is_own_host(host, self._hosts, open_to_network=self._open_to_network):
            raise ForbiddenError(
                f"This server asks for no token, so it may not be called by the name {host!r}, "
                "which a stranger's web page could use as well. Suggestion: call it by an address "
                "or as localhost, or start it with --token."
            )
        if len(self._own_hosts) >= 100:
            self._own_hosts.clear()
        self._own_hosts.add(host)


def _strange_page(whose: str) -> ForbiddenError:
    return ForbiddenError(
        f"Pages of {whose} may not use this server, because it asks for no token. "
        "Suggestion: start it with --token and send Authorization: Bearer <token>, or allow the "
        "page with --cors-origin."
    )
