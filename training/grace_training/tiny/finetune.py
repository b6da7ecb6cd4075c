"""Second stage: writing rationales and being an embedding, learned together.

`python -m grace_training.tiny.finetune --minutes 25` starts from the pretrained weights. A step is one of three:

- a batch of pairs: cross-entropy of both sides' rationales, plus InfoNCE of their vectors, once as `reason` (text and
  rationale) and once as `direct` (text alone). A causal model gives both in one forward pass.
- a batch of longer texts with the best targets: cross-entropy alone.
- a batch of the pretraining corpus, so that the language model stays one.
"""

import argparse
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from transformers import Qwen2ForCausalLM

from grace_training.tiny import model, muon, pairs, rationales
from grace_training.tiny.pairs import Example, Kind
from grace_training.tiny.rationales import LONGEST, Writer
from grace_training.tiny.tokenizer import END_OF_TEXT, mark_id

log = logging.getLogger(__name__)

PAIRS = 48  # B, pairs of a batch
SENTENCE, PASSAGE, LONG = 128, 224, 592  # row lengths in tokens: three shapes only, each is compiled once
LONG_ROWS = 18
LM_ROWS, LM_LENGTH = 12, 512
SHARE_PAIRS, SHARE_LONG = 0.62, 0.20  # of the steps; the rest is plain text
TEMPERATURE = 0.05
CONTRASTIVE_WEIGHT = 1.0
SAVE_EVERY_S = 120.0


@dataclass(frozen=True)
class Rows:
    """Prompts with their rationales, padded on the right.

    `reason` and `direct` [B, T] mark the pooled positions, as in serving: text, template suffix and rationale without
    its last token; or the text alone. `positions` [N] are the flat places whose next token is part of a rationale,
    `next_ids` [N] those tokens.
    """

    ids: Tensor
    reason: Tensor
    direct: Tensor
    positions: Tensor
    next_ids: Tensor


def assemble(examples: Sequence[Example], length: int, writer: Writer, padding: int) -> Rows:
    """Rows of `length` tokens; a text is cut so that template and rationale always fit."""
    ids = torch.full((len(examples), length), padding)
    reason, direct = torch.zeros(len(examples), length), torch.zeros(len(examples), length)
    positions: list[int] = []
    next_ids: list[int] = []
    for row, example in enumerate(examples):
        prefix, suffix = writer.prefixes[example.role], writer.suffix
        most = length - len(prefix) - len(suffix) - LONGEST
        text = writer.text_ids(example.text, most)
        target = writer.target_ids(example.target(writer, most))[:LONGEST]
        written_from = len(prefix) + len(text) + len(suffix)
        end = written_from + len(target)
        ids[row, :end] = torch.tensor([*prefix, *text, *suffix, *target])
        reason[row, len(prefix) : end - 1] = 1
        direct[row, len(prefix) : len(prefix) + len(text)] = 1
        positions += range(row * length + written_from - 1, row * length + end - 1)
        next_ids += target
    return Rows(ids, reason, direct, torch.tensor(positions), torch.tensor(next_ids))


def pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Unit vectors [B, H]: means of the states [B, T, H] where the mask [B, T] is 1, in float32."""
    return F.normalize(torch.einsum("bth,bt->bh", hidden.float(), mask), dim=-1)


def info_nce(first: Tensor, second: Tensor, clash: Tensor) -> Tensor:
    """Contrastive loss of vectors [B, H] against [M, H], M >= B, both ways; pair i belongs together.

    `clash` [B, M] marks couples that may belong together by accident (one title, one intent): they are left out.
    """
    scores = (first @ second.T / TEMPERATURE).masked_fill(clash, -1e4)
    labels = torch.arange(len(first))
    return (F.cross_entropy(scores, labels) + F.cross_entropy(scores[:, : len(first)].T, labels)) / 2


def draw_pairs(kind: Kind, rng: np.random.Generator) -> tuple[list[Example], list[Example], Tensor]:
    """B pairs of a kind: first texts, second texts (then negatives, if the kind has them), clashing couples."""
    places = rng.choice(len(kind.rows), size=PAIRS, replace=len(kind.rows) < PAIRS)
    drawn = [kind.draw(kind.rows[int(place)], rng) for place in places]
    seconds = [pair.second for pair in drawn] + [pair.negative for pair in drawn if pair.negative]
    same = torch.tensor([[one.key == two.key for two in drawn] for one in drawn])
    clash = torch.zeros(PAIRS, len(seconds), dtype=torch.bool)
    clash[:, :PAIRS] = same & ~torch.eye(PAIRS, dtype=torch.bool)
    return [pair.first for pair in drawn], seconds, clash


class Stage:
    """The losses of the three kinds of step, on one network."""

    def __init__(self, network: Qwen2ForCausalLM, writer: Writer, padding: int, *, compiled: bool = True) -> None:
        self._network = network
        self._writer = writer
        self._padding = padding

        def states(ids: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return model.states(network, ids)

        self._states: Callable[[Tensor], Tensor] = torch.compile(states, dynamic=False) if compiled else states

    def pair_loss(self, kind: Kind, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the rationales and InfoNCE of the vectors of one batch of pairs."""
        firsts, seconds, clash = draw_pairs(kind, rng)
        length = PASSAGE if kind.long else SENTENCE
        # Every forward pass has PAIRS rows, so that shapes repeat.
        groups = [(firsts, SENTENCE)] + [(seconds[i : i + PAIRS], length) for i in range(0, len(seconds), PAIRS)]
        written, reason, direct = [], [], []
        for examples, row_length in groups:
            rows = assemble(examples, row_length, self._writer, self._padding)
            hidden = self._states(rows.ids)
            written.append(self._rationale_loss(hidden, rows))
            reason.append(pool(hidden, rows.reason))
            direct.append(pool(hidden, rows.direct))
        contrast = sum(info_nce(v[0], torch.cat(v[1:]), clash) for v in (reason, direct)) / 2
        return torch.stack(written).mean(), torch.as_tensor(contrast)

    def long_loss(self, by_name: dict[str, Kind], rng: np.random.Generator) -> Tensor:
        """Cross-entropy of rationales for long texts."""
        examples = [pairs.summaries(by_name, rng) for _ in range(LONG_ROWS)]
        rows = assemble(examples, LONG, self._writer, self._padding)
        return self._rationale_loss(self._states(rows.ids), rows)

    def text_loss(self, tokens: NDArray[np.uint16], rng: np.random.Generator) -> Tensor:
        """Cross-entropy of plain text."""
        starts = rng.integers(0, len(tokens) - LM_LENGTH - 1, size=LM_ROWS)
        rows = torch.from_numpy(np.stack([tokens[s : s + LM_LENGTH + 1] for s in starts]).astype(np.int64))
        return self._next_token_loss(self._states(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())

    def _rationale_loss(self, hidden: Tensor, rows: Rows) -> Tensor:
        return self._next_token_loss(hidden.flatten(0, 1)[rows.positions], rows.next_ids)

    def _next_token_loss(self, hidden: Tensor, next_ids: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits = F.linear(hidden, self._network.get_input_embeddings().weight)
        return F.cross_entropy(logits.float(), next_ids)


def main() -> None:
    """Train, or go on training."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path(".tiny"))
    parser.add_argument("--minutes", type=float, default=25.0, help="step time in all, resumed runs included")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--matrix-lr", type=float, default=0.01)
    parser.add_argument("--other-lr", type=float, default=0.002)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)

    marks = Tokenizer.from_file(str(options.work / "tokenizer.json"))
    padding = mark_id(marks, END_OF_TEXT)
    tokens = np.load(options.work / "tokens.npy")
    writer = Writer(marks, rationales.corpus_vocabulary(options.data))
    by_name = pairs.kinds(options.data)
    network = model.build(marks)
    optimisers = muon.Optimisers(network, matrix_lr=options.matrix_lr, other_lr=options.other_lr, decay=0.01)
    path = options.work / "finetune.pt"
    step, spent_s = 0, 0.0
    if (state := model.load_state(path)) is not None:
        network.load_state_dict(state["model"])
        optimisers.load_state_dict(state["optimisers"])
        step, spent_s = state["step"], state["spent_s"]
        log.info("going on from step %d", step)
    elif (state := model.load_state(options.work / "pretrain.pt")) is not None:
        network.load_state_dict(state["model"])
        log.info("from pretraining step %d", state["step"])
    else:
        raise SystemExit("no pretrained weights: run grace_training.tiny.pretrain first")
    stage = Stage(network, writer, padding)
    clock = model.Clock(options.minutes, spent_s)
    names = list(by_name)
    shares = np.array([by_name[name].weight for name in names])

    def save() -> None:
        saved = {"model": network.state_dict(), "optimisers": optimisers.state_dict()}
        model.save_state(path, {**saved, "step": step, "spent_s": clock.spent_s})

    saved_at = clock.spent_s
    means: dict[str, float] = {}
    network.train()
    while clock.progress < 1.0:
        rng = np.random.default_rng([options.seed, 1, step])  # by step: a resumed run sees what an unbroken one would
        clock.start()
        choice = rng.random()
        if choice < SHARE_PAIRS:
            name = str(rng.choice(names, p=shares / shares.sum()))
            written, contrast = stage.pair_loss(by_name[name], rng)
            loss = written + CONTRASTIVE_WEIGHT * contrast
            values = {"rationale": written, f"contrast {name}": contrast}
        elif choice < SHARE_PAIRS + SHARE_LONG:
            loss = stage.long_loss(by_name, rng)
            values = {"long": loss}
        else:
            loss = stage.text_loss(tokens, rng)
            values = {"text": loss}
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimisers.step(model.trapezoid(clock.progress, warm_up=0.03, decay_from=0.3))
        clock.stop()
        step += 1
        for name, value in values.items():
            means[name] = 0.9 * means.get(name, value.item()) + 0.1 * value.item()
        if step % 20 == 0:
            shown = ", ".join(f"{name} {value:.2f}" for name, value in sorted(means.items()))
            log.info("step %d, %.1f%%: %s", step, 100 * clock.progress, shown)
        if clock.spent_s - saved_at > SAVE_EVERY_S:
            save()
            saved_at = clock.spent_s
    save()
    log.info("done: %d steps", step)


if __name__ == "__main__":
    main()
