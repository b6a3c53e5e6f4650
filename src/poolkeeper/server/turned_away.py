"""Why a request is turned away before anything of it is looked at."""

from __future__ import annotations


class ForbiddenError(Exception):
    """The request comes from a place that may not use the server, or its token may not do this."""


class RateLimitedError(Exception):
    """The token sent more requests than its rate allows.

    Attributes:
        retry_after: Seconds until its next request is let in.
    """

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TooManyRequestsError(Exception):
    """The token has as many requests waiting and running as it may."""
