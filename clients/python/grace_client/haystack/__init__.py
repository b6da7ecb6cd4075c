"""Haystack: embedders, a document store, retrievers. `pip install 'grace-client[haystack]'`."""

from grace_client.haystack.document_store import GraceDocumentStore
from grace_client.haystack.embedders import GraceDocumentEmbedder, GraceTextEmbedder
from grace_client.haystack.retrievers import GraceEmbeddingRetriever, GraceRetriever

__all__ = [
    "GraceDocumentEmbedder",
    "GraceDocumentStore",
    "GraceEmbeddingRetriever",
    "GraceRetriever",
    "GraceTextEmbedder",
]
