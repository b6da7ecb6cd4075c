"""Checks audit lines: whether the signature is good, and whether the model still makes that vector of that text.

A record holds a hash of the text, so a replay needs the text from elsewhere: beside the record on its line, from a file
or from an index. The rationale is in the record, as token ids: the vector is made again from exactly what was pooled,
in one pass that writes nothing. Whether the model would write the same again is asked only if wanted, and only of
greedy rationales.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from grace.errors import GraceError
from grace.pooling import Floats, combine
from grace.rationale import read
from grace.representation import Job, replay
from grace_server.audit import signing
from grace_server.index.model import Model

if TYPE_CHECKING:
    from grace.prompt import Prompter

Verdict = Literal["identical", "same", "different", "rewritten", "forged", "unreadable", "no text", "other model"]
GOOD: tuple[Verdict, ...] = ("identical", "same")
TOLERANCE = 1e-3  # distance of unit vectors up to which rounding explains it; bfloat16 needs more


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one line."""

    line: int  # from 1
    verdict: Verdict
    signed: bool
    distance: float | None  # of the vector made again from the one recorded, about
    detail: str = ""


async def replayed(
    lines: Iterable[str | bytes],  # bytes: UTF-8
    key: Ed25519PublicKey,
    texts: Mapping[str, str],  # by their hash
    model: Model | None,  # None: signatures only
    *,
    tolerance: float = TOLERANCE,
    write_again: bool = False,
) -> AsyncIterator[Finding]:
    """A finding for each line that is not empty."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield await _finding(number, line, key, texts, model, tolerance, write_again)


async def _finding(
    number: int,
    line: str | bytes,
    key: Ed25519PublicKey,
    texts: Mapping[str, str],
    model: Model | None,
    tolerance: float,
    write_again: bool,
) -> Finding:
    try:
        parsed = json.loads(line if isinstance(line, str) else line.decode())
        record = parsed["record"]
        text_of = record["input_sha256"]
        signed = signing.is_signed(parsed, key)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return Finding(number, "unreadable", False, None, f"not an audit line: {error}")
    if not signed:
        return Finding(number, "forged", False, None, "the signature is not that of this key over this record")
    if record["format"] != signing.FORMAT:
        return Finding(
            number, "unreadable", True, None, f"format {record['format']}, this version knows {signing.FORMAT}"
        )
    text = parsed.get("input")
    if not isinstance(text, str) or signing.text_hash(text) != text_of:
        text = texts.get(text_of)
    if text is None:
        return Finding(number, "no text", True, None, "its text was not given, so only the signature was checked")
    if model is None or record["fingerprint"] != model.fingerprint:
        running = "no model" if model is None else model.fingerprint
        return Finding(number, "other model", True, None, f"made by {record['fingerprint']}, replayed with {running}")
    try:
        jobs = _jobs(record, text, model.prompter)
        if told := _cut_otherwise(record, jobs[0]):
            return Finding(number, "unreadable", True, None, told)
        vector = await _vector(record, jobs, model)
        if signing.vector_hash(vector) == record["vector_sha256"]:
            verdict, distance = "identical", 0.0
        else:
            distance = signing.distance(vector, record["vector_sketch"])
            length = float(np.linalg.norm(vector)) or 1.0
            verdict = "same" if distance <= tolerance * length else "different"
        if write_again and verdict in GOOD and (told := await _rewritten(record, text, model)):
            return Finding(number, "rewritten", True, distance, told)
    except (GraceError, KeyError, TypeError, ValueError, RecursionError) as error:
        return Finding(number, "unreadable", True, None, f"cannot be replayed: {error}")
    detail = _why_different(record) if verdict == "different" else ""
    return Finding(number, verdict, True, distance, detail)  # type: ignore[arg-type]


def _cut_otherwise(record: Mapping[str, Any], job: Job) -> str | None:
    """Why the replay reads another part of the text; None if it reads the same, or the record does not tell.

    How much of a text is read hangs on the context, which is the server's choice and not in the fingerprint.
    """
    if record.get("input_tokens", job.input_tokens) == job.input_tokens and record["truncated"] == job.truncated:
        return None
    at = f" at {record['input_tokens']} tokens" if "input_tokens" in record else ""
    then = f"cut{at}" if record["truncated"] else "read whole"
    now = f"cuts it at {job.input_tokens} tokens" if job.truncated else "reads it whole"
    return f"the text was {then}, this replay {now}: set GRACE_MAX_CONTEXT_TOKENS as it was"


def _why_different(record: Mapping[str, Any]) -> str:
    detail = f"made by engine {record['engine']} with dtype {record['dtype']}: replay with the same, or see --tolerance"
    if record["truncated"] and "input_tokens" not in record:  # written before records told it
        detail += "; or the text, which was cut, was cut elsewhere: set GRACE_MAX_CONTEXT_TOKENS as it was"
    return detail


async def _vector(record: Mapping[str, Any], jobs: Sequence[Job], model: Model) -> Floats:
    """Made again from the text and the recorded rationales, as the record's options say."""
    options = record["options"]
    made = [await model.represent(job) for job in jobs]
    vectors = [
        each.vector(
            options["pooling"],
            dimensions=options["dimensions"],
            normalize=options["normalize"] or options["n"] > 1,
        )
        for each in made
    ]
    return vectors[0] if options["n"] == 1 else combine(vectors, normalize=options["normalize"])[0]


def _jobs(record: Mapping[str, Any], text: str, prompter: Prompter) -> list[Job]:
    options = record["options"]
    if not record["rationales"]:
        return [prompter.job(text, role=options["role"], mode=options["mode"])]
    jobs = []
    for written in record["rationales"]:
        ids, finish = tuple(written["token_ids"]), written["finish_reason"]
        if finish == "given":
            jobs.append(prompter.job(text, role=options["role"], given=written["text"]))
            continue
        job = prompter.job(text, role=options["role"], mode="reason")
        pooled = len(ids) - (finish == "length")  # the last token of a cut rationale has no state
        rationale = read(written["text"], ids, finish, thinking_open=job.thinking_open)
        segments = (*job.segments, *prompter.rationale_segments(rationale, pooled=pooled))
        jobs.append(replay(job, ids, segments, np.empty(0, dtype=np.float32)))
    return jobs


async def _rewritten(record: Mapping[str, Any], text: str, model: Model) -> str | None:
    """What the model writes today, if that is not what it wrote; None if it is, or cannot be told."""
    options = record["options"]
    if not options["max_rationale_tokens"] or float(options["temperature"]) > 0:
        return None
    job = model.prompter.job(
        text, role=options["role"], mode="reason", max_rationale_tokens=options["max_rationale_tokens"], temperature=0.0
    )
    made = await model.represent(job)
    then, now = record["rationales"][0]["text"], made.rationale.text if made.rationale else ""
    return None if now == then else f"the model now writes {now[:200]!r}"
