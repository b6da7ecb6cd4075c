"""LlamaIndex: an embedding and a vector store. `pip install 'grace-client[llama-index]'`."""

from grace_client.llama_index.embedding import GraceEmbedding
from grace_client.llama_index.vector_store import GraceVectorStore

__all__ = ["GraceEmbedding", "GraceVectorStore"]
