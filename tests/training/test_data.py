"""Data from every form, and every bad row named."""

from __future__ import annotations

import csv
import gzip
import json
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch

from grace.prompt import Prompter
from grace_training import data
from grace_training.check import check
from grace_training.data import read, text_key, training_rows
from grace_training.errors import BadData
from grace_training.rollouts import distinct

TRIPLES: list[dict[str, Any]] = [
    {"query": "q one", "positive": "p one", "negative": "n one"},
    {"query": "q two", "positive": ["p two", "p three"], "negatives": ["n two", "n three"]},
    {"query": "q four", "positive": "p four"},
]


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "jsonl.xz"])
def test_json_lines_packed_or_not(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"data.{suffix}"
    pack = {"jsonl": lambda b: b, "jsonl.gz": gzip.compress, "jsonl.xz": lzma.compress}[suffix]
    path.write_bytes(pack(lines(TRIPLES).encode()))
    found = read(str(path), "supervised").examples
    assert [(e.query, e.positive, e.negatives) for e in found] == [
        ("q one", "p one", ("n one",)),
        ("q two", "p two", ("n two", "n three")),
        ("q two", "p three", ("n two", "n three")),
        ("q four", "p four", ()),
    ]
    assert found[1].source == f"data.{suffix}:2"


def test_csv_parquet_and_plain_text(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerows([["question", "answer"], ["q, one", "p\none"], ["q two", "p two"]])
    mapped = read(str(tmp_path / "a.csv"), "supervised", columns={"query": "question", "positive": "answer"})
    assert [(e.query, e.positive) for e in mapped.examples] == [("q, one", "p\none"), ("q two", "p two")]
    (tmp_path / "b.csv").write_text("query,positive,negative\nq one,p one,\nq two,p two,n two\n", encoding="utf-8")
    assert [e.negatives for e in read(str(tmp_path / "b.csv"), "supervised").examples] == [(), ("n two",)]
    (tmp_path / "c.csv").write_text("query,positive\nq one,\n", encoding="utf-8")
    with pytest.raises(BadData, match=r"c\.csv:2: positive must be a text that is not empty"):
        read(str(tmp_path / "c.csv"), "supervised")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(TRIPLES[:1]), tmp_path / "a.parquet")
    assert read(str(tmp_path / "a.parquet"), "supervised").examples[0].negatives == ("n one",)
    (tmp_path / "a.txt").write_text("one\n\ntwo\n", encoding="utf-8")
    assert [e.positive for e in read(str(tmp_path / "a.txt"), "unsupervised").examples] == ["one", "two"]


@pytest.mark.parametrize("field", ["query", "positive", "negative"])
def test_half_a_character_is_a_bad_row(tmp_path: Path, field: str) -> None:
    """Valid JSON, which `datasets` cannot take: half of an emoji."""
    path = tmp_path / "a.jsonl"
    path.write_text(lines([TRIPLES[0], {**TRIPLES[0], field: "half \ud83d"}]))
    named = rf"a\.jsonl:2: (a )?{field} holds half a character"
    with pytest.raises(BadData, match=named):
        read(str(path), "supervised")
    found = read(str(path), "supervised", skip_bad=True)
    assert (len(found.examples), len(found.bad)) == (1, 1)


@pytest.mark.parametrize("packed", ["", ".gz", ".xz"])
def test_a_file_from_windows_is_read_like_any_other(tmp_path: Path, packed: str) -> None:
    """Lines end in CRLF, and a byte order mark comes first, in every form and packing; a quoted field keeps its own."""
    pack = {"": lambda b: b, ".gz": gzip.compress, ".xz": lzma.compress}[packed]
    written = {
        "a.txt": "one\r\n\r\ntwo\r\n",
        "a.jsonl": '{"text": "one"}\r\n{"text": "two"}\r\n',
        "a.csv": 'text\r\none\r\n"two\r\nlines"\r\n',
    }
    for name, content in written.items():
        (tmp_path / f"{name}{packed}").write_bytes(pack(content.encode("utf-8-sig")))
        found = [e.positive for e in read(str(tmp_path / f"{name}{packed}"), "unsupervised").examples]
        assert found == ["one", "two\r\nlines" if name == "a.csv" else "two"], name


@pytest.fixture
def csv_limit() -> Iterator[int]:
    """csv's limit is the whole process's, so other tests must find their own again."""
    before = csv.field_size_limit(50)
    yield 50
    csv.field_size_limit(before)


def test_a_long_field_is_read_and_what_is_no_csv_is_a_bad_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, csv_limit: int
) -> None:
    long = "word " * 30_000  # above csv's own limit
    (tmp_path / "a.csv").write_text(f"text\n{long}\n", encoding="utf-8")
    assert read(str(tmp_path / "a.csv"), "unsupervised").examples[0].positive == long
    csv.field_size_limit(csv_limit)
    monkeypatch.setattr(data, "_CSV_FIELD", csv_limit)
    (tmp_path / "b.csv").write_text('text\none\n"open\n' + "a line that is swallowed\n" * 3, encoding="utf-8")
    with pytest.raises(BadData, match=r"b.csv:5: not CSV: field larger than field limit \(50\)"):
        read(str(tmp_path / "b.csv"), "unsupervised")
    skipped = read(str(tmp_path / "b.csv"), "unsupervised", skip_bad=True)
    assert [e.positive for e in skipped.examples] == ["one", "a line that is swallowed"]
    assert len(skipped.bad) == 1
    (tmp_path / "c.csv").write_text("text\none, two\nthree\n", encoding="utf-8")
    with pytest.raises(BadData, match=r"c.csv:2: 1 more cells than the 1 columns of the header"):
        read(str(tmp_path / "c.csv"), "unsupervised")
    assert [e.positive for e in read(str(tmp_path / "c.csv"), "unsupervised", skip_bad=True).examples] == ["three"]


def test_a_hub_name_is_read_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load_dataset(name: str, *, split: str) -> list[dict[str, Any]]:
        assert (name, split) == ("owner/name", "train")
        return TRIPLES

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = read("owner/name", "supervised")
    assert len(found.examples) == 4
    assert found.examples[3].source == "owner/name:3"
    monkeypatch.undo()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # else it asks again and again
    with pytest.raises(BadData, match="'owner/none' is no file here, and the hub could not give it"):
        read("owner/none", "supervised")


def test_a_folder_is_all_its_files_and_the_fingerprint_follows_the_rows(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text(lines(TRIPLES[:1]), encoding="utf-8")
    (tmp_path / "a.jsonl").write_text(lines(TRIPLES[2:]), encoding="utf-8")
    (tmp_path / "README.md").write_text("no data", encoding="utf-8")
    both = read(str(tmp_path), "supervised")
    assert [e.query for e in both.examples] == ["q four", "q one"]
    assert both.fingerprint == read([str(tmp_path / n) for n in ("a.jsonl", "b.jsonl")], "supervised").fingerprint
    assert both.fingerprint != read(str(tmp_path / "a.jsonl"), "supervised").fingerprint


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"query": "q"}', "no column 'positive'; the row has query"),
        ('{"query": "", "positive": "p"}', "query must be a text"),
        ('{"query": "q", "positive": []}', "empty list"),
        ('{"query": "q", "positive": "p", "negative": 3}', "a negative must be"),
        ("[1]", "must be an object, not list"),
        ('{"query": ', "not JSON"),
        pytest.param("[" * 100_000, "not JSON", id="brackets"),
    ],
)
def test_a_bad_row_is_named_and_can_be_skipped(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(lines(TRIPLES[:1]) + line + "\n" + lines(TRIPLES[2:]), encoding="utf-8")
    with pytest.raises(BadData, match=f"data.jsonl:2: .*{reason}"):
        read(str(path), "supervised")
    skipped = read(str(path), "supervised", skip_bad=True)
    assert [e.query for e in skipped.examples] == ["q one", "q four"]
    assert len(skipped.bad) == 1
    assert reason in skipped.bad[0]


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="no such file"):
        read(str(tmp_path / "none.jsonl"), "supervised")
    (tmp_path / "a.docx").write_bytes(b"x")
    with pytest.raises(BadData, match=r"not a \.jsonl"):
        read(str(tmp_path / "a.docx"), "supervised")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(BadData, match="not UTF-8"):
        read(str(tmp_path / "a.txt"), "unsupervised")
    (tmp_path / "empty.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(BadData, match="no usable row"):
        read(str(tmp_path / "empty.jsonl"), "supervised")
    with pytest.raises(BadData, match="columns maps title"):
        read(str(tmp_path / "a.txt"), "unsupervised", columns={"title": "t"})


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("a.jsonl.gz", lambda packed: packed[:-15]),
        ("a.jsonl.gz", lambda packed: packed[:10] + b"\7" + packed[11:]),  # a block of a type that is none
        ("a.jsonl.gz", lambda packed: packed[:-8] + bytes(8)),  # a checksum of something else
        ("a.csv.gz", lambda packed: packed[:-15]),
        ("a.txt.gz", lambda packed: b"not packed at all"),
        ("a.jsonl.xz", lambda packed: packed[:-20]),
        ("a.jsonl.xz", lambda packed: b"not packed at all"),
        ("a.parquet", lambda packed: b"PAR1 and no more PAR1"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, spoil: Callable[[bytes], bytes]) -> None:
    """A download that broke off, for one: no skipping of bad rows makes up for what is not there."""
    rows = "".join(json.dumps({"query": f"{n} {n**7}", "positive": f"p{n}"}) + "\n" for n in range(200)).encode()
    packed = lzma.compress(rows) if name.endswith(".xz") else gzip.compress(rows)
    (tmp_path / name).write_bytes(spoil(packed))
    with pytest.raises(BadData, match=f"{tmp_path / name}: (damaged|no Parquet)"):
        read(str(tmp_path / name), "unsupervised", skip_bad=True)


def test_symmetric_rows_swap_query_and_positive(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(lines(TRIPLES), encoding="utf-8")
    rows = training_rows(read(str(tmp_path / "a.jsonl"), "supervised").examples, symmetric=True)
    assert [(r["prompt"], r["anchor"], r["swapped"]) for r in rows[:2]] == [
        ("p one", "q one", False),
        ("q one", "p one", True),
    ]
    keys = torch.tensor([r["keys"] for r in rows])
    competes = distinct(keys)
    assert not competes[0, 1]  # one example in both roles
    assert not competes[2, 4]  # two positives of one query
    assert competes[0, 2]


def test_keys_ignore_case_and_white_space() -> None:
    assert text_key("A  text\n") == text_key("a text") != text_key("a test")


def test_the_check_finds_long_texts_duplicates_and_leaks(tmp_path: Path, prompter: Prompter) -> None:
    rows = [*TRIPLES, TRIPLES[0], {"query": "mill " * 400, "positive": "p five"}, {"query": 1}]
    (tmp_path / "train.jsonl").write_text(lines(rows), encoding="utf-8")
    (tmp_path / "test.jsonl").write_text(lines([{"query": "new", "positive": "P FOUR"}]), encoding="utf-8")
    found = read(str(tmp_path / "train.jsonl"), "supervised", skip_bad=True)
    findings = check(found, prompter, read(str(tmp_path / "test.jsonl"), "supervised"))
    assert findings.duplicates == ["train.jsonl:4: same as train.jsonl:1"]
    assert findings.leaks == ["train.jsonl:3"]
    assert len(findings.too_long) == 1
    assert findings.too_long[0].startswith("train.jsonl:5: ")
    assert len(findings.bad) == 1
    assert findings.without_negatives == 2
    assert any("1 duplicates" in line for line in findings.lines())
