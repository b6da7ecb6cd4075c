"""Which texts of the evaluation sets occur in what grace-tiny was trained on.

`python -m grace_training.tiny.contamination --data DATA` reads both and counts. The sets themselves are not among the
sources (`corpus.SOURCES`), but a sentence may stand in two collections. Compared are the words, in lower case.
"""

import argparse
import json
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from grace_training.tiny import corpus

log = logging.getLogger(__name__)

SHORTEST = 4  # words: shorter texts ("thank you") are everywhere

EVALUATION: dict[str, tuple[str, tuple[str, ...]]] = {
    "STSBenchmark dev": ("stsbenchmark/dev.jsonl.gz", ("s1", "s2")),
    "SICK dev": ("sick/dev.jsonl.gz", ("s1", "s2")),
    "MRPC val": ("mrpc/val.jsonl.xz", ("s1", "s2")),
    "Banking77 test": ("banking77/test.jsonl.gz", ("text",)),
    "CLINC150 test": ("clinc150/test.jsonl.gz", ("text",)),
    "Cranfield corpus": ("cranfield/corpus.jsonl.gz", ("text",)),
    "Cranfield queries": ("cranfield/queries.jsonl.gz", ("text",)),
    "CISI corpus": ("cisi/corpus.jsonl.gz", ("text",)),
    "CISI queries": ("cisi/queries.jsonl.gz", ("text",)),
    "LISA corpus": ("lisa/corpus.jsonl.gz", ("text",)),
    "LISA queries": ("lisa/queries.jsonl.gz", ("text",)),
    "WikiQA dev questions": ("wikiqa_rerank/dev.jsonl.gz", ("query",)),
}


@dataclass(frozen=True)
class Found:
    """Distinct texts of a set, and those of them that training saw."""

    texts: int
    seen: tuple[str, ...]


def normal(text: str) -> str:
    """The words of a text, in lower case."""
    return " ".join(re.findall(r"\w+", text.lower()))


def trained_on(data: Path) -> Iterator[str]:
    """Every text that some stage may see: whole fields, lines and sentences."""
    for entry in corpus.SOURCES:
        for row in corpus.records(data, entry.name):
            for value in row.values():
                if isinstance(value, str):
                    yield value
                    yield from re.split(r"(?<=[.!?])\s+|\n+", corpus.clean(value))


def seen_in(texts: Iterable[str], trained: set[int]) -> Found:
    """The texts whose words, in their order, are the whole of something trained on. `trained` holds their hashes."""
    distinct = {normal(text) for text in texts}
    distinct = {text for text in distinct if len(text.split()) >= SHORTEST}
    return Found(len(distinct), tuple(sorted(text for text in distinct if hash(text) in trained)))


def main() -> None:
    """Count, and show a few."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    trained = {hash(normal(text)) for text in trained_on(options.data)}
    for name, (path, fields) in EVALUATION.items():
        rows = [json.loads(line) for line in corpus.open_text(options.data / path)]
        found = seen_in((str(row[field]) for row in rows for field in fields), trained)
        log.info("%-22s %5d texts, %d seen; %s", name, found.texts, len(found.seen), " | ".join(found.seen[:3]))


if __name__ == "__main__":
    main()
