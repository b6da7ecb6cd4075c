"""Which texts grace-tiny may see, and how they are read.

The one rule: a text trains the model only if its licence allows a trained model to be passed on. `SOURCES` lists those
that do, with the licence; whatever is not in the list cannot be read through this module.
"""

import gzip
import hashlib
import json
import logging
import lzma
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

# One text in this many is kept out of every training stage, to measure on.
HELD_OUT_SHARE = 64


@dataclass(frozen=True)
class Source:
    """One data file, the licence of its texts and the text it gives for plain language modelling."""

    name: str
    path: str
    licence: str
    fields: tuple[str, ...]  # joined by a line break to one document; () for a file of plain lines
    pretrain: bool = (
        True  # whether its rows are documents of the corpus, or only give pairs and rationales to the later stages
    )


SOURCES: tuple[Source, ...] = (
    Source("wikipedia", "text_wikipedia/all.jsonl.xz", "CC BY-SA 3.0", ("title", "text")),
    Source("openstax", "text_openstax/all.txt.xz", "CC BY 3.0", ()),
    Source("2wiki", "text_2wiki/corpus.jsonl.xz", "CC BY-SA 3.0", ("title", "text")),
    Source("wikihop", "text_wikihop/all.txt.xz", "CC BY-SA 3.0", ()),
    Source("wikisplit", "pairs_wikisplit/all.jsonl.xz", "CC BY-SA 4.0", ("s1",)),
    Source("pubmedqa", "pairs_pubmedqa/pqal.jsonl.xz", "MIT", ("query", "positive", "summary")),
    Source("scitldr", "sum_scitldr/all.jsonl.xz", "Apache-2.0", ("text", "summary")),
    Source("esnli_dev", "esnli/dev.jsonl.xz", "MIT; SNLI CC BY-SA 4.0", ("s1", "s2")),
    Source("esnli_test", "esnli/test.jsonl.xz", "MIT; SNLI CC BY-SA 4.0", ("s1", "s2")),
    Source("banking77", "banking77/train.jsonl.gz", "CC BY 4.0", ("text",)),
    Source("clinc150", "clinc150/train.jsonl.gz", "CC BY 3.0", ("text",)),
    Source("cad", "triples_cad/train.jsonl.xz", "Apache-2.0; SNLI CC BY-SA 4.0", ("query",), pretrain=False),
    Source("squad", "pairs_squad_sample/sample.jsonl.gz", "CC BY-SA 4.0", ("query",), pretrain=False),
)

_LINK = re.compile(r"\(?\[[^\]]*\]\(#[^)]*\)\)?")
_SPACES = re.compile(r"[ \t\u00a0]+")


def source(name: str) -> Source:
    """The allowed source of that name; KeyError for any other."""
    for entry in SOURCES:
        if entry.name == name:
            return entry
    raise KeyError(f"{name!r} is not among the sources grace-tiny may be trained on")


def is_held_out(text: str) -> bool:
    """Whether a text is kept for measuring: decided by its own bytes, so every stage agrees without a list."""
    return zlib.crc32(text.encode()) % HELD_OUT_SHARE == 0


def clean(text: str) -> str:
    """Drop the textbooks' figure links and doubled blanks; what is left reads as running text."""
    return _SPACES.sub(" ", _LINK.sub("", text)).strip()


def open_text(path: Path) -> Iterator[str]:
    """Lines of a packed UTF-8 file, without their ends."""
    opener: Any = lzma.open if path.suffix == ".xz" else gzip.open
    with opener(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield line.rstrip("\n")


def records(data: Path, name: str) -> Iterator[dict[str, Any]]:
    """The rows of one allowed source; plain lines come as {"text": line}."""
    entry = source(name)
    for line in open_text(data / entry.path):
        if line:
            yield json.loads(line) if entry.fields else {"text": line}


def key_text(entry: Source, record: dict[str, Any]) -> str:
    """The text of a row that decides whether it is held out."""
    fields = entry.fields or ("text",)
    return clean(str(record["text"] if "text" in fields else record[fields[0]]))


def documents(data: Path) -> Iterator[str]:
    """Every document of the corpus that is not held out, source by source.

    Short rows (intents, sentence pairs) follow each other in one document of about 20, since a page of unrelated
    one-liners with an end mark each would teach mostly the end mark.
    """
    for entry in (s for s in SOURCES if s.pretrain):
        short: list[str] = []
        for record in records(data, entry.name):
            if is_held_out(key_text(entry, record)):
                continue
            fields = entry.fields or ("text",)
            text = "\n".join(clean(str(record[field])) for field in fields)
            if len(text) >= 200:
                yield text
                continue
            if not short or short[-1] != text:
                short.append(text)
            if len(short) == 20:
                yield "\n".join(short)
                short = []
        if short:
            yield "\n".join(short)


def file_hashes(data: Path) -> dict[str, str]:
    """SHA-256 of every file that was trained on, by its path inside the data folder."""
    return {entry.path: hashlib.sha256((data / entry.path).read_bytes()).hexdigest() for entry in SOURCES}


def pack(tokens: NDArray[np.uint16], length: int, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Cut a token stream [N] into shuffled rows [rows, length + 1]; the start is random, so epochs differ."""
    start = int(rng.integers(0, length))
    rows = (len(tokens) - start - 1) // length
    index = start + np.arange(rows)[:, None] * length + np.arange(length + 1)[None, :]
    packed: NDArray[np.uint16] = tokens[index]
    rng.shuffle(packed, axis=0)
    return packed
