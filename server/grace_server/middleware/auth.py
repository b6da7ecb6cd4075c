"""API keys: `Authorization: Bearer <key>` on every route except those left open."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Sequence

from pydantic import SecretStr
from starlette.types import ASGIApp, Receive, Scope, Send

from grace_server.errors import Unauthorized
from grace_server.metrics import Metrics
from grace_server.middleware.refusal import refuse


class Auth:
    """Refuses with 401. Without keys in the settings everyone may ask."""

    def __init__(
        self, app: ASGIApp, *, keys: Sequence[SecretStr], open_paths: Collection[str], metrics: Metrics
    ) -> None:
        self._app, self._open, self._metrics = app, frozenset(open_paths), metrics
        self._hashes = [_hash(key.get_secret_value().encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on who may ask."""
        if scope["type"] != "http" or not self._hashes or scope["path"] in self._open or self._knows(scope):
            await self._app(scope, receive, send)
            return
        error = Unauthorized("this service asks for a key: send 'Authorization: Bearer <key>' with a valid one")
        self._metrics.rejections.labels("unauthorized").inc()
        await refuse(error, scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        value = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, key = value.partition(b" ")
        given = _hash(key.strip())
        # All keys are compared, each in constant time: the time taken tells nothing about how close a guess came.
        matches = [hmac.compare_digest(given, known) for known in self._hashes]
        return scheme.lower() == b"bearer" and any(matches)


def _hash(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
