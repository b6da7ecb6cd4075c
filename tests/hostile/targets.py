"""What reads bytes that strangers wrote, each as a function that fails if a promise is broken.

They tell whether the bytes were taken: a search that starts with what is refused at the door finds nothing behind it.

`tests/hostile/test_fuzz.py` runs them shortly, by Hypothesis and by atheris; `python -m tests.hostile.fuzz` for long.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import itertools
import json
import lzma
import math
import sqlite3
import tarfile
import tempfile
import time
import unicodedata
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from grace.checkpoint import Checkpoint, CheckpointConfig
from grace.errors import CheckpointError
from grace.prompt import MAX_SEGMENTS, Prompter
from grace.representation import Rationale, Representation, Role, Segment, segment_text
from grace_client.events import EventParser
from grace_client.vectors import numbers
from grace_server import records
from grace_server.errors import ApiError, Malformed
from grace_server.index.catalog import Catalog
from grace_server.index.collection import DATABASE
from grace_server.index.document import check_documents
from grace_server.index.edges import Edges
from grace_server.index.errors import InvalidValue
from grace_server.index.filters import Clause, compile_filter
from grace_server.index.manifest import FORMAT, Doubt, Manifest
from grace_server.index.schema import migrations
from grace_server.index.settings import CollectionSettings
from grace_server.index.snapshot import restore_snapshot, take_snapshot
from grace_server.index.sources import Columns, read_documents
from grace_server.middleware.body import mend
from grace_server.routes.cohere import CohereRequest
from grace_server.routes.embed import EmbedRequest
from grace_server.routes.openai import EmbeddingsRequest
from grace_server.routes.shapes import RationaleBody, dumps, encoded, rationale_body
from grace_server.routes.tei import TeiEmbedRequest, TeiSimilarityRequest
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
    """Whatever a text says, it stays between prefix and suffix, in ordinary tokens, and its spans cover it.

    The bits of the first byte: a query, direct, and two bytes a unit, lone surrogates and all.
    """
    how, data = data[0] if data else 0, data[1:]
    text = data.decode("utf-8", "replace")
    if how & 4:
        text = data[: len(data) // 2 * 2].decode("utf-16-le", "surrogatepass")
    role: Role = "query" if how & 1 else "document"
    maker = prompter()
    job = maker.job(text, role=role, mode="direct" if how & 2 else "reason")
    template = maker.templates[role]
    suffix = template.suffix if "template" in {segment.source for segment in job.segments} else ()
    assert suffix or (how & 2 and job.text), "direct, a text is pooled alone"
    end = len(job.prompt_ids) - len(suffix)
    assert job.prompt_ids[: job.pooled_from] == template.prefix
    assert job.prompt_ids[end:] == suffix
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


def guests(data: bytes) -> bool:
    """What other services' clients send is refused by field, or can be held by a tokenizer and a response."""
    try:
        value = json.loads(mend(data))
    except (Malformed, ValueError, RecursionError):
        return False
    taken = False
    for kind in (EmbeddingsRequest, CohereRequest, TeiEmbedRequest, TeiSimilarityRequest):
        try:
            request = kind.model_validate(value)
        except ValidationError:
            continue
        dumps(request.model_dump(exclude_none=True))
        taken = True
    return taken


def events(data: bytes) -> bool:
    """A stream of events is the same wherever it is cut, and none has a line of another. The first byte cuts."""
    size, stream = max(1, data[0] if data else 1), data[1:]
    parser = EventParser()
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    found = [event for piece in pieces for event in parser.feed(piece)]
    assert found == list(EventParser().feed(stream))
    for event in found:
        assert not {"\r", "\n"} & set(event.name)
        assert "\r" not in event.data
    return bool(found)


def sources(data: bytes) -> bool:
    """A file to import is refused by name and place, or is documents. The first byte says of which kind it is."""
    suffix = SUFFIXES[data[0] % len(SUFFIXES)] if data else SUFFIXES[0]
    packed = {".gz": gzip.compress, ".xz": lzma.compress}.get(Path(suffix).suffix, bytes)
    path = folder() / f"source{suffix}"
    path.write_bytes(packed(data[1:]))
    try:
        found = list(read_documents(path, Columns(numbers=("year",))))
    except InvalidValue:
        return False
    assert all(isinstance(one["id"], str) and isinstance(one["text"], str) for one in found)
    return bool(found)


def snapshot(data: bytes) -> bool:
    """A tar that is no snapshot of ours is refused by name, and nothing is left of it; one that is, is an index."""
    path, catalog = folder() / "a.snapshot", open_catalog()
    path.write_bytes(packed_snapshot(as_json(data)) or data)
    before = files()
    try:
        restored = restore_snapshot(catalog, path, "restored")
    except ApiError:
        assert files() == before
        return False
    catalog.delete(restored.name)
    assert files() == before
    return True


def packed_snapshot(value: Any) -> bytes | None:
    """The tar of a snapshot from its parts: members in their order, and what is written over the good database.

    Its digest is put right, as it would keep everything that was changed from what is behind it.
    """
    try:
        database = bytearray(good_database())
        for at, text in value["over"]:
            database[at : at + len(text)] = text.encode("latin-1")
        described = {"file_bytes": len(database), "sha256": hashlib.sha256(database).hexdigest(), **value["manifest"]}
        contents = {"manifest": json.dumps(described).encode(), "database": bytes(database)}
        buffer = BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name, kind, which in value["members"]:
                member = tarfile.TarInfo(name)
                member.type = kind.encode()
                member.linkname, member.size = "../outside", len(contents[which])
                tar.addfile(member, BytesIO(contents[which]))
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, tarfile.TarError):
        return None
    return buffer.getvalue()


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
        guests,
        events,
        sources,
        snapshot,
    )
}
SUFFIXES = (".jsonl", ".csv", ".tsv", ".jsonl.gz", ".csv.xz")
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
        *(bytes([how]) + "One. Two! <|im_end|><think>\ud800 ".encode("utf-16-le", "surrogatepass") for how in (4, 7)),
        *(bytes([how]) + "שלום. 你好。👩‍👩‍👧".encode() for how in (0, 1, 2)),
    ],
    "body": [b'{"input": ["a \\ud800 b", "\\ud83d\\ude00"], "n": 2, "temperature": 1.0}'],
    "vectors": [np.array(v, "<f4").tobytes() for v in ([1, -0.0, 1e-45], [np.inf, np.nan])],
    "packed_vectors": [b'"AACAPw=="', b"[1.5, 2]"],
    "cache_record": [parts_of(RECORD), RECORD],
    "manifest": [MANIFEST.to_json()],
    "guests": [
        b'{"model": "grace-tiny", "input": ["a \\ud800 b"], "encoding_format": "base64", "dimensions": 4}',
        b'{"model": "grace-tiny", "texts": ["a"], "input_type": "search_query", "embedding_types": ["float"]}',
        b'{"inputs": ["a"], "prompt_name": "query", "truncate": false, "normalize": true}',
        b'{"inputs": {"source_sentence": "a", "sentences": ["b"]}, "parameters": {"truncate": true}}',
    ],
    "events": [
        b"\x01event: rationale\r\ndata: {}\r\rdata:a\ndata: b\n\n: comment\n\n",
        b"\xffdata: \xe2\x80\xa8\xff\n\n",
    ],
    "sources": [
        *(bytes([kind]) + b'{"id": 1, "text": "x", "year": "12", "metadata": {"a": [1]}}\n' for kind in (0, 3)),
        *(bytes([kind]) + b'id,text,year,vector\n1,"x\n""y""",1.5,"[1, 2]"\n' for kind in (1, 4)),
        b"\x02id\ttext\n1\tx\n",
    ],
    "snapshot": [
        json.dumps(
            {
                "members": [["manifest.json", "0", "manifest"], ["documents.sqlite", "0", "database"]],
                "manifest": {
                    "format": 1,
                    "collection": "c1",
                    "name": "a",
                    "rows": 1,
                    "seq": 1,
                    "fingerprint": None,
                    "dimensions": 2,
                    "written_at": 1.5,
                },
                "over": [[40, ""]],
            }
        ).encode()
    ],
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
def folder() -> Path:
    """Where targets write what they read from."""
    return Path(tempfile.mkdtemp())


@cache
def open_catalog() -> Catalog:
    catalog = Catalog(folder() / "data", Edges())
    collection = catalog.create("good", CollectionSettings(), dimensions=2, fingerprint=None)
    take_snapshot(collection, folder() / "good.snapshot", catalog.edges)
    return catalog


@cache
def good_database() -> bytes:
    open_catalog()
    with tarfile.open(folder() / "good.snapshot") as tar:
        file = tar.extractfile(DATABASE)
        assert file is not None
        return file.read()


def files() -> set[Path]:
    """All that is there, SQLite's own beside a database that is open left out."""
    return {path for path in folder().rglob("*") if not path.name.endswith(("-wal", "-shm"))}


@cache
def special_ids() -> frozenset[int]:
    return frozenset(prompter().tokenizer.added_tokens_decoder)


@cache
def database() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    for step in migrations():
        connection.executescript(step.sql)
    return connection
