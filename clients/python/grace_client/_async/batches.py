"""Documents of a source, batch by batch."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from typing import Any

from grace_client._async.primitives import each
from grace_client.upload import Batch
from grace_client.wire import Document


async def batches_of(
    documents: AsyncIterable[Document | Mapping[str, Any]] | Iterable[Document | Mapping[str, Any]], size: int
) -> AsyncIterator[bytes]:
    """Bodies of up to `size` documents. The source is read no further than needed."""
    batch = Batch(size)
    async for document in each(documents):
        if (full := batch.add(document)) is not None:
            yield full
    if (rest := batch.body()) is not None:
        yield rest
