"""Fourth stage: vectors. Large batches of pairs, seen as `direct` input, and next-token loss on the same tokens.

`python -m grace_training.tiny.contrast --minutes 30` starts from the weights of `widen.py`. Rationales come in the
stage after it (`finetune.py`); here, where no rationale has to be read or written, a batch can hold three times as many
pairs for the same time, and the pairs of a batch come from the same few neighbourhoods of the corpus, so that the
others in it are real alternatives.
"""

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor
from transformers import Qwen2ForCausalLM

from grace_training.tiny import crew, loop, model, muon, neighbours, pairs, rationales, widen
from grace_training.tiny.finetune import Part, Row, Rows, info_nce, pad, pool
from grace_training.tiny.pairs import Example
from grace_training.tiny.rationales import Writer
from grace_training.tiny.tokenizer import END_OF_TEXT, mark_id

PAIRS = 64  # B, pairs of a batch
PART_ROWS = 16  # rows a worker takes at once
LONGEST = 96  # tokens of a row, template included
LANGUAGE_WEIGHT = 0.3  # of the next-token loss against the contrast


def cased(text: str, rng: np.random.Generator) -> str:
    """Some texts in lower case, few in capitals: collections are written in all three."""
    form = rng.random()
    return text.lower() if form < 0.2 else text.upper() if form < 0.23 else text


def encode(example: Example, writer: Writer, rng: np.random.Generator) -> Row:
    """A row without a rationale: the template up to the text, and the text."""
    prefix = writer.prefixes[example.role]
    text = writer.text_ids(cased(example.text, rng), LONGEST - len(prefix))
    return Row([*prefix, *text], len(prefix), len(prefix) + len(text), len(prefix))


class Stage:
    """The gradient of one batch of pairs; its parts go to the crew."""

    def __init__(self, network: Qwen2ForCausalLM, padding: int, workers: crew.Crew) -> None:
        self._network = network
        self._padding = padding
        self._workers = workers
        self._parameters = list(network.parameters())

    def step(self, rows: list[Row], clash: Tensor) -> tuple[float, float]:
        """Set the gradients of B first and M >= B second rows; returns the next-token loss and the contrast."""
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i].ids))
        size = self._workers.part_size(len(order), PART_ROWS)
        groups = [order[i : i + size] for i in range(0, len(order), size)]
        parts = self._workers.run([partial(self._forward, pad([rows[i] for i in g], self._padding)) for g in groups])
        leaves = [part.direct.detach().requires_grad_() for part in parts]
        ordered = torch.cat(leaves)[torch.tensor(order).argsort()]
        contrast = info_nce(ordered[: len(clash)], ordered[len(clash) :], clash)
        slopes = torch.autograd.grad(contrast, leaves)
        weight = torch.tensor(LANGUAGE_WEIGHT / len(parts))
        gradients = self._workers.run(
            [partial(self._backward, part, weight, slope) for part, slope in zip(parts, slopes, strict=True)]
        )
        crew.set_gradients(self._parameters, gradients)
        return sum(part.loss.item() for part in parts) / len(parts), contrast.item()

    def _forward(self, rows: Rows) -> Part:
        with crew.fast_products():
            hidden = model.states(self._network, rows.ids)
            logits = F.linear(hidden.flatten(0, 1)[rows.positions], self._network.get_output_embeddings().weight)
        vectors = pool(hidden, rows.direct)
        return Part(F.cross_entropy(logits.float(), rows.next_ids), vectors, vectors)

    def _backward(self, part: Part, weight: Tensor, slope: Tensor) -> crew.Gradients:
        return torch.autograd.grad([part.loss, part.direct], self._parameters, [weight, slope])


def main() -> None:
    """Train, or go on training."""
    options = loop.begin(loop.parser(__doc__, minutes=30.0, rates=(0.01, 0.002)))

    marks = Tokenizer.from_file(str(options.work / "tokenizer.json"))
    writer = Writer(marks, rationales.corpus_vocabulary(options.data))
    by_name = pairs.contrast_kinds(options.data, writer.vocabulary)
    places = {name: neighbours.Batches(kind) for name, kind in by_name.items()}
    network = model.restore(marks, model.start(options.work, "widen", wait=options.wait)["model"])
    workers = crew.Crew(options.workers)
    optimisers = muon.Optimisers(network, workers, matrix_lr=options.matrix_lr, other_lr=options.other_lr, decay=0.01)
    stage = Stage(network, mark_id(marks, END_OF_TEXT), workers)
    names = list(by_name)
    shares = np.array([by_name[name].weight for name in names])

    def draw(number: int) -> tuple[str, list[Row], Tensor]:
        rng = np.random.default_rng([options.seed, 2, number])
        name = str(rng.choice(names, p=shares / shares.sum()))
        firsts, seconds, clash = pairs.batch(by_name[name], places[name].draw(PAIRS * options.larger, rng), rng)
        return name, [encode(example, writer, rng) for example in (*firsts, *seconds)], clash

    def step(batch: tuple[str, list[Row], Tensor], progress: float) -> dict[str, float]:
        name, rows, clash = batch
        written, contrast = stage.step(rows, clash)
        widen.update(network, optimisers, model.trapezoid(progress, warm_up=0.03, decay_from=0.5))
        return {"text": written, name: contrast}

    network.train()
    parts = {"model": network, "optimisers": optimisers}
    loop.train(options.work / "contrast.pt", parts, options.minutes, step, draw=draw, readers=options.readers)


if __name__ == "__main__":
    main()
