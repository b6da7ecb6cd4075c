"""Indexes and their aliases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grace_client import results, wire
from grace_client._async.http import AsyncHttp


class AsyncIndexes:
    """Create, describe, delete; let other names stand for them."""

    def __init__(self, http: AsyncHttp) -> None:
        self._http = http

    async def create(self, name: str, settings: Mapping[str, Any] | None = None) -> results.Index:
        """Create an index; `settings` as in `PUT /indexes/{name}`. With the settings it has already nothing happens.

        Raises:
            Conflict: it is there with other settings.
        """
        body = wire.given(settings=None if settings is None else dict(settings))
        return await self._http.call(results.Index, "PUT", _path(name), body=body)

    async def list(self) -> list[results.Index]:
        """All indexes, by name."""
        return (await self._http.call(results.Indexes, "GET", "/indexes")).data

    async def get(self, name: str) -> results.Index:
        """An index, described. An alias does as well.

        Raises:
            NotFound: there is none of that name.
        """
        return await self._http.call(results.Index, "GET", _path(name))

    async def delete(self, name: str) -> None:
        """Delete an index with all its documents. By its own name only, not by an alias."""
        await self._http.request("DELETE", _path(name))

    async def set_alias(self, alias: str, index: str) -> results.Alias:
        """Let an alias name an index from now on, whatever it named before."""
        return await self._http.call(
            results.Alias, "PUT", f"/aliases/{wire.segment(alias)}", body=wire.given(index=index)
        )

    async def remove_alias(self, alias: str) -> None:
        """Give an alias up. Doing it twice is no error."""
        await self._http.request("DELETE", f"/aliases/{wire.segment(alias)}")


def _path(name: str) -> str:
    return f"/indexes/{wire.segment(name)}"
