"""The HTTP side of search, one file per noun. `app.py` mounts `router`."""

from __future__ import annotations

from fastapi import APIRouter

from grace_server.index.routes import collections, documents, jobs, maps, search

router = APIRouter()
for part in (collections.router, documents.router, jobs.router, maps.router, search.router):
    router.include_router(part)
