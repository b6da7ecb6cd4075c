# Made from _async/indexes.py by `make generate`: change that file, not this one.
"""Indexes and their aliases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grace_client import results, wire
from grace_client._sync.http import Http


class Indexes:
    """Create, describe, delete; let other names stand for them."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def create(self, name: str, settings: Mapping[str, Any] | None = None) -> results.Index:
        """Create an index; `settings` as in `PUT /indexes/{name}`. With the settings it has already nothing happens.

        Raises:
            Conflict: it is there with other settings.
        """
        body = wire.given(settings=None if settings is None else dict(settings))
        return self._http.call(results.Index, "PUT", _path(name), body=body)

    def list(self) -> list[results.Index]:
        """All indexes, by name."""
        return (self._http.call(results.Indexes, "GET", "/indexes")).data

    def get(self, name: str) -> results.Index:
        """An index, described. An alias does as well.

        Raises:
            NotFound: there is none of that name.
        """
        return self._http.call(results.Index, "GET", _path(name))

    def delete(self, name: str) -> None:
        """Delete an index with all its documents. By its own name only, not by an alias."""
        self._http.request("DELETE", _path(name))

    def set_alias(self, alias: str, index: str) -> results.Alias:
        """Let an alias name an index from now on, whatever it named before."""
        return self._http.call(results.Alias, "PUT", f"/aliases/{wire.segment(alias)}", body=wire.given(index=index))

    def remove_alias(self, alias: str) -> None:
        """Give an alias up. Doing it twice is no error."""
        self._http.request("DELETE", f"/aliases/{wire.segment(alias)}")


def _path(name: str) -> str:
    return f"/indexes/{wire.segment(name)}"
