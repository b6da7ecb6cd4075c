"""A representation as bytes and back: arrays as safetensors, the rest as JSON in its header. Never pickle.

The text is not in it: a record holds offsets into it. Nor is a given rationale, which is the caller's text too.
"""

from __future__ import annotations

import array
import hashlib
import json
from dataclasses import asdict
from typing import Any, get_args

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from grace.representation import FinishReason, Job, Rationale, Representation, Segment, Source

FORMAT = 2  # raise it when the meaning of a record or the cutting of rationales changes: old ones are then not found
_DIGEST = 16
_MOST = 2**31  # tokens or characters of anything
_SOURCES, _REASONS = get_args(Source), get_args(FinishReason)


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
        found = Representation(
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
        whole = _whole(found)
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise Damaged(str(error)) from error
    if not whole:
        raise Damaged("it holds something else than a representation")
    return found


def _whole(found: Representation) -> bool:
    """Whether all of it has the type and shape it was written with: a digest that fits does not say who wrote it.

    Raises:
        ValueError: a text holds what is no character.
    """
    numbers = [found.prompt_tokens, found.input_tokens, found.completion_tokens]
    for segment in found.segments:
        numbers += [segment.start, segment.end, segment.tokens]
    texts, reason, last = ["", "", ""], "stop", found.last
    if found.rationale is not None:
        written = found.rationale
        numbers += written.token_ids
        texts, reason = [written.text, written.thinking, written.understanding], written.finish_reason
    "".join(texts).encode()
    return (
        all(type(number) is int and 0 <= number < _MOST for number in numbers)
        and all(segment.source in _SOURCES for segment in found.segments)
        and reason in _REASONS
        and type(found.truncated) is bool
        and found.sums.dtype == last.dtype == np.float32
        and last.ndim == 1
        and found.sums.shape == (len(found.segments), len(last))
    )
