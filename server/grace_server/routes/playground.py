"""`GET /`: the playground, a page that shows what the API does. Plain files, no build step, nothing from elsewhere.

The page holds no secret and asks for a key itself where the API wants one: like the probes it is open to everyone.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse, Response

from grace_server.errors import NotFound

router = APIRouter(include_in_schema=False)

FOLDER = Path(__file__).parent.parent / "playground"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
ASSETS = (
    "style.css",
    "icon.svg",
    "main.js",
    "api.js",
    "attribution.js",
    "compare.js",
    "dom.js",
    "embed.js",
    "hit.js",
    "indexes.js",
    "map.js",
    "palette.js",
    "picture.js",
    "plot.js",
    "ranking.js",
    "rows.js",
    "search.js",
    "sse.js",
    "upload.js",
)
PATHS = ("/", *(f"/playground/{name}" for name in ASSETS))

# Texts and rationales are hostile: even if one ever became markup, nothing in it could run, load or send.
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}


@router.get("/")
async def page() -> Response:
    """The page."""
    return _file("index.html")


@router.get("/playground/{name}")
async def asset(name: str) -> Response:
    """Its script, style and icon."""
    if name not in ASSETS:
        raise NotFound("there is nothing at this path")
    return _file(name)


def _file(name: str) -> Response:
    path = FOLDER / name
    return FileResponse(path, media_type=_TYPES[path.suffix], headers=HEADERS)
