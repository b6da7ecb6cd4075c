"""Make the shipped suite of grace-eval from public data: `python scripts/small_suite.py FOLDER_OF_DATA`.

The folder holds the files named below, in the forms that docs/evaluation.md lists. Draws are seeded: the same files
give the same suite, byte for byte.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sklearn.feature_extraction.text import TfidfVectorizer

OUT = Path(__file__).parents[1] / "training/grace_training/evaluation/suites/small"
SOURCES = {
    "banking77": ("banking77/train.jsonl.gz", "banking77/test.jsonl.gz"),
    "clinc150": ("clinc150/test.jsonl.gz",),
    "pubmedqa": ("pairs_pubmedqa/pqal.jsonl.xz",),
    "scitldr": ("sum_scitldr/all.jsonl.xz",),
    "cad": ("cad_nli/all.jsonl.xz",),
    "gsm8k": ("general/gsm8k_test200.jsonl.gz",),
}
# Sets that hold the same texts under another name: training on them is training on the task.
SAME = {"cad": ("triples_cad/train.jsonl.xz",)}


def main() -> None:
    data, rng = Path(sys.argv[1]), random.Random(5)
    OUT.mkdir(parents=True, exist_ok=True)
    rows = {name: [row for file in files for row in read(data / file)] for name, files in SOURCES.items()}

    intents = sorted({row["label"] for row in rows["banking77"]})[::6]
    train = [r for label in intents for r in drawn(read(data / SOURCES["banking77"][0]), 12, rng, label=label)]
    test = [r for label in intents for r in drawn(read(data / SOURCES["banking77"][1]), 10, rng, label=label)]
    write("intents-train.jsonl.gz", train)
    write("intents-test.jsonl.gz", test)

    topics = rng.sample(sorted({row["label"] for row in rows["clinc150"]}), 30)
    write(
        "topics.jsonl.gz",
        [
            {**r, "set": str(n // 10)}
            for n, label in enumerate(topics)
            for r in drawn(rows["clinc150"], 10, rng, label=label)
        ],
    )

    grades = {"entailment": 2, "neutral": 1, "contradiction": 0}
    pairs = drawn(rows["cad"], 200, rng)
    write("inference.jsonl.gz", [{"s1": r["s1"], "s2": r["s2"], "score": grades[r["label"]]} for r in pairs])

    studies = drawn(rows["pubmedqa"], 150, rng)
    write(
        "studies-corpus.jsonl.gz", [{"id": f"d{n}", "title": "", "text": r["positive"]} for n, r in enumerate(studies)]
    )
    write("studies-queries.jsonl.gz", [{"id": f"q{n}", "text": r["query"]} for n, r in enumerate(studies[:100])])
    with gzip.GzipFile(OUT / "studies-qrels.tsv.gz", "wb", mtime=0) as stream:
        stream.write(b"query-id\tcorpus-id\tscore\n")
        stream.write(b"".join(f"q{n}\td{n}\t1\n".encode() for n in range(100)))

    # A paper's summary beside its own abstract, and beside the one most like it in words.
    papers = drawn([r for r in rows["scitldr"] if len(r["text"]) < 1200], 150, rng)
    near = nearest([r["text"] for r in papers])
    twins = [{"s1": r["summary"], "s2": r["text"], "label": 1} for r in papers[:75]]
    twins += [{"s1": papers[n]["summary"], "s2": papers[near[n][0]]["text"], "label": 0} for n in range(75, 150)]
    write("papers-pairs.jsonl.gz", twins)

    # Of each abstract: a summary by its authors, and three made ones that keep all, half and nothing of it.
    summaries = []
    for n, paper in enumerate(papers[:60]):
        other = papers[(n + 60) % 150]
        own, foreign = sentences(paper["text"]), sentences(other["text"])
        made = [own[0] + " " + own[-1], own[0] + " " + foreign[-1], foreign[0] + " " + foreign[-1]]
        summaries.append(
            {
                "text": paper["text"],
                "human_summaries": [paper["summary"]],
                "machine_summaries": made,
                "relevance": [2, 1, 0],
            }
        )
    write("papers-summaries.jsonl.gz", summaries)

    sums = rows["gsm8k"][:120]
    near = nearest([r["answer"] for r in sums])
    write(
        "problems.jsonl.gz",
        [
            {"query": r["question"], "positive": [r["answer"]], "negative": [sums[m]["answer"] for m in near[n][:9]]}
            for n, r in enumerate(sums)
        ],
    )
    describe(data)


def describe(data: Path) -> None:
    def source(name: str) -> dict[str, str]:
        return {
            file: hashlib.sha256((data / file).read_bytes()).hexdigest() for file in SOURCES[name] + SAME.get(name, ())
        }

    banking = {file: mark for file, mark in source("banking77").items() if "test" in file}
    tasks: list[dict[str, Any]] = [
        {
            "name": "Studies",
            "type": "Retrieval",
            "corpus": "studies-corpus.jsonl.gz",
            "queries": "studies-queries.jsonl.gz",
            "qrels": "studies-qrels.tsv.gz",
            "source": source("pubmedqa"),
        },
        {"name": "Problems", "type": "Reranking", "test": "problems.jsonl.gz", "source": source("gsm8k")},
        {"name": "Topics", "type": "Clustering", "test": "topics.jsonl.gz", "source": source("clinc150")},
        {
            "name": "PaperPairs",
            "type": "PairClassification",
            "test": "papers-pairs.jsonl.gz",
            "source": source("scitldr"),
        },
        {
            "name": "Intents",
            "type": "Classification",
            "train": "intents-train.jsonl.gz",
            "test": "intents-test.jsonl.gz",
            "source": banking,
        },
        {
            "name": "Inference",
            "type": "STS",
            "test": "inference.jsonl.gz",
            "min_score": 0,
            "max_score": 2,
            "source": source("cad"),
        },
        {
            "name": "PaperSummaries",
            "type": "Summarization",
            "test": "papers-summaries.jsonl.gz",
            "min_score": 0,
            "max_score": 2,
            "source": source("scitldr"),
        },
    ]
    (OUT / "suite.json").write_text(json.dumps({"name": "small", "tasks": tasks}, indent=2) + "\n", encoding="utf-8")


def drawn(
    rows: list[dict[str, Any]], count: int, rng: random.Random, *, label: str | None = None
) -> list[dict[str, Any]]:
    return rng.sample([row for row in rows if label is None or row["label"] == label], count)


def nearest(texts: list[str]) -> list[list[int]]:
    """Per text the others, those most alike in words first."""
    matrix = TfidfVectorizer(sublinear_tf=True).fit_transform(texts)
    order = (matrix @ matrix.T).toarray().argsort(axis=1)[:, ::-1]
    return [[int(m) for m in row if m != n] for n, row in enumerate(order)]


def sentences(text: str) -> list[str]:
    return [part.strip() + "." for part in text.split(". ") if part.strip()]


def read(path: Path) -> list[dict[str, Any]]:
    opened: Callable[..., Any] = lzma.open if path.suffix == ".xz" else gzip.open
    with opened(path, "rt", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def write(name: str, rows: list[dict[str, Any]]) -> None:
    with gzip.GzipFile(OUT / name, "wb", mtime=0) as stream:  # no time in it: the same rows are the same bytes
        stream.write(b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows))


if __name__ == "__main__":
    main()
