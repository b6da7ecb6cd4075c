"""What reads bytes that strangers wrote, each as a function that fails if a promise is broken.

They tell whether the bytes were taken: a search that starts with what is refused at the door finds nothing behind it.

`tests/hostile/test_fuzz.py` runs them shortly, by Hypothesis and by atheris; `python -m tests.hostile.fuzz` for long.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import math
import sqlite3
import tempfile
import time
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
from grace.representation import Rationale, Representation, Segment, segment_text
from grace_client.vectors import numbers
from grace_server import records
from grace_server.errors import ApiError, Malformed
from grace_server.index.document import check_documents
from grace_server.index.filters import Clause, compile_filter
from grace_server.index.manifest import FORMAT, Doubt, Manifest
from grace_server.index.schema import migrations
from grace_server.middleware.body import mend
from grace_server.routes.embed import EmbedRequest
from grace_server.routes.shapes import RationaleBody, dumps, encoded, rationale_body
from tests.support.models import make_model


def filters(data: bytes) -> bool:
    """A filter is refused by name, or is SQL that SQLite runs, in which nothing of the filter appears."""
    value = as_json(data)
    try:
        clause = compile_filter(value)
    except ApiError as error:
        blamed = error.param or ""
    else:
        run(clause, value)
        return True
    assert blamed.startswith("filter")
    return False


def run(clause: Clause, value: Any) -> None:
    """A filter that was taken, in the database it is for."""
    database().execute(f"SELECT label FROM document WHERE {clause.sql}", clause.parameters).fetchall()
    for text in texts_in(value):
        if len(text) > 12:  # long enough not to be one of our own words
            assert text not in clause.sql


def documents(data: bytes) -> bool:
    """Documents are refused by name, or are such as SQLite and JSON hold."""
    value = as_json(data)
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        return False
    try:
        checked = check_documents([{"text": "", **one} for one in value], dimensions=None, normalize=True)
    except (ApiError, KeyError):
        return False
    for one in checked:
        one.text.encode()
        json.loads(one.metadata)
        assert one.vector is None or math.isclose(float(np.linalg.norm(one.vector)), 1, rel_tol=1e-5)
    return True


def grace_json(data: bytes) -> bool:
    """A grace.json is refused by key, or means the same after it was written again."""
    try:
        config = CheckpointConfig.from_json(as_json(data))
    except CheckpointError:
        return False
    assert CheckpointConfig.from_json(json.loads(config.to_json())) == config
    return True


def prompt(data: bytes) -> bool:
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
    return True


def body(data: bytes) -> bool:
    """A body is refused, or is JSON whose texts a tokenizer, a database and a response can hold."""
    try:
        mended = mend(data)
    except Malformed:
        return False
    try:
        value = json.loads(mended)
    except (ValueError, RecursionError):
        return False
    for text in texts_in(value):
        text.encode()
    try:
        EmbedRequest.model_validate(value)
    except ValidationError:
        return False
    return True


def vectors(data: bytes) -> bool:
    """Numbers go out as the float32 they are, by either encoding, and what is no number does not go out at all."""
    found = np.frombuffer(data[: len(data) // 4 * 4], dtype="<f4")
    try:
        packed, told = encoded(found, "base64"), json.loads(dumps({"embedding": encoded(found, "float")}))["embedding"]
    except ValueError:
        assert not np.isfinite(found).all()
        return False
    assert isinstance(packed, str)
    assert base64.b64decode(packed) == found.tobytes()
    np.testing.assert_array_equal(np.array(numbers(base64.b64decode(packed)), "<f4"), found)
    np.testing.assert_array_equal(np.array(told, "<f4"), found)
    return True


def packed_vectors(data: bytes) -> bool:
    """What a server sends the client in place of a vector is a vector, or an error of the client's own."""
    from grace_client.vectors import packed

    try:
        raw = packed(as_json(data))
    except ValueError:  # what the client's models make a `BadAnswer` of
        return False
    assert len(raw) % 4 == 0
    return True


def cache_record(data: bytes) -> bool:
    """What lies in the cache's folder is damaged, or is whole: an answer holds it, and written again it is the same.

    The digest in front of it is put right here: it would keep everything that was changed from the decoder behind it.
    """
    job = prompter().job("A text.")
    try:
        found = records.decode(digested(record_of(as_json(data)) or data), job)
    except records.Damaged:
        return False
    assert found.sums.shape == (len(found.counts), *found.last.shape)
    assert found.sums.dtype == found.last.dtype == np.float32
    assert found.last.ndim == 1
    if told := rationale_body(found.rationale):
        RationaleBody.model_validate_json(dumps(told))  # an answer has a place for it
    written = records.encode(found)
    assert records.encode(records.decode(written, job)) == written
    return True


def record_of(value: Any) -> bytes | None:
    """What is behind a record's digest, from its parts: so that JSON is changed as JSON, and the rest stays."""
    try:
        header = {**value["header"], "__metadata__": {"grace": json.dumps(value["described"])}}
        head, arrays = json.dumps(header).encode(), base64.b64decode(value["arrays"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return len(head).to_bytes(8, "little") + head + arrays


def parts_of(record: bytes) -> bytes:
    """The same the other way round."""
    end = 8 + int.from_bytes(record[:8], "little")
    header = json.loads(record[8:end])
    described = json.loads(header.pop("__metadata__")["grace"])
    arrays = base64.b64encode(record[end:]).decode()
    return json.dumps({"header": header, "described": described, "arrays": arrays}).encode()


def digested(data: bytes) -> bytes:
    """A record whose digest fits, whatever it says."""
    return hashlib.sha256(data).digest()[: records._DIGEST] + data


def manifest(data: bytes) -> bool:
    """A checkpoint's manifest is believed only if it is one."""
    try:
        found = Manifest.from_json(data)
    except Doubt:
        return False
    assert Manifest.from_json(found.to_json()) == found
    assert time.time() - found.written_at < math.inf, "its age can be told"
    return True


TARGETS: dict[str, Callable[[bytes], bool]] = {
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
WRITTEN = "<think>sea</think>It froze."
RECORD = records.encode(
    Representation(
        segments=(Segment("input", 0, 7, 3), Segment("template", 0, 0, 5), Segment("rationale", 0, len(WRITTEN), 6)),
        sums=np.arange(6, dtype=np.float32).reshape(3, 2),
        last=np.array([0.5, -1], np.float32),
        rationale=Rationale(WRITTEN, "sea", "It froze.", (1, 2, 3, 4, 5, 6), "stop"),
        prompt_tokens=20,
        input_tokens=3,
        completion_tokens=7,
        truncated=False,
    )
)[records._DIGEST :]  # small: a search cuts off what is over its length
MANIFEST = Manifest(
    format=FORMAT,
    file="base-00000001.faiss",
    file_bytes=2048,
    sha256=hashlib.sha256().hexdigest(),
    covers_seq=12,
    rows=10,
    dimensions=4,
    collection="c1",
    settings='["hnsw", "cosine", "none", 32, 200]',
    fingerprint="ab" * 8,
    faiss_version="1.12.0",
    written_at=1700000000.5,
)
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
    "vectors": [np.array(v, "<f4").tobytes() for v in ([1, -0.0, 1e-45], [np.inf, np.nan])],
    "packed_vectors": [b'"AACAPw=="', b"[1.5, 2]"],
    "cache_record": [parts_of(RECORD), RECORD],
    "manifest": [MANIFEST.to_json()],
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
