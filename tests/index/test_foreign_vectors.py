"""`grace-index import`: vectors that came from elsewhere are taken with their settings and their model, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from grace_server.index.catalog import Catalog
from grace_server.index.description import describe
from grace_server.index.edges import Edges
from grace_server.index.settings import CollectionSettings
from grace_server.index.writing import Embedded
from tests.index.invariants import check
from tests.index.shell import HALF, THEIRS, Shell, with_vectors, written


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


def test_vectors_of_another_model_are_not_taken_into_an_index(
    shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shell("build", "--index", "a", written(tmp_path, ".jsonl"))
    ours = shell.prompter.checkpoint.fingerprint
    capsys.readouterr()
    source = with_vectors(tmp_path / "theirs.jsonl", ours, None, THEIRS)
    for command in (("import",), ("build", "--vectors"), ("build",)):
        assert shell(*command, "--index", "a", source) == 1
        told = capsys.readouterr().err
        assert "theirs.jsonl, record 5, fingerprint" in told
        assert ours in told
        assert THEIRS in told
    assert shell("import", "--index", "a", with_vectors(tmp_path / "b.jsonl", None), "--fingerprint", THEIRS) == 1
    told = capsys.readouterr().err
    assert ours in told
    assert THEIRS in told
    for collection in shell.collection():
        check(collection)
        given = {document.id: document.given for document in collection.page()}
        assert given == {"0": "vector", "1": "vector", "2": "text", "3": "text"}  # ours, and one of none that is named


@pytest.mark.parametrize("fingerprints", [("e" * 32, THEIRS), (None, THEIRS)])
def test_vectors_of_two_models_make_no_index(
    shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str], fingerprints: tuple[str | None, ...]
) -> None:
    source = with_vectors(tmp_path / "mixed.jsonl", *fingerprints)
    assert shell("import", "--index", "a", source) == 1
    told = capsys.readouterr().err
    assert "mixed.jsonl, record 3, fingerprint" in told
    assert THEIRS in told
    assert (fingerprints[0] or "one that is not known") in told
    assert shell("import", "--index", "b", source, "--fingerprint", "d" * 32) == 1
    assert "fingerprint: the vectors are by model" in capsys.readouterr().err


def test_a_fingerprint_that_the_first_vector_denies_makes_no_index(shell: Shell, tmp_path: Path) -> None:
    source = with_vectors(tmp_path / "theirs.jsonl", THEIRS, THEIRS)
    assert shell("import", "--index", "a", source, "--fingerprint", "d" * 32) == 1
    assert shell("import", "--index", "a", source) == 0  # no index is left that would refuse them
