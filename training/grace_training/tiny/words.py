"""Second stage: a table of word vectors, learned alone, whose mean over a text is already a good vector.

`python -m grace_training.tiny.words --minutes 12` needs the tokenizer only. A table has no layers to run, so that a
batch can hold eight times the pairs of `contrast.py` in a tenth of its time: what a word is worth for telling texts
apart is learned here, for next to nothing, and `widen.py` then builds the table into the language model.
"""

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from grace_training.tiny import loop, model, neighbours, pairs, rationales
from grace_training.tiny.contrast import cased
from grace_training.tiny.crew import placed
from grace_training.tiny.finetune import info_nce
from grace_training.tiny.rationales import Writer

WIDTH = 128  # W, numbers of a word's vector
PAIRS = 512  # B, pairs of a batch
LONGEST = 96  # tokens of a text
RATE = 5e-3


def vectors(table: nn.EmbeddingBag, texts: list[list[int]]) -> Tensor:
    """Unit vectors [B, W]: means of the table's rows over the ids of each text."""
    starts = np.cumsum([0, *(len(ids) for ids in texts[:-1])])
    bags: Tensor = table(torch.tensor([i for ids in texts for i in ids]), placed(starts))
    return F.normalize(bags, dim=-1)


def main() -> None:
    """Learn the table, or go on."""
    parser = loop.parser(__doc__, minutes=15.0)
    parser.add_argument("--width", type=int, default=WIDTH)
    options = loop.begin(parser)
    torch.set_num_threads(1)

    marks = Tokenizer.from_file(str(options.work / "tokenizer.json"))
    writer = Writer(marks, rationales.corpus_vocabulary(options.data))
    by_name = pairs.contrast_kinds(options.data, writer.vocabulary)
    places = {name: neighbours.Batches(kind) for name, kind in by_name.items()}
    table = nn.EmbeddingBag(marks.get_vocab_size(), options.width, mode="mean")
    nn.init.normal_(table.weight, std=0.02)
    optimiser = torch.optim.Adam(table.parameters(), lr=RATE)
    names = list(by_name)
    shares = np.array([by_name[name].weight for name in names])

    def draw(number: int) -> tuple[str, list[list[int]], Tensor]:
        rng = np.random.default_rng([options.seed, 3, number])
        name = str(rng.choice(names, p=shares / shares.sum()))
        firsts, seconds, clash = pairs.batch(by_name[name], places[name].draw(PAIRS, rng), rng)
        return name, [writer.text_ids(cased(each.text, rng), LONGEST) or [0] for each in (*firsts, *seconds)], clash

    def step(batch: tuple[str, list[list[int]], Tensor], progress: float) -> dict[str, float]:
        name, ids, clash = batch
        found = vectors(table, ids)
        loss = info_nce(found[: len(clash)], found[len(clash) :], clash)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for group in optimiser.param_groups:
            group["lr"] = RATE * model.trapezoid(progress, warm_up=0.02, decay_from=0.3)
        optimiser.step()
        return {name: loss.item()}

    parts: dict[str, loop.Stateful] = {"table": table, "optimiser": optimiser}
    loop.train(options.work / "words.pt", parts, options.minutes, step, draw=draw, readers=options.readers)


if __name__ == "__main__":
    main()
