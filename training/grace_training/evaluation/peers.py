"""Any other model, by one word: what mteb wraps already is taken from mteb.

st:NAME_OR_FOLDER    sentence-transformers; a plain encoder such as bert-base-uncased or roberta-base is mean-pooled
mteb:NAME            a model that mteb knows, under mteb's own settings: LLM2Vec, GritLM, E5, ...
openai:MODEL@URL     an OpenAI-compatible embeddings server; the key is read from OPENAI_API_KEY
echo:NAME_OR_FOLDER  a causal language model that reads the text twice
tfidf, tfidf-svd     words, fitted per task
bm25                 words; retrieval and reranking alone
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from grace_training.errors import BadRecipe
from grace_training.evaluation.mteb_model import model_meta, model_name

_DIMENSIONS = 256  # of tfidf-svd


def open_peer(spec: str) -> Any:
    """A model in mteb's protocol.

    Raises:
        BadRecipe: the word names no kind of peer, or the model cannot be opened; the message says why.
    """
    kind, _, name = spec.partition(":")
    if kind in ("st", "mteb", "openai", "echo") and not name:
        raise BadRecipe(f"peer {kind!r} needs a model: {kind}:NAME")
    try:
        match kind:
            case "st":
                return _sentence_transformer(name)
            case "mteb":
                import mteb

                return mteb.get_model(name)
            case "openai":
                return _server(name)
            case "echo":
                from grace_training.evaluation.echo import Echo

                return Echo(name)
            case "tfidf" | "tfidf-svd":
                from grace_training.evaluation.lexical import TfIdf

                return TfIdf(_DIMENSIONS if kind == "tfidf-svd" else None)
            case "bm25":
                from grace_training.evaluation.lexical import BM25

                return BM25()
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise BadRecipe(f"peer {spec!r} cannot be opened: {error}") from error
    raise BadRecipe(f"peer must be st:, mteb:, openai:, echo:, tfidf, tfidf-svd or bm25, not {spec!r}")


def _sentence_transformer(name: str) -> Any:
    from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper

    wrapper = SentenceTransformerEncoderWrapper(name)
    meta = wrapper.mteb_model_meta
    if meta is None or not meta.name or not meta.revision or Path(name).is_dir():
        # mteb files results by name and revision, and a folder has neither.
        wrapper.mteb_model_meta = model_meta(model_name(name), revision="local")
    return wrapper


def _server(name: str) -> Any:
    from mteb.models import OpenAIAPIEncodeWrapper

    model, at, url = name.rpartition("@")
    if not at:
        raise BadRecipe("an openai peer is MODEL@URL, such as openai:grace-tiny@http://127.0.0.1:8000")
    wrapper = OpenAIAPIEncodeWrapper(
        url.removesuffix("/v1"),
        model,
        os.environ.get("OPENAI_API_KEY"),
        modalities=["text"],
        use_chat_template=False,
    )
    wrapper.mteb_model_meta = model_meta(model_name(f"server/{model.rpartition('/')[2]}"), revision="served")
    return wrapper
