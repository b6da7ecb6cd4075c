"""What the exported model can do, on texts it was not trained on.

`python -m grace_training.tiny.measure` writes `scores.json` into the work folder; the next export puts the figures into
`grace.json` and the model card. Vectors and greedy rationales are those that are served, from the one-pass engine.
"""

import argparse
import json
import logging
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from grace import Grace, Rationale
from grace.model import EngineName
from grace_training.tiny import corpus, pairs
from grace_training.tiny.export import FOLDER
from grace_training.tiny.faults import judged
from grace_training.tiny.rationales import Role, Vocabulary, Writer
from grace_training.tiny.tokenizer import THINK, THINK_END

log = logging.getLogger(__name__)

HEAVIEST = 5  # terms of a text, by TF-IDF, that its rationale should name
SHOWN = 240  # characters of a text that an example shows
REGULARISATION = 10.0  # inverse strength; components of unit vectors are small
LOOP = 3  # times that a run of three words comes in a rationale that loops


@dataclass(frozen=True)
class Written:
    """Texts represented both ways: unit vectors [B, H], and what was written."""

    reason: NDArray[np.float32]
    direct: NDArray[np.float32]
    rationales: list[Rationale]


class Model:
    """The exported folder, served."""

    def __init__(self, folder: Path, engine: EngineName = "vllm") -> None:
        self.folder = folder
        self.grace = Grace.load(folder, engine=engine)

    def represent(self, texts: Sequence[str], role: Role) -> Written:
        """Both vectors from one pass: what a causal model makes of the text alone does not depend on what follows."""
        made = self.grace.represent(texts, role=role, show_progress=False)
        reason, direct = (np.stack([one.vector(pooling) for one in made]) for pooling in ("mean", "input"))
        return Written(reason, direct, [one.rationale for one in made if one.rationale is not None])


def well_formed(rationale: Rationale) -> bool:
    """`<think>` some text `</think>` some text, ended by itself."""
    marks = [rationale.text.count(mark) for mark in (THINK, THINK_END)]
    opened = rationale.text.startswith(THINK)
    said = bool(rationale.thinking.strip() and rationale.understanding.strip())
    return opened and marks == [1, 1] and said and rationale.finish_reason == "stop"


def loops(rationale: Rationale) -> bool:
    """Whether some three words follow each other again and again."""
    words = rationale.text.lower().split()
    runs = Counter(zip(words, words[1:], words[2:], strict=False))
    return max(runs.values(), default=0) >= LOOP


def named_terms(texts: Sequence[str], rationales: Sequence[Rationale]) -> list[float]:
    """For each text, the share of its heaviest terms by TF-IDF over all of them that its rationale has as a word."""
    vectorizer = TfidfVectorizer(sublinear_tf=True, stop_words="english")
    weights = vectorizer.fit_transform(texts).tocsr()
    terms = vectorizer.get_feature_names_out()
    shares = []
    for row, rationale in zip(weights, rationales, strict=True):
        heaviest = row.indices[np.argsort(-row.data, kind="stable")[:HEAVIEST]]
        words = set(re.findall(r"(?u)\b\w\w+\b", rationale.text.lower()))
        if len(heaviest):
            shares.append(float(np.mean([terms[i] in words for i in heaviest])))
    return shares


@torch.inference_mode()
def perplexity(model: Model, texts: Iterable[str]) -> dict[str, float]:
    """Per-token perplexity and bits per byte over whole texts, in windows of up to 1024 tokens that start afresh."""
    network: Any = AutoModelForCausalLM.from_pretrained(model.folder, dtype=torch.float32).eval()
    writer = Writer(Tokenizer.from_file(str(model.folder / "tokenizer.json")), Vocabulary(()))
    nats, tokens, size = 0.0, 0, 0
    for text in texts:
        ids = writer.text_ids(text, 10**9)
        size += len(text.encode())
        for start in range(0, len(ids) - 1, 1023):
            row = torch.tensor([ids[start : start + 1024]])
            logits = network(input_ids=row[:, :-1]).logits[0]
            nats += F.cross_entropy(logits.float(), row[0, 1:], reduction="sum").item()
            tokens += row.shape[1] - 1
    return {"perplexity": math.exp(nats / tokens), "bits_per_byte": nats / math.log(2) / size}


def ndcg_at_10(scores: NDArray[np.floating[Any]], gains: NDArray[np.floating[Any]]) -> float:
    """Mean nDCG@10 of scores [Q, D] under gains [Q, D]; queries without any gain are left out."""
    discounts = 1 / np.log2(np.arange(2, 12))
    values = []
    for row, gain in zip(scores, gains, strict=True):
        best = np.sort(gain)[::-1][:10]
        if best.sum() > 0:
            top = gain[np.argsort(-row, kind="stable")[:10]]
            values.append((top * discounts[: len(top)]).sum() / (best * discounts[: len(best)]).sum())
    return float(np.mean(values))


def held_out_texts(data: Path, most: int) -> list[tuple[Role, str]]:
    """Texts of every pretraining source that no stage has seen, in turn from each source."""
    queries = ("banking77", "clinc150", "pubmedqa")
    by_source = []
    for entry in (s for s in corpus.SOURCES if s.pretrain):
        texts = {corpus.clean(str(row[field])) for row in corpus.records(data, entry.name)
                 for field in [_main_field(entry)]
                 if corpus.is_held_out(corpus.key_text(entry, row))}  # fmt: skip
        role: Role = "query" if entry.name in queries else "document"
        by_source.append([(role, text) for text in sorted(texts)])
    mixed = [texts[i] for i in range(most) for texts in by_source if i < len(texts)]
    return mixed[:most]


def cut(texts: Sequence[tuple[Role, str]], words: int | None) -> list[tuple[Role, str]]:
    """The texts, or only their first words."""
    return [(role, text if words is None else " ".join(text.split()[:words])) for role, text in texts]


def _main_field(entry: corpus.Source) -> str:
    return "text" if not entry.fields or "text" in entry.fields else entry.fields[0]


def writing(model: Model, texts: Sequence[tuple[Role, str]]) -> dict[str, float]:
    """How many rationales are well-formed, how long they are, and what they say of their texts."""
    read: list[str] = []
    written: list[Rationale] = []
    roles: tuple[Role, Role] = ("document", "query")
    for role in roles:
        chosen = [text for of, text in texts if of == role]
        read += chosen
        written += model.represent(chosen, role).rationales if chosen else []
    grounded: list[float] = []
    good: list[bool] = []  # term by term
    for text, rationale in zip(read, written, strict=True):
        good += [fine for _, _, fine in judged(rationale.thinking, text)]
        words = [word.strip(".,:;?!\"'()") for word in rationale.text.lower().split() if len(word) > 3]
        grounded.append(sum(word in text.lower() for word in words) / max(1, len(words)))
    lengths = [rationale.tokens for rationale in written]
    for rationale in filter(loops, written):
        log.info("repeats itself: %s", rationale.text)
    return {
        "rationales_ended": float(np.mean([rationale.finish_reason == "stop" for rationale in written])),
        "rationales_well_formed": float(np.mean([well_formed(rationale) for rationale in written])),
        "rationales_looping": float(np.mean([loops(rationale) for rationale in written])),
        "rationale_tokens_mean": float(np.mean(lengths)),
        "rationale_tokens_median": float(np.median(lengths)),
        "rationale_words_found_in_text": float(np.mean(grounded)),
        "rationale_terms_faulty": 1 - float(np.mean(good)),
        "heaviest_terms_named": float(np.mean(named_terms(read, written))),
    }


def similarity(model: Model, data: Path, most: int) -> dict[str, float]:
    """STSBenchmark dev: Spearman of cosine and judged similarity, times 100."""
    rows = [json.loads(line) for line in corpus.open_text(data / "stsbenchmark/dev.jsonl.gz")]
    rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))[:most]]
    one, two = (model.represent([str(row[side]) for row in rows], "document") for side in ("s1", "s2"))
    judged = np.array([float(row["score"]) for row in rows])
    return {
        f"stsbenchmark_dev_spearman_{mode}": 100 * float(spearmanr((left * right).sum(1), judged).statistic)
        for mode, left, right in (("direct", one.direct, two.direct), ("reason", one.reason, two.reason))
    }


def classification(model: Model, data: Path, most: int) -> dict[str, float]:
    """Banking77: of `most` test messages, times 100, those whose intent a regression on train's vectors gives."""
    train, test = ([json.loads(line) for line in corpus.open_text(data / f"banking77/{part}.jsonl.gz")]
                   for part in ("train", "test"))  # fmt: skip
    test = [test[i] for i in np.random.default_rng(0).permutation(len(test))[:most]]
    seen, unseen = (model.represent([str(row["text"]) for row in part], "query") for part in (train, test))
    found = {}
    for mode, known, asked in (("direct", seen.direct, unseen.direct), ("reason", seen.reason, unseen.reason)):
        regression = LogisticRegression(C=REGULARISATION, max_iter=1000).fit(known, [row["label"] for row in train])
        right = regression.predict(asked) == np.array([row["label"] for row in test])
        found[f"banking77_accuracy_{mode}"] = 100 * float(right.mean())
    return found


def retrieval(model: Model, data: Path, most: int) -> dict[str, float]:
    """Cranfield: nDCG@10 over the whole collection, times 100; `most` queries."""
    documents = [json.loads(line) for line in corpus.open_text(data / "cranfield/corpus.jsonl.gz")]
    queries = [json.loads(line) for line in corpus.open_text(data / "cranfield/queries.jsonl.gz")][:most]
    column = {str(document["id"]): i for i, document in enumerate(documents)}
    row = {str(query["id"]): i for i, query in enumerate(queries)}
    gains = np.zeros((len(queries), len(documents)))
    for line in list(corpus.open_text(data / "cranfield/qrels.tsv.gz"))[1:]:
        query, document, grade = line.split("\t")
        if query in row and document in column:
            gains[row[query], column[document]] = float(grade)
    texts = [f"{document['title']}. {document['text']}".strip() for document in documents]
    held = model.represent(texts, "document")
    asked = model.represent([str(query["text"]) for query in queries], "query")
    return {
        "cranfield_ndcg10_direct": 100 * ndcg_at_10(asked.direct @ held.direct.T, gains),
        "cranfield_ndcg10_reason": 100 * ndcg_at_10(asked.reason @ held.reason.T, gains),
    }


def examples(model: Model, data: Path, count: int) -> str:
    """The first so many held-out texts with their rationales as Markdown, none chosen and none left out."""
    lines = []
    for role, text in held_out_texts(data, count):
        rationale = model.represent([text], role).rationales[0]
        shown = text if len(text) <= SHOWN else text[:SHOWN].rsplit(" ", 1)[0] + " ..."
        lines.append("- " + " ".join(shown.split()))
        lines.append(f"\n    `{rationale.text}`" + ("" if rationale.finish_reason == "stop" else " (cut off)") + "\n")
    return "\n".join(lines)


def main() -> None:
    """Measure the exported folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path(".tiny"))
    parser.add_argument("--model", type=Path, default=FOLDER)
    parser.add_argument("--articles", type=int, default=122, help="WikiText-2 articles, for perplexity")
    parser.add_argument("--texts", type=int, default=300, help="held-out texts to write rationales for")
    parser.add_argument("--words", type=int, metavar="N", help="cut the held-out texts to their first N words")
    parser.add_argument("--sts", type=int, default=1500, help="sentence pairs")
    parser.add_argument("--messages", type=int, default=3080, help="Banking77 test messages; 0 leaves Banking77 out")
    parser.add_argument("--queries", type=int, default=225, help="Cranfield queries; 0 leaves Cranfield out")
    parser.add_argument("--examples", type=int, metavar="N", help="measure nothing, print N rationales as Markdown")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    model = Model(options.model)
    if options.examples:
        sys.stdout.write(examples(model, options.data, options.examples) + "\n")
        model.grace.close()
        return
    scores: dict[str, float] = {
        "sample_held_out_texts": options.texts,
        "sample_sts_pairs": options.sts,
        "sample_articles": options.articles,
    }
    articles = islice(corpus.open_text(options.data / "text_wikitext2_vt/all.txt.xz"), options.articles)
    measures: list[Callable[[], dict[str, float]]] = [
        lambda: writing(model, cut(held_out_texts(options.data, options.texts), options.words)),
        lambda: similarity(model, options.data, options.sts),
        lambda: perplexity(model, articles),
        lambda: retrieval(model, options.data, options.queries) if options.queries else {},
        lambda: classification(model, options.data, options.messages) if options.messages else {},
    ]
    # Written after each: a measurement that is cut short on a busy machine leaves the figures it had.
    for measure in measures:
        scores |= {name: round(value, 4) for name, value in measure().items()}
        (options.work / "scores.json").write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
        log.info("%s", scores)
    for example in pairs.sample(options.data, 12):
        answer = model.represent([example.text], example.role).rationales[0]
        log.info("%s: %s\n    %s", example.role, example.text[:150], answer.text)
    model.grace.close()


if __name__ == "__main__":
    main()
