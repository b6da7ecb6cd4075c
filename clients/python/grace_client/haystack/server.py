"""Which server a component talks to, as Haystack writes it down."""

from __future__ import annotations

from typing import Any

from haystack.utils import Secret

from grace_client._async.client import AsyncGraceClient
from grace_client._sync.client import GraceClient
from grace_client.twins import Twins

DEFAULT_KEY = Secret.from_env_var("GRACE_CLIENT_API_KEY", strict=False)


class Server:
    """Where the server is and what opens it; `clients` are made when they are first used."""

    def __init__(
        self,
        url: str | None,
        api_key: Secret | None,
        client: GraceClient | None,
        async_client: AsyncGraceClient | None,
    ) -> None:
        self.url, self.api_key = url, api_key
        self._given = client, async_client
        self._twins: Twins | None = None

    @property
    def clients(self) -> Twins:
        """Both clients. The key is looked up now, not when a pipeline is loaded."""
        if self._twins is None:
            key = self.api_key.resolve_value() if self.api_key else None
            self._twins = Twins(self.url, key, *self._given)
        return self._twins

    def written_down(self) -> dict[str, Any]:
        """The init parameters; secrets as the names of their variables."""
        return {"url": self.url, "api_key": self.api_key}
