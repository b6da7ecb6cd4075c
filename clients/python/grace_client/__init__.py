"""Client of a GRACE server: embeddings that explain themselves.

    from grace_client import GraceClient

    with GraceClient("http://localhost:8000") as client:
        item = client.embed("The river rises in the hills.", explain=True)[0]
        print(item.rationale.text, item.vector.shape)

`AsyncGraceClient` has the same methods, to be awaited. Integrations: `grace_client.langchain`, `.llama_index`,
`.haystack`, `.mcp`, each behind an extra of its name.
"""

from grace_client._async.client import AsyncGraceClient
from grace_client._async.stream import AsyncEmbedStream
from grace_client._sync.client import GraceClient
from grace_client._sync.stream import EmbedStream
from grace_client.answer import Rationale
from grace_client.errors import (
    ApiError,
    AuthenticationFailed,
    BadAnswer,
    BadRequest,
    Conflict,
    ConnectionFailed,
    DocumentNotFound,
    GraceError,
    IndexNotFound,
    InvalidValue,
    NotFound,
    Overloaded,
    ServerFailed,
    TimedOut,
    TooLarge,
    Unavailable,
)
from grace_client.explanations import Comparison
from grace_client.results import (
    Embedding,
    Embeddings,
    Found,
    Hit,
    Index,
    Info,
    Job,
    StoredDocument,
    Written,
)
from grace_client.retries import NO_RETRIES, Retries
from grace_client.upload import Progress, Uploaded
from grace_client.vectors import similarity
from grace_client.wire import Document

__all__ = [
    "NO_RETRIES",
    "ApiError",
    "AsyncEmbedStream",
    "AsyncGraceClient",
    "AuthenticationFailed",
    "BadAnswer",
    "BadRequest",
    "Comparison",
    "Conflict",
    "ConnectionFailed",
    "Document",
    "DocumentNotFound",
    "EmbedStream",
    "Embedding",
    "Embeddings",
    "Found",
    "GraceClient",
    "GraceError",
    "Hit",
    "Index",
    "IndexNotFound",
    "Info",
    "InvalidValue",
    "Job",
    "NotFound",
    "Overloaded",
    "Progress",
    "Rationale",
    "Retries",
    "ServerFailed",
    "StoredDocument",
    "TimedOut",
    "TooLarge",
    "Unavailable",
    "Uploaded",
    "Written",
    "similarity",
]
