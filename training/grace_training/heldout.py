"""How good the vectors are on examples that were not trained on: the same figures for every preset and baseline.

Q queries, D documents, H hidden size. Rationales are written greedily.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from grace_training.data import Example, text_key
from grace_training.rewards import contrastive_margin, infonce, unit

Encode = Callable[[list[str], str], Tensor]  # texts, role -> (N, H)
RECORD = "heldout.jsonl"
TEMPERATURE = 0.1  # of the held-out InfoNCE; fixed, so that runs can be compared
FIGURES = ("accuracy_at_1", "mrr_at_10", "ndcg_at_10", "margin", "infonce")  # of `measure`; the more the better


class Collection(NamedTuple):
    """Examples as a retrieval task: distinct queries, distinct documents, which belong together."""

    queries: list[str]
    documents: list[str]
    relevant: Tensor  # (Q, D) bool


def collection(examples: list[Example]) -> Collection:
    """All positives and negatives form the documents. Examples without a query take no part."""
    pairs = [(e.query, e) for e in examples if e.query is not None]
    if not pairs:
        raise ValueError("held-out retrieval needs queries: unsupervised texts have none")
    queries = list(dict.fromkeys(query for query, _ in pairs))
    documents = list(dict.fromkeys(text for _, e in pairs for text in (e.positive, *e.negatives)))
    at_query = {text: i for i, text in enumerate(queries)}
    at_document = {text: i for i, text in enumerate(documents)}
    relevant = torch.zeros(len(queries), len(documents), dtype=torch.bool)
    for query, e in pairs:
        relevant[at_query[query], at_document[e.positive]] = True
    return Collection(queries, documents, relevant)


def measure(examples: list[Example], encode: Encode) -> dict[str, Tensor]:
    """Retrieval over all documents, one value per query, and the contrastive rewards, one value per example.

    Their means are reported; they themselves are compared, in pairs.
    """
    task = collection(examples)
    queries, documents = unit(encode(task.queries, "query")), unit(encode(task.documents, "document"))
    at_query = {text: i for i, text in enumerate(task.queries)}
    at_document = {text: i for i, text in enumerate(task.documents)}
    kept = [e for e in examples if e.query is not None]
    q = queries[[at_query[e.query or ""] for e in kept]]
    d = documents[[at_document[e.positive] for e in kept]][:, None]
    M = max(len(e.negatives) for e in kept)
    mask = torch.tensor([[m < len(e.negatives) for m in range(M)] for e in kept], dtype=torch.bool).view(len(kept), M)
    padded = [[at_document[(*e.negatives, *[e.positive] * M)[m]] for m in range(M)] for e in kept]
    n = documents[torch.tensor(padded, dtype=torch.long).view(len(kept), M)]
    mask, device = mask.to(q.device), q.device
    keys = torch.tensor([[text_key(e.query or ""), text_key(e.positive)] for e in kept], device=device)
    competes = ~(keys[:, None, :, None] == keys[None, :, None, :]).flatten(start_dim=2).any(dim=-1)
    margin = contrastive_margin(q, d, n, mask, torch.zeros(len(kept), dtype=torch.bool, device=device))
    log_p = infonce(q, d, d, n, mask, competes, TEMPERATURE)
    return {
        **retrieval(queries @ documents.T, task.relevant.to(device)),
        "margin": margin[:, 0],
        "infonce": log_p[:, 0],
    }


def means(measured: dict[str, Tensor]) -> dict[str, float]:
    """One figure of each."""
    return {name: values.mean().item() for name, values in measured.items()}


def retrieval(
    similarity: Tensor,  # (Q, D)
    relevant: Tensor,  # (Q, D) bool, at least one per row
) -> dict[str, Tensor]:  # (Q,) each
    """Accuracy at 1, MRR at 10 and nDCG at 10 of each query, with equal grades; ties count against the system."""
    assert similarity.shape == relevant.shape
    # A relevant document stands behind every irrelevant one of the same similarity.
    order = (similarity.double() - 1e-12 * relevant).argsort(dim=1, descending=True, stable=True)[:, :10]
    hits = relevant.gather(1, order).double()  # (Q, 10)
    ranks = torch.arange(1, hits.shape[1] + 1, device=hits.device)
    gains = 1 / torch.log2(ranks + 1.0)
    ideal = torch.stack([gains[: int(r)].sum() for r in relevant.sum(dim=1).clamp(max=hits.shape[1])])
    return {
        "accuracy_at_1": hits[:, 0],
        "mrr_at_10": (hits / ranks).amax(dim=1),
        "ndcg_at_10": (hits * gains).sum(dim=1) / ideal,
    }


def keep(folder: Path, step: int, measured: dict[str, Tensor]) -> None:
    """Add a line to `heldout.jsonl`: the value of each query or example at a step, in the order of the data."""
    line = {"step": step, **{name: [round(v, 6) for v in values.tolist()] for name, values in measured.items()}}
    with (folder / RECORD).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


def first(folder: Path) -> dict[str, float]:
    """Means of what was kept before the first step; empty where nothing was."""
    line = next((line for line in _kept(folder) if line["step"] == 0), {})
    return {name: statistics.fmean(values) for name, values in line.items() if name != "step"}


def rewind(folder: Path, step: int) -> None:
    """Take out what was kept after a step: a run that goes on from there measures it again."""
    path = folder / RECORD
    if path.exists():
        partial = path.with_name(f".{RECORD}.partial")
        partial.write_text(
            "".join(json.dumps(line) + "\n" for line in _kept(folder) if line["step"] <= step), encoding="utf-8"
        )
        partial.replace(path)


def _kept(folder: Path) -> list[dict[str, Any]]:
    path = folder / RECORD
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue  # cut short when the run was
    return lines
