"""`grace-index migrate`: an index moves to another model whole, once, and from where it was cut off."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from grace_server.index.catalog import Catalog
from grace_server.index.description import describe
from grace_server.index.edges import Edges
from grace_server.index.faults import FaultPoint
from grace_server.index.migrate import migrate
from tests.index.invariants import check
from tests.index.shell import DOCUMENTS, HALF, THEIRS, Shell, with_vectors, written


def test_an_index_is_moved_to_another_model(shell: Shell, tmp_path: Path) -> None:
    shell("build", "--index", "a", written(tmp_path, ".jsonl"))
    assert shell("--model", "e" * 32, "search", "--index", "a", "river") == 1
    assert shell("--model", "e" * 32, "migrate", "--index", "a", "--to", "b", "--alias", "live") == 0
    assert shell("--model", "e" * 32, "search", "--index", "live", "river") == 0
    for collection in shell.collection("live"):
        assert (collection.name, collection.fingerprint) == ("b", "e" * 32)
        assert describe(collection).counts.ready == 3
        check(collection)


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
    assert shell("import", "--index", "a", with_vectors(tmp_path / "a.jsonl", THEIRS, THEIRS)) == 0
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
