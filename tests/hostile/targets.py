"""What reads bytes that strangers wrote, each as a function that fails if a promise is broken.

`tests/hostile/test_fuzz.py` runs them shortly, by Hypothesis and by atheris; `python -m tests.hostile.fuzz` for long.
"""

from __future__ import annotations

import base64
import itertools
import json
import math
import sqlite3
import tempfile
import unicodedata
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from grace.checkpoint import Checkpoint, CheckpointConfig
from grace.errors import CheckpointError
from grace.prompt import MAX_SEGMENTS, Prompter
from grace.representation import segment_text
from grace_client.errors import GraceError as ClientError
from grace_client.vectors import numbers
from grace_server import records
from grace_server.errors import ApiError, Malformed
from grace_server.index.document import check_documents
from grace_server.index.filters import Clause, compile_filter
from grace_server.index.manifest import Doubt, Manifest
from grace_server.index.schema import migrations
from grace_server.middleware.body import mend
from grace_server.routes.embed import EmbedRequest
from grace_server.routes.shapes import dumps, encoded
from tests.support.models import make_model


def filters(data: bytes) -> None:
    """A filter is refused by name, or is SQL that SQLite runs, in which nothing of the filter appears."""
    value = as_json(data)
    try:
        clause = compile_filter(value)
    except ApiError as error:
        blamed = error.param or ""
    else:
        run(clause, value)
        return
    assert blamed.startswith("filter")


def run(clause: Clause, value: Any) -> None:
    """A filter that was taken, in the database it is for."""
    database().execute(f"SELECT label FROM document WHERE {clause.sql}", clause.parameters).fetchall()
    for text in texts_in(value):
        if len(text) > 12:  # long enough not to be one of our own words
            assert text not in clause.sql


def documents(data: bytes) -> None:
    """Documents are refused by name, or are such as SQLite and JSON hold."""
    value = as_json(data)
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        return
    try:
        checked = check_documents([{"text": "", **one} for one in value], dimensions=None, normalize=True)
    except (ApiError, KeyError):
        return
    for one in checked:
        one.text.encode()
        json.loads(one.metadata)
        assert one.vector is None or math.isclose(float(np.linalg.norm(one.vector)), 1, rel_tol=1e-5)


def grace_json(data: bytes) -> None:
    """A grace.json is refused by key, or means the same after it was written again."""
    try:
        config = CheckpointConfig.from_json(as_json(data))
    except CheckpointError:
        return
    assert CheckpointConfig.from_json(json.loads(config.to_json())) == config


def prompt(data: bytes) -> None:
    """Whatever a text says, it stays between prefix and suffix, in ordinary tokens, and its spans cover it."""
    text = data.decode("utf-8", "replace")
    if data[:1] == b"\xff":  # two bytes a unit, lone surrogates and all
        text = data[1 : len(data) // 2 * 2 - 1].decode("utf-16-le", "surrogatepass")
    maker = prompter()
    job = maker.job(text)
    template = maker.templates["document"]
    end = len(job.prompt_ids) - len(template.suffix)
    assert job.prompt_ids[: job.pooled_from] == template.prefix
    assert job.prompt_ids[end:] == template.suffix
    assert special_ids().isdisjoint(job.prompt_ids[job.pooled_from : end])
    assert sum(segment.tokens for segment in job.segments) == len(job.prompt_ids) - job.pooled_from
    assert len(job.segments) <= MAX_SEGMENTS
    inputs = [segment for segment in job.segments if segment.source == "input"]
    assert "".join(segment_text(s, text=job.text, rationale=None) for s in inputs) == (job.text if inputs else "")
    assert all(a.end == b.start for a, b in itertools.pairwise(inputs))
    given = maker.job("A text.", given=text[:200])
    assert given.given is not None
    # The tokenizer composes characters (NFC), as those of the families do; nothing else is changed.
    spelled = maker.decode(given.given.token_ids)
    assert unicodedata.normalize("NFC", spelled) == unicodedata.normalize("NFC", given.given.text)


def body(data: bytes) -> None:
    """A body is refused, or is JSON whose texts a tokenizer, a database and a response can hold."""
    try:
        mended = mend(data)
    except Malformed:
        return
    try:
        value = json.loads(mended)
    except (ValueError, RecursionError):
        return
    for text in texts_in(value):
        text.encode()
    try:
        EmbedRequest.model_validate(value)
    except ValidationError:
        return


def vectors(data: bytes) -> None:
    """Numbers go out as the float32 they are, by either encoding, and what is no number does not go out at all."""
    found = np.frombuffer(data[: len(data) // 4 * 4], dtype="<f4")
    try:
        packed, told = encoded(found, "base64"), json.loads(dumps({"embedding": encoded(found, "float")}))["embedding"]
    except ValueError:
        assert not np.isfinite(found).all()
        return
    assert isinstance(packed, str)
    assert base64.b64decode(packed) == found.tobytes()
    np.testing.assert_array_equal(np.array(numbers(base64.b64decode(packed)), "<f4"), found)
    np.testing.assert_array_equal(np.array(told, "<f4"), found)


def packed_vectors(data: bytes) -> None:
    """What a server sends the client in place of a vector is a vector, or an error of the client's own."""
    from grace_client.vectors import packed

    try:
        raw = packed(as_json(data))
    except (ClientError, ValueError, TypeError):
        return
    assert len(raw) % 4 == 0


def cache_record(data: bytes) -> None:
    """A record in the cache's folder is what was written, or damaged."""
    try:
        records.decode(data, prompter().job("A text."))
    except records.Damaged:
        return
    raise AssertionError("a record whose digest was guessed")


def manifest(data: bytes) -> None:
    """A checkpoint's manifest is believed only if it is one."""
    try:
        found = Manifest.from_json(data)
    except Doubt:
        return
    assert Manifest.from_json(found.to_json()) == found


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        filters,
        documents,
        grace_json,
        prompt,
        body,
        vectors,
        packed_vectors,
        cache_record,
        manifest,
    )
}
# Where a search by chance starts: something valid of each kind.
SEEDS: dict[str, list[bytes]] = {
    "filters": [
        b'{"field": "meta.year", "operator": ">=", "value": 1990}',
        b'{"operator": "AND", "conditions": [{"field": "a.b", "operator": "in", "value": [1, "x", null, true]}]}',
        b'{"operator": "NOT", "conditions": [{"field": "a", "operator": "==", "value": "2001-01-01T00:00:00Z"}]}',
    ],
    "documents": [b'[{"id": "a", "text": "x", "metadata": {"a": [1, {"b": null}]}, "vector": [1, 2e3]}]'],
    "grace_json": [CheckpointConfig().to_json().encode()],
    "prompt": [
        b"\xff" + "One. Two! <|im_end|><think>\ud800 ".encode("utf-16-le", "surrogatepass"),
        "שלום. 你好。👩‍👩‍👧".encode(),
    ],
    "body": [b'{"input": ["a \\ud800 b", "\\ud83d\\ude00"], "n": 2, "temperature": 1.0}'],
    "vectors": [np.array([1, -0.0, 1e-45, np.inf, np.nan], "<f4").tobytes()],
    "packed_vectors": [b'"AACAPw=="', b"[1.5, 2]"],
    "cache_record": [bytes(80)],
    "manifest": [b'{"format": 2}'],
}


def as_json(data: bytes) -> Any:
    """The value, or the text where it is none: parsers must not mind."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return data.decode("utf-8", "replace")


def texts_in(value: Any) -> list[str]:
    """Every text of a JSON value, keys included; without recursion, which a hostile value could exhaust."""
    found, left = [], [value]
    while left:
        one = left.pop()
        if isinstance(one, str):
            found.append(one)
        elif isinstance(one, list):
            left += one
        elif isinstance(one, dict):
            left += [*one.keys(), *one.values()]
    return found


@cache
def prompter() -> Prompter:
    return Prompter(Checkpoint.load(make_model(Path(tempfile.mkdtemp()) / "tiny", "qwen2")))


@cache
def special_ids() -> frozenset[int]:
    return frozenset(prompter().tokenizer.added_tokens_decoder)


@cache
def database() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    for step in migrations():
        connection.executescript(step.sql)
    return connection
