"""After `refine.py`: the model learns what not to write, from its own faults.

`python -m grace_training.tiny.unlearn --minutes 24` lets the model write rationales for training texts that `refine.py`
did not draw, greedy and sampled. Where one has a fault (`faults.py`), the token that began it becomes less likely
there. Beside these, the steps learn the best of the same rationales, put right, and built targets: what to write
instead. As before, the vectors of texts alone are held to those of the stage that learned them.

Who has unlearned some faults makes others: `--round 2` starts from what the first round left, writes anew, and learns
from the faults of both.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from grace_training.tiny import finetune, loop, model, pairs, rationales, refine
from grace_training.tiny.faults import Faulty, faults

log = logging.getLogger(__name__)

OWN_ROWS, BUILT_ROWS, FAULTY_ROWS = 12, 8, 12  # of a step


def faulty(written: Sequence[refine.Written], marks: Tokenizer) -> list[Faulty]:
    """Every rationale that has a fault, with its places."""

    def decode(ids: Sequence[int]) -> str:
        return str(marks.decode(ids, skip_special_tokens=False))

    found: list[Faulty] = []
    for one in written:
        for rationale in one.rationales:
            if places := faults(rationale, one.example.text, decode):
                found.append(Faulty(one.example.role, one.example.text, rationale.token_ids, tuple(places)))
    return found


def load(path: Path) -> list[Faulty]:
    """What `refine.save` wrote."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Faulty(**{**row, "token_ids": tuple(row["token_ids"]), "places": tuple(row["places"])}) for row in rows]


def main() -> None:
    """Write, judge and train, or go on training."""
    parser = loop.parser(__doc__, minutes=24.0, rates=(0.003, 0.0006))
    parser.add_argument("--texts", type=int, default=2500, help="training texts to write rationales for")
    parser.add_argument("--round", type=int, default=1)
    parser.add_argument("--fault-weight", type=float, default=1.0, help="of the loss at the faults against the others'")
    options = loop.begin(parser)

    marks = Tokenizer.from_file(str(options.work / "tokenizer.json"))
    writer = rationales.Writer(marks, rationales.corpus_vocabulary(options.data))
    by_name = pairs.kinds(options.data)
    stages = ["refine", *(f"unlearn-{number}" for number in range(1, options.round + 1))]
    weights = model.start(options.work, stages[-2], wait=options.wait)["model"]
    good_path, *faulty_paths = (
        options.work / name for name in (f"own-{stages[-1]}.jsonl", *(f"faulty-{stage}.jsonl" for stage in stages[1:]))
    )
    if not faulty_paths[-1].exists():
        examples = refine.drawn(by_name, options.texts, np.random.default_rng([options.seed, 6, options.round]))
        written = refine.write(weights, marks, examples, writer)
        refine.save(good_path, refine.own(written, writer))
        refine.save(faulty_paths[-1], faulty(written, marks))
    good, wrong = refine.load(good_path), [row for path in faulty_paths for row in load(path)]
    log.info("%d texts have a rationale worth learning, %d rationales a fault", len(good), len(wrong))

    tokens = np.load(options.work / "tokens.npy")
    vectors = model.start(options.work, "contrast", "widen", wait=options.wait)["model"]

    def draw(number: int) -> finetune.Batch:
        rng = np.random.default_rng([options.seed, 7, options.round, number])
        if rng.random() < refine.SHARE_TEXT:
            return finetune.draw_plain(tokens, finetune.TEXT_ROWS * options.larger, rng)
        texts = [good[int(place)] for place in rng.choice(len(good), size=OWN_ROWS * options.larger)]
        texts += refine.built(by_name, BUILT_ROWS * options.larger, rng)
        rows = [finetune.encode(one, finetune.LONG, writer) for one in texts]
        chosen = [wrong[int(place)] for place in rng.choice(len(wrong), size=FAULTY_ROWS * options.larger)]
        faulty_rows = [finetune.encode_faulty(one, writer) for one in chosen]
        return finetune.Rationales("rationale", rows, faulty_rows, options.fault_weight)

    path = options.work / f"{stages[-1]}.pt"
    finetune.learn(path, draw, options, marks, weights, vectors, warm_up=0.05, decay_from=0.2)


if __name__ == "__main__":
    main()
