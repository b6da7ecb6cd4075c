"""Fifth stage: writing rationales and being an embedding, learned together.

`python -m grace_training.tiny.finetune --minutes 25` starts from the weights of `contrast.py`, or of the newest stage
before it that was run. A step is one of three:

- a batch of pairs: the loss of both sides' rationales, plus InfoNCE of their vectors, once as `reason` (text and
  rationale) and once as `direct` (text alone). A causal model gives both in one forward pass.
- a batch of longer texts with the best targets: the loss of their rationales alone.
- a batch of the pretraining corpus, so that the language model stays one.

The loss of a rationale is cross-entropy, plus `unlikelihood` of what it wrote before: small models fall into loops.

The pairs are few, and seen many times: vectors that learn from them alone get worse for other texts. `--hold-vectors`
adds how far those of texts alone have moved from where they started (`drift`).
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from transformers import Qwen2ForCausalLM

from grace_training.tiny import crew, loop, model, muon, pairs, rationales, widen
from grace_training.tiny.faults import Faulty
from grace_training.tiny.pairs import Example, Kind
from grace_training.tiny.rationales import LONGEST, Writer
from grace_training.tiny.tokenizer import END_OF_TEXT, mark_id

PAIRS = 24  # B, pairs of a batch
PART_ROWS = 8  # rows a worker takes at once
SENTENCE, PASSAGE, LONG = 128, 192, 592  # longest rows of each sort, in tokens
LONG_ROWS, LONG_PART = 16, 2
TEXT_ROWS, TEXT_PART, TEXT_LENGTH = 4, 1, model.CONTEXT
SHARE_PAIRS, SHARE_LONG = 0.62, 0.25  # of the steps; the rest is plain text
TEMPERATURE = 0.05
STARTS = ("contrast", "widen", "pretrain")  # stages that it may start from, the newest first


@dataclass(frozen=True)
class Row:
    """A prompt with its rationale: template, text [text_from, text_to), template, rationale from `written_from` on."""

    ids: list[int]
    text_from: int
    text_to: int
    written_from: int


@dataclass(frozen=True)
class Rows:
    """Rows padded on the right.

    `reason` and `direct` [B, T] mark the pooled positions, as in serving: text, template suffix and rationale without
    its last token; or the text alone. `positions` [N] are the flat places whose next token is part of a rationale,
    `next_ids` [N] those tokens, `lengths` [B] how many each row has of them.
    """

    ids: Tensor
    reason: Tensor
    direct: Tensor
    positions: Tensor
    next_ids: Tensor
    lengths: list[int]


@dataclass(frozen=True)
class Pairs:
    """The rows of B first and M >= B second texts, and which of them clash [B, M]."""

    kind: str
    rows: list[Row]
    clash: Tensor


@dataclass(frozen=True)
class Rationales:
    """Rows whose rationales are learned, and rows of faulty ones with the places of their faults."""

    name: str  # of their loss
    rows: list[Row]
    faulty: Sequence[tuple[Row, Sequence[int]]] = ()
    fault_weight: float = 1.0


@dataclass(frozen=True)
class Plain:
    """Rows [B, T + 1] of the corpus."""

    ids: NDArray[np.int64]


Batch = Pairs | Rationales | Plain


@dataclass(frozen=True)
class Part:
    """What came of some rows: the mean loss of their tokens and both unit vectors [B, H], with their graph."""

    loss: Tensor
    reason: Tensor
    direct: Tensor


def encode(example: Example, longest: int, writer: Writer) -> Row:
    """One row of at most `longest` tokens; the text is cut so that template and rationale always fit."""
    prefix, suffix = writer.prefixes[example.role], writer.suffix
    most = longest - len(prefix) - len(suffix) - LONGEST
    text = writer.text_ids(example.text, most)
    target = writer.target_ids(example.target(writer, most), example.text)
    start = len(prefix) + len(text)
    return Row([*prefix, *text, *suffix, *target], len(prefix), start, start + len(suffix))


def encode_faulty(faulty: Faulty, writer: Writer) -> tuple[Row, Sequence[int]]:
    """The row of a rationale that a model wrote, on the prompt that it was written on, and where its faults are."""
    prompt = [*writer.prefixes[faulty.role], *writer.text_ids(faulty.text, LONG)]
    start = len(prompt) + len(writer.suffix)
    row = Row([*prompt, *writer.suffix, *faulty.token_ids], len(writer.prefixes[faulty.role]), len(prompt), start)
    return row, faulty.places


def draw_pairs(name: str, kind: Kind, size: int, writer: Writer, rng: np.random.Generator) -> Pairs:
    """A batch of `size` pairs of a kind."""
    places = rng.choice(len(kind.rows), size=size, replace=len(kind.rows) < size)
    firsts, seconds, clash = pairs.batch(kind, [int(place) for place in places], rng)
    longest = PASSAGE if kind.long else SENTENCE
    rows = [encode(example, SENTENCE, writer) for example in firsts]
    return Pairs(name, rows + [encode(example, longest, writer) for example in seconds], clash)


def draw_plain(tokens: NDArray[np.uint16], size: int, rng: np.random.Generator) -> Plain:
    """`size` rows from anywhere in the corpus."""
    starts = rng.integers(0, len(tokens) - TEXT_LENGTH - 1, size=size)
    return Plain(np.stack([tokens[s : s + TEXT_LENGTH + 1] for s in starts]).astype(np.int64))


def pad(rows: Sequence[Row], padding: int) -> Rows:
    """Rows as tensors, as long as the longest of them (in steps of 8)."""
    length = -(-max(len(row.ids) for row in rows) // 8) * 8
    ids = np.full((len(rows), length), padding)
    reason, direct = np.zeros((2, len(rows), length), dtype=np.float32)
    positions: list[int] = []
    next_ids: list[int] = []
    for i, row in enumerate(rows):
        end = len(row.ids)
        ids[i, :end] = row.ids
        reason[i, row.text_from : end - 1] = 1
        direct[i, row.text_from : row.text_to] = 1
        positions += range(i * length + row.written_from - 1, i * length + end - 1)
        next_ids += row.ids[row.written_from :]
    lengths = [len(row.ids) - row.written_from for row in rows]
    placed = crew.placed
    return Rows(placed(ids), placed(reason), placed(direct), torch.tensor(positions), torch.tensor(next_ids), lengths)


def pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Unit vectors [B, H]: means of the states [B, T, H] where the mask [B, T] is 1, in float32."""
    return F.normalize(torch.einsum("bth,bt->bh", hidden.float(), mask), dim=-1)


def info_nce(first: Tensor, second: Tensor, clash: Tensor) -> Tensor:
    """Contrastive loss of vectors [B, H] against [M, H], M >= B, both ways; pair i belongs together.

    `clash` [B, M] marks couples that may belong together by accident (one title, one intent): they are left out.
    """
    scores = (first @ second.T / TEMPERATURE).masked_fill(clash.to(first.device), -1e4)
    labels = torch.arange(len(first))
    return (F.cross_entropy(scores, labels) + F.cross_entropy(scores[:, : len(first)].T, labels)) / 2


def earlier(next_ids: Tensor, lengths: Sequence[int]) -> Tensor:
    """[N, max(lengths)] tokens of the same rationale before each of `next_ids` [N], filled up with -1."""
    starts = np.repeat(np.cumsum([0, *lengths[:-1]]), lengths)[:, None]  # where each token's rationale begins
    places = starts + np.arange(max(lengths))
    before = places < np.arange(len(starts))[:, None]
    found = next_ids[crew.placed(np.where(before, places, 0))]
    return found.masked_fill(~crew.placed(before), -1)


def unlikelihood(logits: Tensor, next_ids: Tensor, lengths: Sequence[int]) -> Tensor:
    """() what the logits [N, V] give to tokens that the rationale already has and that do not come next.

    Mean over N of -sum log(1 - p) over those tokens (Welleck et al. 2020, equation 5); what came twice counts twice.
    """
    before = earlier(next_ids, lengths)
    repeated = (before >= 0) & (before != next_ids[:, None])
    chances = logits.softmax(dim=-1).gather(1, before.clamp(min=0))
    return -(torch.log1p(-chances.clamp(max=1 - 1e-6)) * repeated).sum() / len(next_ids)


def unlearning(logits: Tensor, ids: Tensor) -> Tensor:
    """() mean of -log(1 - p) of tokens [N] that should not come next, under the logits [N, V].

    On what the model itself wrote: sequence-level unlikelihood (Welleck et al. 2020, section 5.2).
    """
    chances = logits.softmax(dim=-1).gather(1, ids[:, None])
    return -torch.log1p(-chances.clamp(max=1 - 1e-6)).mean()


def drift(hidden: Tensor, taught: Tensor, mask: Tensor) -> Tensor:
    """() how far means of states [B, T, H] are from a teacher's: squared distance as a share of the teacher's square.

    Both over the places [B, T] where the mask is 1. The word part is left out: it is large, and not trained.
    """
    means, wanted = (
        torch.einsum("bth,bt->bh", states[..., : model.NARROW.hidden].float(), mask) / mask.sum(dim=1, keepdim=True)
        for states in (hidden, taught)
    )
    return ((means - wanted).square().sum(dim=1) / wanted.square().sum(dim=1)).mean()


class Stage:
    """The gradients of the three kinds of step, on one network; the parts of a batch go to the crew."""

    def __init__(
        self,
        network: Qwen2ForCausalLM,
        padding: int,
        workers: crew.Crew,
        *,
        contrastive_weight: float = 1.0,  # of the vectors' loss against the rationales'
        teacher: Qwen2ForCausalLM | None = None,  # whose vectors of the text alone are kept
    ) -> None:
        self._network = network
        self._padding = padding
        self._workers = workers
        self._contrastive_weight = contrastive_weight
        self._teacher = teacher
        self._parameters = list(network.parameters())

    def step(self, batch: Batch) -> dict[str, float]:
        """Set the gradients of one batch; returns its losses by name."""
        match batch:
            case Pairs():
                written, contrast = self.pair_step(batch)
                return {"rationale": written, f"contrast {batch.kind}": contrast}
            case Rationales():
                written, wrong = self.rationale_step(batch)
                return {batch.name: written} | ({"fault": wrong} if batch.faulty else {})
            case Plain():
                return {"text": self.text_step(batch)}

    def pair_step(self, batch: Pairs) -> tuple[float, float]:
        """Set the gradients of one batch of pairs; returns the losses of rationales and vectors.

        The contrast needs all vectors at once, a part's backward pass only the gradient at its own vectors: so the
        parts run forward, the contrast is taken on detached vectors, and the parts run backward.
        """
        rows, B = batch.rows, len(batch.clash)
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i].ids))
        size = self._workers.part_size(len(order), PART_ROWS)
        groups = [order[i : i + size] for i in range(0, len(order), size)]
        parts = self._workers.run(
            [partial(self._forward, pad([rows[i] for i in group], self._padding)) for group in groups]
        )
        place = torch.tensor(order).argsort()
        slopes, contrast = [], 0.0
        for vectors in ([part.reason for part in parts], [part.direct for part in parts]):
            leaves = [vector.detach().requires_grad_() for vector in vectors]
            ordered = torch.cat(leaves)[place]
            loss = info_nce(ordered[:B], ordered[B:], batch.clash) / 2
            contrast += loss.item()
            slopes.append(torch.autograd.grad(self._contrastive_weight * loss, leaves))
        written = sum(part.loss.item() for part in parts) / len(parts)
        gradients = self._workers.run(
            [
                partial(self._backward, part, 1 / len(parts), reason, direct)
                for part, reason, direct in zip(parts, *slopes, strict=True)
            ]
        )
        crew.set_gradients(self._parameters, gradients)
        return written, contrast

    def rationale_step(self, batch: Rationales) -> tuple[float, float]:
        """Set the gradients of rationales alone, for texts of any length; returns their loss and that of the faults.

        Of faulty rationales only the faults count, `fault_weight` times.
        """
        right = sorted(batch.rows, key=lambda row: -len(row.ids))
        size = self._workers.part_size(len(right), LONG_PART)
        losses = [
            partial(self._rationale_loss, pad(right[i : i + size], self._padding)) for i in range(0, len(right), size)
        ]
        learned = len(losses)
        wrong = sorted(batch.faulty, key=lambda pair: -len(pair[0].ids))
        size = self._workers.part_size(len(wrong), LONG_PART)
        for i in range(0, len(wrong), max(1, size)):
            rows, places = zip(*wrong[i : i + size], strict=True)
            losses.append(partial(self._fault_loss, rows, places, batch.fault_weight))
        done = self._plain_step(losses)
        return float(np.mean(done[:learned])), float(np.mean(done[learned:] or [0.0]))

    def text_step(self, batch: Plain) -> float:
        """Set the gradients of plain text; returns its loss."""
        parts = torch.split(crew.placed(batch.ids), self._workers.part_size(len(batch.ids), TEXT_PART))
        return float(np.mean(self._plain_step([partial(self._text_loss, part) for part in parts])))

    def _plain_step(self, losses: Sequence[Callable[[], Tensor]]) -> list[float]:
        def part(loss_of: Callable[[], Tensor]) -> tuple[float, crew.Gradients]:
            loss = loss_of()
            return loss.item(), torch.autograd.grad(loss, self._parameters)

        done = self._workers.run([partial(part, loss_of) for loss_of in losses])
        crew.set_gradients(self._parameters, [gradients for _, gradients in done], 1 / len(done))
        return [loss for loss, _ in done]

    def _states(self, ids: Tensor) -> Tensor:
        # Not compiled: rows of every length would be compiled anew, for minutes, to save a quarter of the time.
        with crew.fast_products():
            return model.states(self._network, ids)

    def _forward(self, rows: Rows) -> Part:
        hidden = self._states(rows.ids)
        loss = self._writing_loss(hidden, rows) + self._drift(hidden, rows)
        return Part(loss, pool(hidden, rows.reason), pool(hidden, rows.direct))

    def _backward(self, part: Part, weight: float, reason: Tensor, direct: Tensor) -> crew.Gradients:
        outputs = [part.loss, part.reason, part.direct]
        return torch.autograd.grad(outputs, self._parameters, [torch.tensor(weight), reason, direct])

    def _rationale_loss(self, rows: Rows) -> Tensor:
        hidden = self._states(rows.ids)
        return self._writing_loss(hidden, rows) + self._drift(hidden, rows)

    def _fault_loss(self, encoded: Sequence[Row], places: Sequence[Sequence[int]], weight: float) -> Tensor:
        rows = pad(encoded, self._padding)
        hidden = self._states(rows.ids)
        before = [
            (i, row.written_from + at - 1)
            for i, (row, ats) in enumerate(zip(encoded, places, strict=True))
            for at in ats
        ]
        row_of, at = torch.tensor(before).T
        loss = unlearning(self._logits(hidden[row_of, at]), rows.ids[row_of, at + 1])
        return weight * loss + self._drift(hidden, rows)

    def _drift(self, hidden: Tensor, rows: Rows) -> Tensor:
        if self._teacher is None:
            return hidden.new_zeros(())
        length = int(rows.direct.any(dim=0).nonzero().max()) + 1  # what follows the text is no part of the vector
        with torch.no_grad(), crew.fast_products():
            taught = model.states(self._teacher, rows.ids[:, :length])
        return drift(hidden[:, :length], taught, rows.direct[:, :length])

    def _writing_loss(self, hidden: Tensor, rows: Rows) -> Tensor:
        logits = self._logits(hidden.flatten(0, 1)[rows.positions])
        return F.cross_entropy(logits, rows.next_ids) + unlikelihood(logits, rows.next_ids, rows.lengths)

    def _text_loss(self, rows: Tensor) -> Tensor:
        return F.cross_entropy(self._logits(self._states(rows[:, :-1]).flatten(0, 1)), rows[:, 1:].flatten())

    def _logits(self, hidden: Tensor) -> Tensor:
        with crew.fast_products():
            logits = F.linear(hidden, self._network.get_output_embeddings().weight)
        return logits.float()


def learn(
    path: Path,
    draw: loop.Draw[Batch],
    options: argparse.Namespace,
    marks: Tokenizer,
    weights: widen.Weights,
    taught: widen.Weights | None,
    *,
    warm_up: float,
    decay_from: float,
    contrastive_weight: float = 1.0,
) -> None:
    """Train these weights on what is drawn, or go on; the state is kept in `path`.

    With `taught`, vectors of texts alone are held to those of these other weights.
    """
    network = model.restore(marks, weights)
    teacher = None if taught is None else model.restore(marks, taught).eval()
    workers = crew.Crew(options.workers)
    optimisers = muon.Optimisers(network, workers, matrix_lr=options.matrix_lr, other_lr=options.other_lr, decay=0.01)
    padding = mark_id(marks, END_OF_TEXT)
    stage = Stage(network, padding, workers, contrastive_weight=contrastive_weight, teacher=teacher)

    def step(batch: Batch, progress: float) -> dict[str, float]:
        losses = stage.step(batch)
        widen.update(network, optimisers, model.trapezoid(progress, warm_up=warm_up, decay_from=decay_from))
        return losses

    network.train()
    parts = {"model": network, "optimisers": optimisers}
    loop.train(path, parts, options.minutes, step, draw=draw, readers=options.readers)


def main() -> None:
    """Train, or go on training."""
    parser = loop.parser(__doc__, minutes=35.0, rates=(0.01, 0.002))
    parser.add_argument("--contrastive-weight", type=float, default=1.0, help="0: rationales alone, no vectors")
    parser.add_argument("--hold-vectors", action="store_true", help="hold vectors of texts alone to those at the start")
    options = loop.begin(parser)

    marks = Tokenizer.from_file(str(options.work / "tokenizer.json"))
    tokens = np.load(options.work / "tokens.npy")
    writer = Writer(marks, rationales.corpus_vocabulary(options.data))
    by_name = pairs.kinds(options.data)
    weights = model.start(options.work, *STARTS, wait=options.wait)["model"]
    names = list(by_name)
    shares = np.array([by_name[name].weight for name in names])

    def draw(number: int) -> Batch:
        rng = np.random.default_rng([options.seed, 1, number])
        choice = rng.random()
        if choice < SHARE_PAIRS:
            name = str(rng.choice(names, p=shares / shares.sum()))
            return draw_pairs(name, by_name[name], PAIRS * options.larger, writer, rng)
        if choice < SHARE_PAIRS + SHARE_LONG:
            texts = [pairs.summaries(by_name, rng) for _ in range(LONG_ROWS * options.larger)]
            return Rationales("long", [encode(example, LONG, writer) for example in texts])
        return draw_plain(tokens, TEXT_ROWS * options.larger, rng)

    learn(
        options.work / "finetune.pt",
        draw,
        options,
        marks,
        weights,
        weights if options.hold_vectors else None,
        warm_up=0.03,
        decay_from=0.3,
        contrastive_weight=options.contrastive_weight,
    )


if __name__ == "__main__":
    main()
