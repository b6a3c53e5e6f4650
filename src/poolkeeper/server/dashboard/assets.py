"""The files of the page, kept in memory and served with what makes browsers careful with them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}

_CAREFUL = {
    # Only what comes from here; no script or style in the page itself, and none made from text.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Asked for each time and mostly answered with 304, so that an upgrade is seen at once.
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file."""

    content: bytes
    media_type: str
    etag: str

    async def __call__(self, request: Request) -> Response:
        """Give the file, or 304 to a browser that has it."""
        headers = {**_CAREFUL, "ETag": self.etag}
        known = request.headers.get("if-none-match", "")
        if self.etag in (tag.strip().removeprefix("W/") for tag in known.split(",")):
            return Response(status_code=304, headers=headers)
        return Response(self.content, headers=headers, media_type=self.media_type)


def load_assets() -> Mapping[str, Asset]:
    """All files of the page by name."""
    found = {}
    for file in files("poolkeeper.server.dashboard").joinpath("static").iterdir():
        media_type = _MEDIA_TYPES.get(f".{file.name.rpartition('.')[2]}")
        if media_type is not None:
            content = file.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            found[file.name] = Asset(content, media_type, f'"{digest[:32]}"')
    return found
