"""`grace-index`: from files to an index and back, with a fake engine in the model's place."""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from grace.engines.fake import FakeEngine
from grace.prompt import Prompter
from grace.representation import Job, Representation
from grace_server.index.catalog import Catalog
from grace_server.index.cli import UNSOUND, main, run
from grace_server.index.collection import Collection
from grace_server.index.description import describe
from grace_server.index.edges import Edges
from grace_server.index.faults import FaultPoint
from grace_server.index.migrate import migrate
from grace_server.index.model import Model
from grace_server.index.settings import CollectionSettings
from grace_server.index.writing import Embedded
from tests.index.filled import refusing
from tests.index.invariants import check

DOCUMENTS = [
    {"id": "1", "title": "River", "text": "The river rises in the hills.", "year": 1990},
    {"id": "2", "title": "Bridge", "text": "A guild built the bridge.", "year": 1432},
    {"id": "3", "title": "Harbour", "text": "Who built the harbour?", "year": 2001},
]


class Shell:
    """Runs subcommands on a data folder; `calls` counts texts that reached the fake engine.

    The engine dies after so many texts (`dies_after`) and refuses those that hold a word (`refused`); `config` changes
    the checkpoint's.
    """

    def __init__(self, folder: Path, prompter: Prompter) -> None:
        self.folder, self.prompter, self.calls = folder, prompter, 0
        self.dies_after: int | None = None
        self.refused: str | None = None
        self.config: dict[str, Any] = {}

    def model(self, fingerprint: str | None = None) -> Model:
        checkpoint = self.prompter.checkpoint
        checkpoint = replace(checkpoint, config=replace(checkpoint.config, **self.config))
        if fingerprint:
            checkpoint = replace(checkpoint, fingerprint=fingerprint)
        return Model(FakeEngine(self.prompter).represent, self.prompter, checkpoint)

    def model_of(self, name: str | None, engine: str | None) -> AbstractAsyncContextManager[Model]:
        @asynccontextmanager
        async def opened() -> AsyncIterator[Model]:
            engine, turn = FakeEngine(self.prompter), asyncio.Lock()

            async def represent(job: Job) -> Representation:
                async with turn:
                    if engine.calls == self.dies_after:
                        engine.kill()
                    return await engine.represent(job)

            async with asyncio.timeout(20):  # a command that waits for ever fails its test
                yield replace(
                    self.model(name), represent=refusing(self.refused)(represent) if self.refused else represent
                )
            self.calls += engine.calls

        return opened()

    def __call__(self, *words: str | Path) -> int:
        return run(["--data-dir", str(self.folder), "--quiet", *map(str, words)], model_of=self.model_of)

    def collection(self, name: str = "a") -> Iterator[Collection]:
        catalog = Catalog(self.folder, Edges())
        yield catalog.get(name)
        catalog.close()


@pytest.fixture
def shell(tmp_path: Path, prompter: Prompter) -> Shell:
    return Shell(tmp_path / "data", prompter)


def written(folder: Path, kind: str) -> Path:
    """The three documents as a file or a folder."""
    path = folder / f"documents{kind}"
    lines = "".join(json.dumps(d) + "\n" for d in DOCUMENTS)
    match kind:
        case ".jsonl":
            path.write_text(lines)
        case ".jsonl.gz":
            path.write_bytes(gzip.compress(lines.encode()))
        case ".csv":
            with path.open("w", newline="") as file:
                table = csv.DictWriter(file, list(DOCUMENTS[0]))
                table.writeheader()
                table.writerows(DOCUMENTS)
        case ".parquet":
            parquet.write_table(pa.Table.from_pylist(DOCUMENTS), path)
        case _:
            path.mkdir()
            for d in DOCUMENTS:
                (path / f"{d['id']}.txt").write_text(f"{d['title']}\n\n{d['text']}")
    return path


@pytest.mark.parametrize("kind", [".jsonl", ".jsonl.gz", ".csv", ".parquet", ""])
def test_documents_are_built_from_files_and_again_without_embedding_twice(
    shell: Shell, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("build", "--index", "a", written(tmp_path, kind), "--text-field", "title", "--text-field", "text")
    assert shell(*words, "--number-field", "year") == 0
    assert (shell.calls, shell(*words, "--number-field", "year"), shell.calls) == (3, 0, 3)
    condition = json.dumps({"field": "year", "operator": "<", "value": 1500})
    flags = ("--filter", condition) if kind else ()
    capsys.readouterr()
    assert shell("search", "--index", "a", "guild bridge", "--method", "lexical", *flags) == 0
    [hit] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (hit["id"].removesuffix(".txt"), hit["text"]) == ("2", "Bridge\n\nA guild built the bridge.")
    assert shell("verify", "--index", "a") == 0


@pytest.mark.parametrize("kind", ["a.jsonl", "a.csv", "a"])
def test_a_byte_order_mark_is_no_part_of_a_text(shell: Shell, tmp_path: Path, kind: str) -> None:
    source = tmp_path / kind
    records = {"a.jsonl": '{"id": "1.txt", "text": "a river"}', "a.csv": "id,text\n1.txt,a river"}
    if kind == "a":
        source.mkdir()
    (source / "1.txt" if kind == "a" else source).write_text(records.get(kind, "a river"), encoding="utf-8-sig")
    assert shell("build", "--index", "a", source) == 0
    for collection in shell.collection():
        assert [(document.id, document.text) for document in collection.page()] == [("1.txt", "a river")]


def test_what_is_exported_is_built_again_equal(
    shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shell("build", "--index", "a", written(tmp_path, ".jsonl"))
    capsys.readouterr()
    assert shell("export", "--index", "a", "--vectors") == 0
    lines = capsys.readouterr().out
    (tmp_path / "again.jsonl").write_text(lines)
    calls = shell.calls
    assert shell("import", "--index", "b", tmp_path / "again.jsonl") == 0
    assert shell.calls == calls
    shell("export", "--index", "b", "--vectors")
    theirs = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for mine, other in zip(map(json.loads, lines.splitlines()), theirs, strict=True):
        np.testing.assert_allclose(mine.pop("vector"), other.pop("vector"), atol=1e-7)
        assert mine == other


def test_an_empty_rationale_that_was_given_is_exported_and_built_again(
    shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [{"id": "1", "text": "a river", "rationale": ""}, {"id": "2", "text": "a bridge"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    (tmp_path / "a.csv").write_text("id,text,rationale\n1,a river,\n")
    shell("build", "--index", "a", tmp_path / "a.jsonl")
    capsys.readouterr()
    assert shell("export", "--index", "a") == 0
    (tmp_path / "b.jsonl").write_text(capsys.readouterr().out)
    shell("build", "--index", "b", tmp_path / "b.jsonl")
    shell("build", "--index", "c", tmp_path / "a.csv")
    given = {}
    for name in ("a", "b", "c"):
        for collection in shell.collection(name):
            given[name] = [document.given for document in collection.page()]
    assert given == {"a": ["rationale", "text"], "b": ["rationale", "text"], "c": ["text"]}


def exported(shell: Shell, index: str, path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The file that `export --vectors` writes of an index."""
    capsys.readouterr()
    assert shell("export", "--index", index, "--vectors") == 0
    path.write_text(capsys.readouterr().out)
    return path


def found(shell: Shell, index: str, capsys: pytest.CaptureFixture[str]) -> list[tuple[str, float]]:
    """Ids and scores of a search by meaning."""
    capsys.readouterr()
    assert shell("search", "--index", index, "guild bridge") == 0
    return [(hit["id"], pytest.approx(hit["score"])) for hit in map(json.loads, capsys.readouterr().out.splitlines())]


def test_what_was_made_with_other_settings_is_imported_with_them_and_searched_alike(
    shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.config = {"pooling": "last", "mode": {"document": "direct", "query": "direct"}}
    shell("build", "--index", "a", written(tmp_path, ".jsonl"), "--dimensions", "16", "--metric", "dot")
    assert shell("import", "--index", "b", exported(shell, "a", tmp_path / "again.jsonl", capsys)) == 0
    kept = [collection.settings for name in ("a", "b") for collection in shell.collection(name)]
    assert kept[0] == kept[1]
    assert (kept[0].pooling, kept[0].document_mode, kept[0].dimensions) == ("last", "direct", 16)
    assert found(shell, "b", capsys) == found(shell, "a", capsys)


def test_vectors_of_another_pooling_are_not_taken_into_an_index(
    shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shell("build", "--index", "a", written(tmp_path, ".jsonl"))
    shell.config = {"pooling": "last"}
    shell("build", "--index", "b", written(tmp_path, ".jsonl"))
    assert shell("import", "--index", "a", exported(shell, "b", tmp_path / "b.jsonl", capsys)) == 1
    assert "record 1: the vector is pooled by 'last', those of index 'a' by 'mean'" in capsys.readouterr().err


def test_vectors_of_another_width_than_the_models_are_never_compared_with_its_own(
    shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As an index has them whose vectors came without the settings that they were made with."""
    fingerprint, settings = shell.model().fingerprint, CollectionSettings()
    catalog = Catalog(shell.folder, Edges())
    catalog.create("a", settings, dimensions=16, fingerprint=fingerprint).upsert([{"id": "1", "vector": HALF[:16]}])
    catalog.close()
    assert shell("search", "--index", "a", "bridge") == 1
    assert "index 'a' holds vectors of 16 dimensions, and this model makes 64" in capsys.readouterr().err
    assert shell("build", "--index", "a", written(tmp_path, ".jsonl")) == 1
    for collection in shell.collection():
        assert describe(collection).counts.pending == 0
        wrong = Embedded(2, np.ones(3, np.float32), None, False, False, (), None)
        with pytest.raises(ValueError, match="do not belong in an index of 16 dimensions"):
            collection.embedded([wrong], fingerprint=fingerprint)
        with pytest.raises(ValueError, match="queries of 3 dimensions in an index of 16"):
            collection.dense(np.ones((1, 3), np.float32), 1)
        check(collection)


def test_documents_before_the_first_with_a_vector_are_imported_and_wait(
    shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"id": "a", "text": "no vector"}\n' + json.dumps({"id": "b", "text": "one", "vector": HALF})
    )
    assert shell("import", "--index", "a", tmp_path / "a.jsonl") == 0
    assert "a: 1 documents ready, 0 failed, 1 wait for a model" in capsys.readouterr().err
    (tmp_path / "b.jsonl").write_text('{"id": "a", "text": "no vector"}\n')
    assert shell("import", "--index", "b", tmp_path / "b.jsonl") == 1
    assert "no document has a vector" in capsys.readouterr().err


THEIRS = "f" * 32
HALF = [0.5] * 64


def lines(path: Path, *fingerprints: str | None) -> Path:
    """Documents with vectors, each by a model, and a blank line among them."""
    documents = [{"id": str(i), "vector": HALF, "fingerprint": one} for i, one in enumerate(fingerprints)]
    path.write_text("\n\n".join(map(json.dumps, documents)))
    return path


def test_vectors_of_another_model_are_not_taken_into_an_index(
    shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shell("build", "--index", "a", written(tmp_path, ".jsonl"))
    ours = shell.prompter.checkpoint.fingerprint
    capsys.readouterr()
    source = lines(tmp_path / "theirs.jsonl", ours, None, THEIRS)
    for command in (("import",), ("build", "--vectors"), ("build",)):
        assert shell(*command, "--index", "a", source) == 1
        told = capsys.readouterr().err
        assert "theirs.jsonl, record 5, fingerprint" in told
        assert ours in told
        assert THEIRS in told
    assert shell("import", "--index", "a", lines(tmp_path / "b.jsonl", None), "--fingerprint", THEIRS) == 1
    told = capsys.readouterr().err
    assert ours in told
    assert THEIRS in told
    for collection in shell.collection():
        check(collection)
        assert [document.id for document in collection.page()] == ["1", "2", "3"]
        assert all(document.given == "text" for document in collection.page())


@pytest.mark.parametrize("fingerprints", [("e" * 32, THEIRS), (None, THEIRS)])
def test_vectors_of_two_models_make_no_index(
    shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str], fingerprints: tuple[str | None, ...]
) -> None:
    source = lines(tmp_path / "mixed.jsonl", *fingerprints)
    assert shell("import", "--index", "a", source) == 1
    told = capsys.readouterr().err
    assert "mixed.jsonl, record 3, fingerprint" in told
    assert THEIRS in told
    assert (fingerprints[0] or "one that is not known") in told
    assert shell("import", "--index", "b", source, "--fingerprint", "d" * 32) == 1
    assert "fingerprint: the vectors are by model" in capsys.readouterr().err


def test_a_fingerprint_that_the_first_vector_denies_makes_no_index(shell: Shell, tmp_path: Path) -> None:
    source = lines(tmp_path / "theirs.jsonl", THEIRS, THEIRS)
    assert shell("import", "--index", "a", source, "--fingerprint", "d" * 32) == 1
    assert shell("import", "--index", "a", source) == 0  # no index is left that would refuse them


def test_an_index_is_restored_under_an_alias_and_compacted(shell: Shell, tmp_path: Path) -> None:
    shell("build", "--index", "a", written(tmp_path, ".jsonl"))
    assert shell("snapshot", "--index", "a", tmp_path / "a.tar") == 0
    assert shell("restore", "--index", "b", tmp_path / "a.tar", "--alias", "live") == 0
    assert shell("compact", "--index", "live") == 0
    for collection in shell.collection("live"):
        assert collection.name == "b"
        check(collection)


def test_an_index_is_moved_to_another_model(shell: Shell, tmp_path: Path) -> None:
    shell("build", "--index", "a", written(tmp_path, ".jsonl"))
    assert shell("--model", "e" * 32, "search", "--index", "a", "river") == 1
    assert shell("--model", "e" * 32, "migrate", "--index", "a", "--to", "b", "--alias", "live") == 0
    assert shell("--model", "e" * 32, "search", "--index", "live", "river") == 0
    for collection in shell.collection("live"):
        assert (collection.name, collection.fingerprint) == ("b", "e" * 32)
        assert describe(collection).counts.ready == 3
        check(collection)


def test_a_command_ends_with_a_line_when_the_engine_dies_and_the_next_call_goes_on(
    shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build = ("build", "--index", "a", written(tmp_path, ".jsonl"))
    move = ("--model", "e" * 32, "migrate", "--index", "a", "--to", "b", "--alias", "live")
    for command, name in ((build, "a"), (move, "b")):
        shell.dies_after = 1
        capsys.readouterr()
        assert shell(*command) == 1
        [line] = capsys.readouterr().err.splitlines()
        assert line.endswith("the fake engine was killed: what is embedded is kept, and the same command goes on")
        for collection in shell.collection(name):
            counts = describe(collection).counts
            assert (counts.ready, counts.pending, counts.failed) == (1, 2, 0)
            assert not collection.aliases()
        shell.dies_after, shell.calls = None, 0
        assert (shell(*command), shell.calls) == (0, 2)


def test_an_alias_is_not_switched_to_an_index_that_lacks_documents(
    shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.refused = "harbour"
    shell("build", "--index", "a", written(tmp_path, ".jsonl"))
    move = ("--model", "e" * 32, "migrate", "--index", "a", "--to", "b", "--alias", "live")
    shell.refused = "built"
    capsys.readouterr()
    assert shell(*move) == 1
    counts, *reasons, told = capsys.readouterr().err.splitlines()
    assert (counts, reasons) == ("b: 1 documents ready, 2 failed", ["  2: no built here", "  3: no built here"])
    assert "1 of 2 documents that are ready in index 'a' are not in 'b', '2' among them: no alias was switched" in told
    for collection in shell.collection("b"):
        assert not collection.aliases()
    shell.refused = "harbour"  # which failed in the old index, too, and is no loss
    assert shell(*move) == 0
    assert capsys.readouterr().err.splitlines() == ["b: 2 documents ready, 1 failed", "  3: no harbour here"]
    for collection in shell.collection("live"):
        assert collection.name == "b"


def test_vectors_without_a_text_are_not_moved_to_another_model(
    shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shell("import", "--index", "a", lines(tmp_path / "a.jsonl", THEIRS, THEIRS)) == 0
    for collection in shell.collection():
        collection.upsert([{"id": "9", "text": "A mill.", "vector": HALF}])
    capsys.readouterr()
    assert shell("--model", "e" * 32, "migrate", "--index", "a", "--to", "b", "--alias", "live") == 1
    assert "2 documents of index 'a' are vectors without a text" in (told := capsys.readouterr().err)
    assert "'0' among them" in told
    assert shell.calls == 0
    for collection in shell.collection():
        collection.delete(["0", "1"])
    assert shell("--model", "e" * 32, "migrate", "--index", "a", "--to", "b", "--alias", "live") == 0
    for collection in shell.collection("live"):
        assert [document.text for document in collection.page(state="ready")] == ["A mill."]


def test_an_index_that_is_moved_takes_pooling_and_modes_of_the_new_checkpoint_unless_told_otherwise(
    shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    direct = {"pooling": "mean", "mode": {"document": "direct", "query": "direct"}}
    shell.config = direct
    shell("build", "--index", "a", written(tmp_path, ".jsonl"), "--sums", "float16")
    shell.config = {"pooling": "rationale", "mode": {"document": "reason", "query": "reason"}}
    assert shell("--model", "e" * 32, "migrate", "--index", "a", "--to", "b") == 0
    shell.config = direct
    move = ("--model", "d" * 32, "migrate", "--index", "b", "--to", "c", "--query-mode")
    assert shell(*move, "reason") == 0
    for name, expected in (("b", ("rationale", "reason", "reason")), ("c", ("mean", "direct", "reason"))):
        for collection in shell.collection(name):
            settings = collection.settings
            assert (settings.pooling, settings.document_mode, settings.query_mode) == expected
            assert settings.sums == "float16"
            assert describe(collection).counts.ready == 3
    capsys.readouterr()
    assert shell(*move, "direct") == 1
    assert "index 'c' is there with another query_mode" in capsys.readouterr().err


@pytest.mark.parametrize("point", [FaultPoint.MIGRATE_BATCH, FaultPoint.MIGRATE_SWITCH], ids=lambda p: p.name)
def test_a_move_that_was_cut_off_goes_on_where_it_was(shell: Shell, tmp_path: Path, point: FaultPoint) -> None:
    shell("build", "--index", "a", written(tmp_path, ".jsonl"))

    def cut(reached: FaultPoint) -> None:
        if reached is point:
            raise OSError("cut off")

    catalog = Catalog(shell.folder, Edges(faults=cut))
    moving = migrate(catalog, shell.model("e" * 32), source="a", target="b", alias="live")
    with pytest.raises(OSError, match="cut off"):
        asyncio.run(moving)
    assert describe(catalog.get("a")).counts.ready == 3
    catalog.close()
    before = shell.calls
    assert shell("--model", "e" * 32, "migrate", "--index", "a", "--to", "b", "--alias", "live") == 0
    assert shell.calls - before == (0 if point is FaultPoint.MIGRATE_SWITCH else 3)
    for collection in shell.collection("live"):
        assert collection.name == "b"
        check(collection)


def move(shell: Shell, source: str, target: str) -> int:
    return shell("--model", "e" * 32, "migrate", "--index", source, "--to", target, "--alias", "live")


def test_a_move_repeated_takes_nothing_back_that_was_written_since(
    shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shell("build", "--index", "a", written(tmp_path, ".jsonl"))
    assert (move(shell, "a", "b"), move(shell, "a", "b")) == (0, 0)
    for collection in shell.collection("live"):
        collection.upsert([{"id": "1", "text": "Corrected."}, {"id": "4", "text": "Added."}])
    capsys.readouterr()
    assert move(shell, "a", "b") == 1
    assert "index 'b' has been written to since 'a' was moved there" in capsys.readouterr().err
    for collection in shell.collection("live"):
        assert [d.text for d in collection.page()] == [
            "Corrected.",
            DOCUMENTS[1]["text"],
            DOCUMENTS[2]["text"],
            "Added.",
        ]


def test_a_move_repeated_brings_what_came_to_the_source_since(shell: Shell, tmp_path: Path) -> None:
    shell("build", "--index", "a", written(tmp_path, ".jsonl"))
    assert move(shell, "a", "b") == 0
    for collection in shell.collection("a"):
        collection.delete(["2"])
        collection.upsert([{"id": "4", "text": "Added."}])
    assert move(shell, "a", "b") == 0
    for collection in shell.collection("live"):
        assert [document.id for document in collection.page()] == ["1", "3", "4"]
        check(collection)


def test_an_index_of_other_documents_is_no_place_to_move_to(
    shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shell("build", "--index", "a", written(tmp_path, ".jsonl"))
    (tmp_path / "letters.jsonl").write_text('{"id": "5", "text": "Dear all"}\n')
    shell("--model", "e" * 32, "build", "--index", "letters", tmp_path / "letters.jsonl")
    assert move(shell, "a", "letters") == 1
    assert "index 'letters' holds documents that were not moved there from 'a'" in capsys.readouterr().err
    for collection in shell.collection("letters"):
        assert [document.id for document in collection.page()] == ["5"]


def test_a_wrong_record_is_named_by_its_place_and_all_before_it_are_in(
    shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [{"id": str(i), "vector": HALF} for i in range(1_300)]
    records[1_237]["vector"] = HALF[:3]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    assert shell("build", "--index", "a", "--vectors", tmp_path / "a.jsonl") == 1
    assert "a.jsonl, record 1238.vector has 3 dimensions" in capsys.readouterr().err
    for collection in shell.collection():
        assert describe(collection).counts.ready == 1_237


def damaged_parquet() -> bytes:
    """A file whose foot is sound and whose first page is not."""
    written = io.BytesIO()
    parquet.write_table(pa.table({"id": ["1", "2"], "text": ["a", "b"]}), written, compression="zstd")
    return b"PAR1" + b"\xff" * 12 + written.getvalue()[16:]


@pytest.mark.parametrize(
    ("name", "contents", "complaint"),
    [
        ("a.jsonl", '{"id": "1", "text": "a"}\nnot json\n', "line 2: not JSON"),
        ("a.jsonl", '{"text": "a"}\n', "record 1: has no 'id'"),
        ("a.jsonl", "[1]\n", "record 1: must be an object"),
        ("a.jsonl", '{"id": "1", "metadata": [1]}\n', "record 1, metadata: must be an object"),
        ("a.jsonl", '{"id": "1", "vector": 5}\n', "record 1, vector: must be a list of numbers"),
        ("a.jsonl", '{"id": "1", "made_with": "mean"}\n', "record 1, made_with: must be an object"),
        ("a.jsonl", '{"id": "1", "vector": [1], "fingerprint": [1]}\n', "record 1, fingerprint: must be a text"),
        ("a.jsonl", "[" * 100_000, "line 1: not JSON"),
        ("a.docx", "", "not a kind of file this reads"),
        ("a.csv", "id,text,year\n1,a,many\n", "is no number"),
        ("a.csv", "id,text,vector\n1,a,[1\n", "record 1, vector: not JSON"),
        ("a.csv", "id,text,metadata\n1,a,{\n", "record 1, metadata: not JSON"),
        ("a.csv", 'id,text\n1,a\n2,"' + "a" * 17_000_000, "after record 1: cannot be read: field larger than"),
        ("a.csv", b"id,text\n1,\xff\n", "cannot be read: 'utf-8' codec can't decode byte 0xff"),
        ("a.jsonl.gz", b"no gzip", "after record 0: cannot be read: Not a gzipped file"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"id": "1", "text": "a"}\n' * 9, mtime=0)[:-9],
            "cannot be read: Compressed file ended",
        ),
        ("a.jsonl.xz", b"no xz", "cannot be read: Input format not supported"),
        ("a.parquet", b"no Parquet", "a.parquet: cannot be read as Parquet"),
        ("a.parquet", damaged_parquet(), "a.parquet: cannot be read as Parquet"),
    ],
)
def test_a_wrong_source_is_refused_naming_the_place(
    shell: Shell, tmp_path: Path, name: str, contents: str | bytes, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(contents.encode() if isinstance(contents, str) else contents)
    assert shell("build", "--index", "a", tmp_path / name, "--number-field", "year") == 1
    assert complaint in capsys.readouterr().err


def test_verify_finds_and_repairs_what_is_derived(
    shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shell("build", "--index", "a", written(tmp_path, ".jsonl"))
    for collection in shell.collection():
        collection.store.write(lambda c: c.execute("INSERT INTO lexical (lexical) VALUES ('delete-all')") and None)
    assert shell("verify", "--index", "a") == UNSOUND
    assert "text index" in capsys.readouterr().err
    assert shell("verify", "--index", "a", "--repair") == 0
    assert shell("verify", "--index", "a") == 0


def test_a_damaged_vector_is_never_searched(shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shell("build", "--index", "a", written(tmp_path, ".jsonl"))
    for collection in shell.collection():
        collection.store.write(lambda c: c.execute("UPDATE vector SET vector = x'00' WHERE label = 1") and None)
    assert shell("verify", "--index", "a") == 1
    assert "wrong length: restore a snapshot" in capsys.readouterr().err


def test_an_unknown_index_is_refused(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    assert shell("search", "--index", "none", "river", "--method", "lexical") == 1
    assert "there is no index 'none'" in capsys.readouterr().err


@pytest.mark.parametrize("hits", ["0", "-1", "1.5", "many"])
def test_a_number_of_hits_that_is_none_is_wrong_usage(hits: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["search", f"-k={hits}", "a river"])
    assert stopped.value.code == 2
    assert f"-k: a whole number above 0, not '{hits}'" in capsys.readouterr().err


def test_torch_is_not_loaded_for_what_needs_no_model() -> None:
    """It takes seconds, which a list, an export or a lexical search need not cost."""
    code = "import sys, grace_server.index.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_cannot_be_asked_for_is_said_in_a_line(
    shell: Shell, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shell("search", "river", "--filter", "[" * 100_000) == 1
    monkeypatch.setenv("GRACE_PORT", "many")
    assert shell("list") == 1
    assert "grace-index: port: " in capsys.readouterr().err
    file = shell.folder / "grace.yaml"
    file.write_text("port: [")
    monkeypatch.setenv("GRACE_CONFIG", str(file))
    assert shell("list") == 1
    assert f"grace-index: the configuration file {file} is no YAML" in capsys.readouterr().err


def test_an_export_is_utf_8_whatever_the_terminal_is(shell: Shell, tmp_path: Path) -> None:
    source = tmp_path / "d.jsonl"
    source.write_text(json.dumps({"id": "1", "text": "漢 flüss", "vector": [1.0, 2.0]}), encoding="utf-8")
    assert shell("build", source, "--vectors") == 0
    command = [sys.executable, "-m", "grace_server.index.cli", "--data-dir", str(shell.folder), "export"]
    made = subprocess.run(command, env={**os.environ, "PYTHONIOENCODING": "latin-1"}, capture_output=True, check=True)
    assert json.loads(made.stdout.decode())["text"] == "漢 flüss"
