# Made from _async/batches.py by `make generate`: change that file, not this one.
"""Documents of a source, batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from grace_client._sync.primitives import each
from grace_client.upload import Batch
from grace_client.wire import Document


def batches_of(
    documents: Iterable[Document | Mapping[str, Any]] | Iterable[Document | Mapping[str, Any]], size: int
) -> Iterator[bytes]:
    """Bodies of up to `size` documents. The source is read no further than needed."""
    batch = Batch(size)
    for document in each(documents):
        if (full := batch.add(document)) is not None:
            yield full
    if (rest := batch.body()) is not None:
        yield rest
