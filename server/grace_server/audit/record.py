"""What an audit record says of an embedding."""

from __future__ import annotations

from typing import Any

from grace_server.audit import signing
from grace_server.embedding import Embedded, Options
from grace_server.errors import InvalidValue
from grace_server.house import House


def records(
    house: House, texts: list[str], options: Options, embedded: list[Embedded], *, wanted: bool
) -> list[dict[str, Any] | None]:
    """A signed line for each embedding of a request, or None for each where none is wanted."""
    if not wanted:
        return [None] * len(embedded)
    signer = signer_of(house)
    return [signer.sign(record(house, text, options, each)) for text, each in zip(texts, embedded, strict=True)]


def signer_of(house: House) -> signing.Signer:
    """Who signs.

    Raises:
        InvalidValue: nobody does, here.
    """
    if house.signer is None:
        raise InvalidValue("audit needs a key: set audit_key (GRACE_AUDIT_KEY) where the server starts", param="audit")
    return house.signer


def record(house: House, text: str, options: Options, embedded: Embedded) -> dict[str, Any]:
    """What the embedding was made from: hashes of text and vector, the rationales, and every option that matters."""
    job = embedded.jobs[0]
    return {
        "format": signing.FORMAT,
        "created_at": signing.now(),
        "model": house.model_name,
        "fingerprint": house.checkpoint.fingerprint,
        "engine": house.settings.engine,
        "dtype": house.settings.dtype,
        "input_sha256": signing.text_hash(text),
        "rationales": [
            {"text": r.text, "token_ids": list(r.token_ids), "finish_reason": r.finish_reason}
            for r in (representation.rationale for representation in embedded.representations)
            if r is not None
        ],
        "options": {
            "role": options.role,
            "mode": options.mode,
            "pooling": embedded.pooling,
            "max_rationale_tokens": job.max_new_tokens,
            "temperature": repr(float(job.temperature)),  # a text: writers of JSON do not agree on numbers
            "n": options.n,
            "dimensions": options.dimensions,
            "normalize": options.normalize,
        },
        "truncated": job.truncated,
        "input_tokens": job.input_tokens,  # of the text as it was cut
        "dimensions": len(embedded.vector),
        "vector_sha256": signing.vector_hash(embedded.vector),
        "vector_sketch": signing.sketch(embedded.vector),
    }
