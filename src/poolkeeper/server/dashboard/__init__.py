"""The page at ``/``: the pool, its queue and its outages as they happen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request

    from poolkeeper.server.parts import Parts

_FRONT_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>poolkeeper</title>
<style>body{font:16px/1.5 system-ui;margin:3rem auto;max-width:44rem;padding:0 1rem}
code{background:#8882;padding:.1em .3em}</style>
<h1>poolkeeper</h1>
<p>A PostgreSQL connection pool behind HTTP. It speaks Neon's SQL-over-HTTP protocol.</p>
<ul>
<li><code>POST /sql</code> runs <code>{"query": "select $1::int", "params": [1]}</code>,
or <code>{"queries": [...]}</code> as one transaction</li>
<li><a href="/health"><code>GET /health</code></a> state of database and pool</li>
<li><a href="/metrics"><code>GET /metrics</code></a> for Prometheus</li>
<li><a href="/livez"><code>/livez</code></a>, <a href="/readyz"><code>/readyz</code></a>,
<a href="/startupz"><code>/startupz</code></a> for an orchestrator</li>
</ul>
</html>
"""


def dashboard_routes(_parts: Parts) -> list[Route]:
    """The page and what it loads."""

    async def front_page(_request: Request) -> Response:
        return HTMLResponse(_FRONT_PAGE)

    return [Route("/", front_page)]
