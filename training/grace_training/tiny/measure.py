"""What the exported model can do, on texts it was not trained on.

`python -m grace_training.tiny.measure` writes `scores.json` into the work folder; the next export puts the figures into
`grace.json` and the model card. Generation is greedy, by transformers, in float32 from the exported bfloat16 weights.
"""

import argparse
import json
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM

from grace_training.tiny import corpus, pairs
from grace_training.tiny.export import FOLDER, MAX_INPUT
from grace_training.tiny.rationales import LONGEST, Role, Vocabulary, Writer
from grace_training.tiny.tokenizer import END_OF_TEXT, THINK, THINK_END, TURN_END, mark_id

log = logging.getLogger(__name__)

BATCH = 48


@dataclass(frozen=True)
class Written:
    """Texts represented both ways: unit vectors [B, H] and the generated ids, the end mark included if it came."""

    reason: NDArray[np.float32]
    direct: NDArray[np.float32]
    rationales: list[list[int]]


class Model:
    """The exported folder, for greedy rationales and both vectors."""

    def __init__(self, folder: Path) -> None:
        self.marks = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.network: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.writer = Writer(self.marks, Vocabulary(()))
        self._end = mark_id(self.marks, TURN_END)
        self._padding = mark_id(self.marks, END_OF_TEXT)

    def prompt(self, text: str, role: Role) -> tuple[list[int], int, int]:
        """Prompt ids and the span of the text in them."""
        prefix, ids = self.writer.prefixes[role], self.writer.text_ids(text, MAX_INPUT)
        return [*prefix, *ids, *self.writer.suffix], len(prefix), len(prefix) + len(ids)

    @torch.inference_mode()
    def represent(self, texts: Sequence[str], role: Role, *, reason: bool = True) -> Written:
        """Vectors and rationales; batches hold texts of like length."""
        prompts = [self.prompt(text, role) for text in texts]
        order = sorted(range(len(texts)), key=lambda i: len(prompts[i][0]))
        size = self.network.config.hidden_size
        with_reason, direct = np.zeros((len(texts), size), np.float32), np.zeros((len(texts), size), np.float32)
        written: list[list[int]] = [[] for _ in texts]
        for at in range(0, len(order), BATCH):
            batch = order[at : at + BATCH]
            answers = self._generate([prompts[i][0] for i in batch]) if reason else [[] for _ in batch]
            hidden = self._states([[*prompts[i][0], *answer] for i, answer in zip(batch, answers, strict=True)])
            for row, (i, answer) in enumerate(zip(batch, answers, strict=True)):
                ids, start, end = prompts[i]
                written[i] = answer
                # The last sampled token never went through the model when serving, so it is not pooled.
                for vectors, stop in ((with_reason, len(ids) + len(answer) - 1), (direct, end)):
                    vectors[i] = F.normalize(hidden[row, start : max(stop, start + 1)].mean(0), dim=0).numpy()
        return Written(with_reason, direct, written)

    def _generate(self, prompts: list[list[int]]) -> list[list[int]]:
        longest = max(map(len, prompts))
        ids = torch.tensor([[self._padding] * (longest - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        out = self.network.generate(input_ids=ids, attention_mask=mask, max_new_tokens=LONGEST, do_sample=False)
        answers = []
        for row in out[:, longest:].tolist():
            answers.append(row[: row.index(self._end) + 1] if self._end in row else row)
        return answers

    def _states(self, rows: list[list[int]]) -> Tensor:
        longest = max(map(len, rows))
        ids = torch.tensor([row + [self._padding] * (longest - len(row)) for row in rows])
        hidden: Tensor = self.network.model(input_ids=ids, use_cache=False).last_hidden_state
        return hidden

    def well_formed(self, rationale: Sequence[int]) -> bool:
        """`<think>` some text `</think>` some text, and the end mark as the last of at most 48 tokens."""
        opened, closed = mark_id(self.marks, THINK), mark_id(self.marks, THINK_END)
        if not rationale or rationale[0] != opened or rationale[-1] != self._end or rationale.count(closed) != 1:
            return False
        middle = list(rationale).index(closed)
        parts = [rationale[1:middle], rationale[middle + 1 : -1]]
        return all(self.marks.decode(list(part)).strip() for part in parts) and rationale.count(opened) == 1


@torch.inference_mode()
def perplexity(model: Model, texts: Iterable[str]) -> dict[str, float]:
    """Per-token perplexity and bits per byte over whole texts, in windows of up to 1024 tokens that start afresh."""
    nats, tokens, size = 0.0, 0, 0
    for text in texts:
        ids = model.writer.text_ids(text, 10**9)
        size += len(text.encode())
        for start in range(0, len(ids) - 1, 1023):
            row = torch.tensor([ids[start : start + 1024]])
            logits = model.network(input_ids=row[:, :-1]).logits[0]
            nats += F.cross_entropy(logits.float(), row[0, 1:], reduction="sum").item()
            tokens += row.shape[1] - 1
    return {"perplexity": math.exp(nats / tokens), "bits_per_byte": nats / math.log(2) / size}


def ranks(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Ranks [N], ties sharing their mean."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    shared: NDArray[np.float64] = (last - (counts - 1) / 2.0)[places]
    return shared


def spearman(one: NDArray[np.floating[Any]], two: NDArray[np.floating[Any]]) -> float:
    """Rank correlation of two series [N]."""
    return float(np.corrcoef(ranks(one), ranks(two))[0, 1])


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


def _main_field(entry: corpus.Source) -> str:
    return "text" if not entry.fields or "text" in entry.fields else entry.fields[0]


def writing(model: Model, texts: Sequence[tuple[Role, str]]) -> dict[str, float]:
    """How many rationales are well-formed, how long they are, and how many of their words stand in the text."""
    answers: list[tuple[str, list[int]]] = []
    roles: tuple[Role, Role] = ("document", "query")
    for role in roles:
        chosen = [text for of, text in texts if of == role]
        answers += zip(chosen, model.represent(chosen, role).rationales, strict=True)
    grounded = []
    for text, ids in answers:
        words = [word for word in model.marks.decode(ids).lower().split() if len(word) > 3]
        words = [word.strip(".,:;?!\"'()") for word in words]
        grounded.append(sum(word in text.lower() for word in words) / max(1, len(words)))
    return {
        "rationales_well_formed": float(np.mean([model.well_formed(ids) for _, ids in answers])),
        "rationale_tokens_mean": float(np.mean([len(ids) for _, ids in answers])),
        "rationale_words_found_in_text": float(np.mean(grounded)),
    }


def similarity(model: Model, data: Path, most: int) -> dict[str, float]:
    """STSBenchmark dev: Spearman of cosine and judged similarity, times 100."""
    rows = [json.loads(line) for line in corpus.open_text(data / "stsbenchmark/dev.jsonl.gz")][:]
    rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))[:most]]
    one, two = (model.represent([str(row[side]) for row in rows], "document") for side in ("s1", "s2"))
    judged = np.array([float(row["score"]) for row in rows])
    return {
        f"stsbenchmark_dev_spearman_{mode}": 100 * spearman((left * right).sum(1), judged)
        for mode, left, right in (("direct", one.direct, two.direct), ("reason", one.reason, two.reason))
    }


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


def main() -> None:
    """Measure the exported folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path(".tiny"))
    parser.add_argument("--model", type=Path, default=FOLDER)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--articles", type=int, default=122, help="WikiText-2 articles, for perplexity")
    parser.add_argument("--texts", type=int, default=300, help="held-out texts to write rationales for")
    parser.add_argument("--sts", type=int, default=1500, help="sentence pairs")
    parser.add_argument("--queries", type=int, default=225, help="Cranfield queries; 0 leaves Cranfield out")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)

    model = Model(options.model)
    scores: dict[str, float] = {
        "sample_held_out_texts": options.texts,
        "sample_sts_pairs": options.sts,
        "sample_articles": options.articles,
    }
    articles = islice(corpus.open_text(options.data / "text_wikitext2_vt/all.txt.xz"), options.articles)
    measures: list[Callable[[], dict[str, float]]] = [
        lambda: writing(model, held_out_texts(options.data, options.texts)),
        lambda: similarity(model, options.data, options.sts),
        lambda: perplexity(model, articles),
        lambda: retrieval(model, options.data, options.queries) if options.queries else {},
    ]
    # Written after each: a measurement that is cut short on a busy machine leaves the figures it had.
    for measure in measures:
        scores |= {name: round(value, 4) for name, value in measure().items()}
        (options.work / "scores.json").write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
        log.info("%s", scores)
    for example in pairs.sample(options.data, 12):
        answer = model.represent([example.text], example.role).rationales[0]
        log.info("%s: %s\n    %s", example.role, example.text[:150], model.marks.decode(answer, False))


if __name__ == "__main__":
    main()
