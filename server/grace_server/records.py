"""A representation as bytes and back: arrays as safetensors, the rest as JSON in its header. Never pickle.

The text is not in it: a record holds offsets into it. Nor is a given rationale, which is the caller's text too.
"""

from __future__ import annotations

import array
import hashlib
import json
from dataclasses import asdict
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load, save

from grace.representation import Job, Rationale, Representation, Segment

FORMAT = 1  # raise it when the meaning of a record or the cutting of segments changes: old ones are then not found
_DIGEST = 16


class Damaged(Exception):
    """The bytes are not what was written."""


def key_of(job: Job, identity: str) -> str:
    """64 hex digits over everything that changes the result: the model's and engine's `identity`, ids and options."""
    digest = hashlib.sha256(f"{FORMAT}\0{identity}\0".encode())
    options = (
        job.pooled_from,
        [(s.source, s.start, s.end, s.tokens) for s in job.segments],
        job.max_new_tokens,
        job.temperature,
        job.sample,
        job.truncated,
        job.thinking_open,
        job.given is not None,
    )
    digest.update(json.dumps(options).encode())
    digest.update(array.array("q", job.prompt_ids).tobytes())
    return digest.hexdigest()


def encode(representation: Representation) -> bytes:
    """The bytes of a record, behind a digest of them."""
    rationale = representation.rationale
    described = {
        "segments": [(s.source, s.start, s.end, s.tokens) for s in representation.segments],
        "rationale": asdict(rationale) if rationale and rationale.finish_reason != "given" else None,
        "prompt_tokens": representation.prompt_tokens,
        "input_tokens": representation.input_tokens,
        "completion_tokens": representation.completion_tokens,
        "truncated": representation.truncated,
    }
    data: bytes = save({"sums": representation.sums, "last": representation.last}, {"grace": json.dumps(described)})
    return hashlib.sha256(data).digest()[:_DIGEST] + data


def decode(record: bytes, job: Job) -> Representation:
    """The representation of a record, marked as cached.

    Raises:
        Damaged: it is not what was written.
    """
    data = record[_DIGEST:]
    if hashlib.sha256(data).digest()[:_DIGEST] != record[:_DIGEST]:
        raise Damaged("the digest does not fit")
    try:
        arrays = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        described: dict[str, Any] = json.loads(header["__metadata__"]["grace"])
        written = described["rationale"]
        return Representation(
            segments=tuple(Segment(*segment) for segment in described["segments"]),
            sums=arrays["sums"],
            last=arrays["last"],
            rationale=Rationale(**{**written, "token_ids": tuple(written["token_ids"])}) if written else job.given,
            prompt_tokens=described["prompt_tokens"],
            input_tokens=described["input_tokens"],
            completion_tokens=described["completion_tokens"],
            truncated=described["truncated"],
            cached=True,
        )
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise Damaged(str(error)) from error
