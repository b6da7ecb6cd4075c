"""Ids, names, metadata, vectors and uploads come from strangers: taken as they are or refused, never obeyed."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sqlite3
import tarfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grace_server.errors import ApiError
from grace_server.index import reading
from grace_server.index.catalog import Catalog
from grace_server.index.collection import DATABASE, Collection
from grace_server.index.document import Document
from grace_server.index.durable import sha256_of
from grace_server.index.edges import Edges
from grace_server.index.errors import InvalidValue, StoreDamaged, TooLarge
from grace_server.index.lexical import match_expression
from grace_server.index.searching import Options, Question, find
from grace_server.index.settings import CollectionSettings
from grace_server.index.snapshot import MANIFEST, restore_snapshot, take_snapshot
from tests.index.invariants import check
from tests.index.model import DictModel

H = 4
VECTOR = [1.0, 0.0, 0.0, 0.0]


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    opened = Catalog(tmp_path / "data", Edges())
    yield opened
    opened.close()


@pytest.fixture
def collection(catalog: Catalog) -> Collection:
    return catalog.create("a", CollectionSettings(), dimensions=H, fingerprint=None)


TRICKS = [
    "'; DROP TABLE document; --",
    '" OR "1"="1',
    "../../../etc/passwd",
    "..",
    "/etc/passwd",
    "%2e%2e%2f",
    "a\\b",
    "💥",
    "\u202egnp.exe",
    "[]",
    "null",
    "d" * 512,
]


def test_tricks_in_ids_texts_and_metadata_are_words_like_others(collection: Collection) -> None:
    batch = [{"id": t, "text": t, "metadata": {"a": t, t[:30]: 1}, "vector": VECTOR} for t in TRICKS]
    collection.upsert(batch)
    model = DictModel()
    model.upsert(batch)
    check(collection, model, queries=np.eye(1, H, dtype=np.float32))
    for trick in TRICKS:
        found = collection.get(trick)
        assert found is not None
        assert (found.id, found.text) == (trick, trick)
    assert collection.delete(TRICKS[:2]) == 2
    model.delete(TRICKS[:2])
    check(collection, model)


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/b", "a\\b", "a\0", "-a", ".a", "a" * 65, "ä", "a b", "a\n"])
def test_a_name_that_could_be_a_path_is_none(catalog: Catalog, collection: Collection, name: str) -> None:
    with pytest.raises(InvalidValue):
        catalog.create(name, CollectionSettings(), dimensions=H, fingerprint=None)
    with pytest.raises(InvalidValue):
        catalog.set_alias(name, "a")


def test_compacted_no_file_holds_a_word_of_a_deleted_document(catalog: Catalog, collection: Collection) -> None:
    for batch in range(3):  # in segments of the text index before and after it
        collection.upsert([{"id": f"{batch}-{i}", "text": "plain words", "vector": VECTOR} for i in range(50)])
        if batch == 1:
            collection.upsert([{"id": "private", "text": "patient Qwertzuberg", "vector": VECTOR}])
    collection.delete(["private"])
    collection.compact()
    catalog.close()
    for file in collection.folder.rglob("*"):
        assert file.is_dir() or b"qwertzuberg" not in file.read_bytes().lower(), file.name


def test_only_its_owner_may_look_into_an_index(collection: Collection) -> None:
    assert collection.folder.stat().st_mode & 0o077 == 0


def test_only_its_owner_may_look_into_a_restored_index(
    catalog: Catalog, collection: Collection, tmp_path: Path
) -> None:
    take_snapshot(collection, tmp_path / "a.snapshot", catalog.edges)
    assert restore_snapshot(catalog, tmp_path / "a.snapshot", "b").folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("query", ["résumé", "re\u0301sume\u0301", "RESUME"])
def test_a_word_is_found_however_its_accents_are_written(collection: Collection, query: str) -> None:
    texts = ("the résumé of it", "the re\u0301sume\u0301 of it", "the resume of it")
    collection.upsert([{"id": str(i), "text": text, "vector": VECTOR} for i, text in enumerate(texts)])
    assert len(collection.lexical(query, 9).labels) == 3


@pytest.mark.parametrize("word", ["йод", "한국어", "がっこう", "ἄνθρωπος"])
def test_a_word_of_any_script_is_found_however_it_is_composed(collection: Collection, word: str) -> None:
    forms = [unicodedata.normalize(form, word) for form in ("NFC", "NFD")]
    collection.upsert([{"id": str(i), "text": form, "vector": VECTOR} for i, form in enumerate(forms)])
    for form in forms:
        assert len(collection.lexical(form, 5).labels) == 2


@pytest.mark.parametrize("query", ["résumé", "Ǻngström", "a_b"])
def test_a_word_that_is_spelled_one_way_to_the_text_index_is_asked_for_once(query: str) -> None:
    expression = match_expression(query)
    assert expression is not None
    assert " OR " not in expression


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("document", "param", "error"),
    [
        ({"id": "a\0"}, "id", InvalidValue),
        ({"id": "\ud800"}, "id", InvalidValue),
        ({"id": "a" * 513}, "id", InvalidValue),
        ({"id": 7}, "id", InvalidValue),
        ({"metadata": {"a": "x" * 10_000_000}}, "metadata", TooLarge),
        ({"metadata": {str(i): i for i in range(30_000)}}, "metadata", TooLarge),
        ({"metadata": nested(17)}, "metadata", InvalidValue),
        ({"metadata": nested(900)}, "metadata", InvalidValue),
        ({"metadata": {"a": float("nan")}}, "metadata", InvalidValue),
        ({"metadata": {"a": 2**63}}, "metadata", InvalidValue),
        ({"metadata": {"a\0": 1}}, "metadata", InvalidValue),
        ({"metadata": [1]}, "metadata", InvalidValue),
        ({"text": "x" * (16 * 1024 * 1024 + 1)}, "text", TooLarge),
        ({"vector": [float("nan"), 0, 0, 0]}, "vector", InvalidValue),
        ({"vector": [float("inf"), 0, 0, 0]}, "vector", InvalidValue),
        ({"vector": [1e39, 0, 0, 0]}, "vector", InvalidValue),
        ({"vector": [0.0, 0, 0, 0]}, "vector", InvalidValue),
        ({"vector": [1.0, 0, 0]}, "vector", InvalidValue),
        ({"vector": [VECTOR]}, "vector", InvalidValue),
        ({"vector": ["a", 0, 0, 0]}, "vector", InvalidValue),
        ({"vector": []}, "vector", InvalidValue),
    ],
)
def test_a_hostile_document_refuses_its_batch_naming_the_field(
    collection: Collection, document: dict[str, Any], param: str, error: type[ApiError]
) -> None:
    with pytest.raises(error) as refused:
        collection.upsert(
            [{"id": "good", "text": "t", "vector": VECTOR}, {"id": "a", "text": "t", "vector": VECTOR, **document}]
        )
    assert refused.value.param == f"documents[1].{param}"
    assert collection.page() == []


def test_a_vector_is_refused_that_is_too_long_for_its_inner_products(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path, Edges())
    try:
        collection = catalog.create("a", CollectionSettings(metric="dot"), dimensions=2, fingerprint=None)
        with pytest.raises(InvalidValue, match=r"length 2.0e[+]19, the limit is 1.8e[+]19") as refused:
            collection.upsert([{"id": "a", "vector": [1, 1]}, {"id": "b", "vector": [2e19, 0]}])
        assert refused.value.param == "documents[1].vector"
        collection.upsert([{"id": "a", "vector": [1.8e19, 0]}, {"id": "b", "vector": [-1.8e19, 0]}])
        [found] = collection.dense(np.array([[1.8e19, 0]], dtype=np.float32), 2)
        assert found.labels.tolist() == [1, 2]
        assert np.isfinite(found.scores).all()
    finally:
        catalog.close()


def test_texts_of_hits_that_are_passed_over_are_not_read(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection.upsert([{"id": str(i), "text": "t", "vector": [1, i, 0, 0]} for i in range(30)])
    read: list[str] = []
    as_ever = reading._document

    def noted(row: tuple[Any, ...]) -> Document:
        read.append(row[1])
        return as_ever(row)

    monkeypatch.setattr(reading, "_document", noted)
    question, options = Question("t", np.array(VECTOR, dtype=np.float32)), Options(k=2, offset=20)
    [answer], _ = find(collection, [question], options)
    assert [hit.document.id for hit in answer.hits] == read == ["20", "21"]


def test_an_id_twice_in_a_batch_is_refused(collection: Collection) -> None:
    with pytest.raises(InvalidValue, match=r"documents\[2\].id is the same as documents\[0\].id"):
        collection.upsert([{"id": i, "text": "t", "vector": VECTOR} for i in ("a", "b", "a")])
    assert collection.page() == []


WITH_A_TRIGGER = "CREATE TRIGGER mine AFTER INSERT ON job BEGIN DELETE FROM document; END"
WITH_A_VIEW = "ALTER TABLE vector RENAME TO hidden; CREATE VIEW vector AS SELECT label, vector FROM hidden"
OF_ANOTHER_PROGRAM = "PRAGMA application_id = 1"


@pytest.mark.parametrize("change", [WITH_A_TRIGGER, WITH_A_VIEW, OF_ANOTHER_PROGRAM])
def test_an_uploaded_database_with_things_of_its_own_is_refused(
    catalog: Catalog, collection: Collection, tmp_path: Path, change: str
) -> None:
    repacked(catalog, collection, tmp_path, change=change)
    with pytest.raises(StoreDamaged):
        restore_snapshot(catalog, tmp_path / "theirs.snapshot", "b")
    assert_nothing_came_of_it(catalog)


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/escaped", "documents.sqlite/../../escaped"])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_no_name_in_an_uploaded_archive_is_followed(
    catalog: Catalog, collection: Collection, tmp_path: Path, name: str, kind: bytes
) -> None:
    repacked(catalog, collection, tmp_path, name=name, kind=kind)
    with pytest.raises(StoreDamaged):
        restore_snapshot(catalog, tmp_path / "theirs.snapshot", "b")
    assert_nothing_came_of_it(catalog)
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_link_in_place_of_the_database_is_refused(
    catalog: Catalog, collection: Collection, tmp_path: Path, kind: bytes
) -> None:
    repacked(catalog, collection, tmp_path, kind=kind)
    with pytest.raises(StoreDamaged):
        restore_snapshot(catalog, tmp_path / "theirs.snapshot", "b")
    assert_nothing_came_of_it(catalog)


def repacked(
    catalog: Catalog,
    collection: Collection,
    folder: Path,
    *,
    change: str = "",
    name: str = DATABASE,
    kind: bytes = tarfile.REGTYPE,
) -> None:
    """A snapshot whose sums are right, with a changed database or other names in it."""
    collection.upsert([{"id": "a", "text": "t", "vector": VECTOR}])
    take_snapshot(collection, folder / "ours.snapshot", catalog.edges)
    with tarfile.open(folder / "ours.snapshot") as tar:
        tar.extractall(folder / "unpacked", filter="data")
    database = folder / "unpacked" / DATABASE
    with contextlib.closing(sqlite3.connect(database)) as connection:  # closed, it leaves nothing beside the file
        connection.executescript(change)
    manifest = json.loads((folder / "unpacked" / MANIFEST).read_text())
    manifest |= {"file_bytes": database.stat().st_size, "sha256": sha256_of(database)}
    described = json.dumps(manifest).encode()
    with tarfile.open(folder / "theirs.snapshot", "w") as tar:
        head, body = tarfile.TarInfo(MANIFEST), tarfile.TarInfo(name)
        head.size = len(described)
        tar.addfile(head, io.BytesIO(described))
        body.type, body.linkname = kind, "/etc/passwd"
        body.size = database.stat().st_size if kind == tarfile.REGTYPE else 0
        with database.open("rb") as file:
            tar.addfile(body, file)
    shutil.rmtree(folder / "unpacked")


def assert_nothing_came_of_it(catalog: Catalog) -> None:
    assert [c.name for c in catalog] == ["a"]
    assert not list(catalog.folder.glob("new-*"))
    check(catalog.get("a"))
