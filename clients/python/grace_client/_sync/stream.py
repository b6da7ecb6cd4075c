# Made from _async/stream.py by `make generate`: change that file, not this one.
"""An embedding whose rationale is read while it is written."""

from __future__ import annotations

import json
from collections.abc import Iterator

from grace_client import answer
from grace_client.errors import ConnectionFailed
from grace_client.events import Event
from grace_client.results import Embedding, Embeddings


class EmbedStream:
    """Iterate over the pieces of the rationale; afterwards `result` holds the embedding."""

    def __init__(self, events: Iterator[Event]) -> None:
        self._events = events
        self._result: Embeddings | None = None

    @property
    def result(self) -> Embeddings:
        """The embedding.

        Raises:
            RuntimeError: the pieces have not been read to the end.
        """
        if self._result is None:
            raise RuntimeError("read the stream to its end first: `for piece in stream`")
        return self._result

    def __iter__(self) -> Iterator[str]:
        """Pieces of the rationale, as they come.

        Raises:
            ApiError: it could not be finished.
            ConnectionFailed: it broke off.
        """
        item: Embedding | None = None
        for event in self._events:
            if event.name == "rationale":
                yield json.loads(event.data)["delta"]
            elif event.name == "embedding":
                item = answer.read(Embedding, event.data)
            elif event.name == "done" and item is not None:
                self._result = answer.read(Embeddings, json.dumps({**json.loads(event.data), "data": []}))
                self._result = self._result.model_copy(update={"data": [item]})
        if self._result is None:
            raise ConnectionFailed("the stream broke off before the embedding came")

    def read(self) -> Embeddings:
        """Read to the end; the embedding."""
        for _ in self:
            pass
        return self.result
