"""`grace-index`: from files to an index and back, with a fake engine in the model's place."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from grace_server.index.catalog import Catalog
from grace_server.index.cli import UNSOUND, main
from grace_server.index.description import describe
from grace_server.index.edges import Edges
from tests.index.invariants import check
from tests.index.shell import HALF, THEIRS, Shell, written


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


def test_an_index_is_restored_under_an_alias_and_compacted(shell: Shell, tmp_path: Path) -> None:
    shell("build", "--index", "a", written(tmp_path, ".jsonl"))
    assert shell("snapshot", "--index", "a", tmp_path / "a.tar") == 0
    assert shell("restore", "--index", "b", tmp_path / "a.tar", "--alias", "live") == 0
    assert shell("compact", "--index", "live") == 0
    for collection in shell.collection("live"):
        assert collection.name == "b"
        check(collection)


@pytest.mark.parametrize("alias", ["no name", "a", "b"])
def test_a_wrong_alias_is_refused_before_anything_is_made(shell: Shell, tmp_path: Path, alias: str) -> None:
    shell("build", "--index", "a", written(tmp_path, ".jsonl"))
    shell("snapshot", "--index", "a", tmp_path / "a.tar")
    calls = shell.calls
    assert shell("restore", "--index", "b", tmp_path / "a.tar", "--alias", alias) == 1
    assert shell("--model", "e" * 32, "migrate", "--index", "a", "--to", "b", "--alias", alias) == 1
    assert shell.calls == calls
    catalog = Catalog(shell.folder, Edges())
    assert [collection.name for collection in catalog] == ["a"]
    catalog.close()


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


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        (json.dumps({"id": "x", "vector": HALF[:3]}), "record 1238.vector has 3 dimensions"),
        (
            json.dumps({"id": "x", "vector": HALF, "fingerprint": THEIRS}),
            "record 1238, fingerprint: the vectors are by",
        ),
        ("no JSON", "line 1238: not JSON"),
    ],
)
def test_a_wrong_record_is_named_by_its_place_and_all_before_it_are_in(
    shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str], record: str, complaint: str
) -> None:
    lines = [json.dumps({"id": str(i), "vector": HALF}) for i in range(1_300)]
    lines[1_237] = record
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert shell("build", "--index", "a", "--vectors", tmp_path / "a.jsonl") == 1
    assert f"a.jsonl, {complaint}" in capsys.readouterr().err
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


def test_ray_that_is_not_installed_is_asked_for_by_the_way_to_get_it(
    shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grace_server.index.cli.find_spec", lambda name: None)
    assert shell("build", "--ray", written(tmp_path, ".jsonl")) == 1
    assert "--ray: in a checkout: pip install '.[ray]'" in capsys.readouterr().err


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
