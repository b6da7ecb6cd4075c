"""Last stage: texts of a few words, which none of the others shows enough of.

`python -m grace_training.tiny.brief --minutes 4` starts from the mean of the weights of the stages before it.
Unlearning taught it not to go on where the next term would be a wrong one. Of a text of two words every next term is,
so it broke off after the first, without closing what it had opened. Most of the rows are cut out of texts, with built
targets; the others keep what it writes of whole ones. The vectors of texts alone are held to those at the start.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from tokenizers import Tokenizer

from grace_training.tiny import export, finetune, loop, model, pairs, rationales, refine
from grace_training.tiny.pairs import Example
from grace_training.tiny.rationales import Target, Writer

log = logging.getLogger(__name__)

WORDS = 8  # of a cut text, at most
BRIEF_ROWS, OWN_ROWS = 20, 8  # of a step


def cut(example: Example, writer: Writer, rng: np.random.Generator) -> Example:
    """Some words in a row out of the text, in either role, with their target: terms, or else the words themselves."""
    words = example.text[: refine.CHARACTERS].split()
    count = int(rng.integers(1, WORDS + 1))
    start = int(rng.integers(0, max(1, len(words) - count + 1))) if rng.random() < 0.5 else 0
    text = " ".join(words[start : start + count])
    brief = Example("document" if rng.random() < 0.6 else "query", text)
    target = brief.target(writer, finetune.SENTENCE)
    return replace(brief, written=Target(target.thinking.strip() or text.strip(" .,;:"), target.understanding))


def rows(examples: Sequence[Example], writer: Writer) -> list[finetune.Row]:
    """The examples as rows; of those cut, whose rationale would be too long, none."""
    room = refine.room(writer)
    lengths = [len(writer.target_ids(one.target(writer, room), one.text)) for one in examples]
    fitting = [one for one, length in zip(examples, lengths, strict=True) if length <= rationales.LONGEST]
    return [finetune.encode(one, finetune.LONG, writer) for one in fitting]


def main() -> None:
    """Train, or go on training."""
    options = loop.begin(loop.parser(__doc__, minutes=4.0, rates=(0.003, 0.0006)))
    marks = Tokenizer.from_file(str(options.work / "tokenizer.json"))
    writer = Writer(marks, rationales.corpus_vocabulary(options.data))
    by_name = pairs.kinds(options.data)
    if options.wait:
        model.start(options.work, export.AVERAGED[0], wait=True)
    weights = export.mean(options.work, export.AVERAGED)["model"]
    good = [row for path in sorted(options.work.glob("own*.jsonl")) for row in refine.load(path)]
    tokens = np.load(options.work / "tokens.npy")

    def draw(number: int) -> finetune.Batch:
        rng = np.random.default_rng([options.seed, 8, number])
        if rng.random() < refine.SHARE_TEXT:
            return finetune.draw_plain(tokens, finetune.TEXT_ROWS * options.larger, rng)
        texts = refine.built(by_name, BRIEF_ROWS * options.larger, rng)
        brief = [cut(one, writer, rng) for one in texts if one.text.split()]
        own = [good[int(place)] for place in rng.choice(len(good), size=OWN_ROWS * options.larger)]
        return finetune.Rationales("rationale", rows([*brief, *own], writer))

    path = options.work / "brief.pt"
    finetune.learn(path, draw, options, marks, weights, weights, warm_up=0.05, decay_from=0.2)


if __name__ == "__main__":
    main()
