"""Who may use the server."""

import pytest
from starlette.datastructures import Headers

from poolkeeper.server.access import Access
from poolkeeper.server.origin import is_local_origin
from poolkeeper.server.settings import Token
from poolkeeper.server.status import UnauthorizedError


@pytest.mark.parametrize(
    ("origin", "local"),
    [
        ("http://localhost", True),
        ("http://localhost:3000", True),
        ("https://app.localhost:3000", True),
        ("http://127.0.0.1:8020", True),
        ("http://127.1.2.3", True),
        ("http://[::1]:80", True),
        ("https://example.com", False),
        ("https://localhost.example.com", False),
        ("http://127.0.0.1.example.com", False),
        ("http://10.0.0.1", False),
        ("null", False),
        ("", False),
        ("http://[", False),
    ],
)
def test_a_local_page_is_told_from_a_strangers(origin, local):
    """By the host of its origin, nothing else."""
    assert is_local_origin(origin) is local


def test_with_a_token_the_origin_does_not_matter():
    """Whoever has the token may use it from any page."""
    access = Access([Token("default", "t0k")])
    headers = Headers({"Origin": "https://example.com", "Authorization": "bearer t0k"})
    access.check(headers)
    assert access.cors_headers(headers) == {"Access-Control-Allow-Origin": "*"}


@pytest.mark.parametrize(
    "given", [None, "t0k", "Bearer", "Bearer ", "Basic t0k", "Bearer t0k2", "Bearer ü"]
)
def test_anything_but_the_token_is_refused(given):
    """Also when it looks similar."""
    headers = Headers(raw=[(b"authorization", given.encode())] if given is not None else [])
    with pytest.raises(UnauthorizedError, match="Suggestion: "):
        Access([Token("default", "t0k")]).check(headers)
