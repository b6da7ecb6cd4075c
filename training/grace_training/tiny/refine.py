"""After `finetune.py`: the model learns from its own rationales, the best of several, put right.

`python -m grace_training.tiny.refine --minutes 28` lets the model write some rationales for each of a few thousand
training texts, greedy and sampled, takes out what no reader wants (a term twice, a term that the text does not have),
keeps the best, and trains on those: rejection sampling, as RAFT (Dong et al. 2023). Built targets show a model only
beginnings that have no fault; this is where it learns to go on after its own.

The vectors of texts alone are held to those of the stage that learned vectors last.
"""

import itertools
import json
import logging
import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from grace import Grace, Rationale
from grace.rationale import read
from grace_training.tiny import crew, export, finetune, loop, model, pairs, rationales
from grace_training.tiny.faults import Faulty, put_right
from grace_training.tiny.measure import loops, well_formed
from grace_training.tiny.pairs import Example, Kind
from grace_training.tiny.rationales import LONGEST, Role, Target, Vocabulary, Writer
from grace_training.tiny.tokenizer import END_OF_TEXT, TURN_END, mark_id
from grace_training.tiny.widen import Weights

log = logging.getLogger(__name__)

SAMPLED = (0.0, 0.6, 0.9)  # temperatures, one rationale each
HEAVIEST = 5  # terms of a text that a rationale should name
GROUNDED = 0.9  # least share of an understanding's longer words that stand in the text
CHARACTERS = 2400  # of a text; more never fits a row
OWN_ROWS, BUILT_ROWS = 16, 16  # of a step
WRITTEN_ROWS = 1024  # that an accelerator writes for at once
SHARE_TEXT = 0.12  # of the steps: plain text, as in `finetune`
ROLES: tuple[Role, Role] = ("document", "query")


def grounded(understanding: str, text: str) -> float:
    """Share of the words of four letters or more that the text has; those that open a question's reading are free."""
    words = [word for word in re.findall(r"[^\W_]{4,}", understanding.lower()) if word not in ("asks", "about")]
    return sum(word in text.lower() for word in words) / max(1, len(words))


def stutters(text: str) -> bool:
    """Whether a word stands twice in a row."""
    words = re.findall(r"\w+", text.lower())
    return any(one == two for one, two in itertools.pairwise(words))


def best(written: Sequence[Rationale], text: str, vocabulary: Vocabulary) -> Target | None:
    """The rationale, put right, that names most of the text's heaviest terms; None where every one has a fault."""
    heaviest = [term.lower() for term in vocabulary.terms(text, HEAVIEST)]
    chosen: tuple[float, Target] | None = None
    for rationale in written:
        target = Target(put_right(rationale.thinking, text), rationale.understanding.strip())
        if not well_formed(rationale) or loops(rationale) or not target.thinking:
            continue
        if stutters(target.understanding) or rationales.dangles(target.understanding):
            continue
        share = grounded(target.understanding, text)
        if share < GROUNDED:
            continue
        said = f"{target.thinking} {target.understanding}".lower()
        score = share + sum(term in said for term in heaviest) / max(1, len(heaviest))
        if chosen is None or score > chosen[0]:
            chosen = score, target
    return chosen[1] if chosen else None


def drawn(by_name: dict[str, Kind], count: int, rng: np.random.Generator) -> list[Example]:
    """Training texts without a labelled intent: half as the long steps draw them, half out of pairs."""
    open_kinds = [kind for name, kind in by_name.items() if name not in ("banking", "clinc")]
    shares = np.array([kind.weight for kind in open_kinds])
    examples: list[Example] = []
    while len(examples) < count:
        kind = open_kinds[int(rng.choice(len(open_kinds), p=shares / shares.sum()))]
        pair = kind.draw(kind.rows[int(rng.integers(0, len(kind.rows)))], rng)
        chosen = (pairs.summaries(by_name, rng), pair.second if rng.random() < 0.6 else pair.first)
        examples += [replace(example, text=example.text[:CHARACTERS]) for example in chosen]
    return examples[:count]


@dataclass(frozen=True)
class Written:
    """An example whose text is cut to what the model was shown, and what it wrote of it at each of `SAMPLED`."""

    example: Example
    rationales: list[Rationale]


def room(writer: Writer) -> int:
    """Tokens of a text that are shown: what the longest row leaves beside template and rationale."""
    return finetune.LONG - LONGEST - len(writer.suffix) - max(map(len, writer.prefixes.values()))


def write(weights: Weights, marks: Tokenizer, examples: Sequence[Example], writer: Writer) -> list[Written]:
    """What a model of these weights writes of the examples' texts, role by role.

    As it is served, by the one-pass engine; on a GPU by Transformers, which needs nothing but torch there.
    """
    if crew.on_accelerator():
        return on_accelerator(weights, marks, examples, writer)
    done: list[Written] = []
    with tempfile.TemporaryDirectory() as folder:
        export.write_checkpoint(Path(folder), marks, {"model": weights}, {}, "")
        with Grace.load(folder) as grace:
            for role in ROLES:
                chosen = [
                    replace(example, text=writer.visible(example.text, room(writer)))
                    for example in examples
                    if example.role == role
                ]
                texts = [example.text for example in chosen]
                tries = [
                    grace.represent(texts, role=role, temperature=temperature, show_progress=False)
                    for temperature in SAMPLED
                ]
                for example, *answers in zip(chosen, *tries, strict=True):
                    done.append(Written(example, [one.rationale for one in answers if one.rationale]))
    return done


def on_accelerator(weights: Weights, marks: Tokenizer, examples: Sequence[Example], writer: Writer) -> list[Written]:
    """What `write` gives, from large batches of rows padded on the left."""
    network = model.restore(marks, weights).eval()
    end, padding = mark_id(marks, TURN_END), mark_id(marks, END_OF_TEXT)
    done: list[Written] = []
    by_length = sorted(examples, key=lambda example: len(example.text))
    for some in (by_length[i : i + WRITTEN_ROWS] for i in range(0, len(by_length), WRITTEN_ROWS)):
        chosen = [replace(example, text=writer.visible(example.text, room(writer))) for example in some]
        prompts = [
            [*writer.prefixes[one.role], *writer.text_ids(one.text, room(writer)), *writer.suffix] for one in chosen
        ]
        longest = max(map(len, prompts))
        ids = torch.tensor([[padding] * (longest - len(prompt)) + prompt for prompt in prompts])
        seen = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        tries = []
        for temperature in SAMPLED:
            sampling = {"temperature": temperature, "top_k": 0} if temperature else {}
            made = network.generate(
                ids,
                attention_mask=seen,
                max_new_tokens=LONGEST,
                eos_token_id=end,
                pad_token_id=padding,
                use_cache=True,
                do_sample=bool(sampling),
                **sampling,
            )
            tries.append([_rationale(row, end, marks) for row in made[:, longest:].tolist()])
        done += [Written(example, list(answers)) for example, *answers in zip(chosen, *tries, strict=True)]
    return done


def _rationale(row: list[int], end: int, marks: Tokenizer) -> Rationale:
    stopped = end in row
    ids = tuple(row[: row.index(end)] if stopped else row)
    return read(marks.decode(ids, skip_special_tokens=False), ids, "stop" if stopped else "length")


def own(written: Sequence[Written], writer: Writer) -> list[Example]:
    """The examples with targets that the model wrote; those of which it wrote none well stay out.

    What a person wrote of a text stays its understanding, and gets the model's terms.
    """
    kept: list[Example] = []
    for one in written:
        example = one.example
        target = best(one.rationales, example.text, writer.vocabulary)
        if target and example.says:
            target = replace(target, understanding=example.target(writer, room(writer)).understanding)
        if target and len(writer.target_ids(target, example.text)) <= LONGEST:
            kept.append(replace(example, written=target))
    return kept


def save(path: Path, rows: Sequence[Example | Faulty]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows), encoding="utf-8")


def load(path: Path) -> list[Example]:
    """What `save` wrote."""
    rows: list[dict[str, Any]] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Example(**{**row, "written": Target(**row["written"])}) for row in rows]


def built(by_name: dict[str, Kind], count: int, rng: np.random.Generator) -> list[Example]:
    """Texts of every kind of pair with their built targets, labelled intents among them."""
    kinds = list(by_name.values())
    shares = np.array([kind.weight for kind in kinds])
    examples: list[Example] = []
    while len(examples) < count:
        kind = kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]
        pair = kind.draw(kind.rows[int(rng.integers(0, len(kind.rows)))], rng)
        examples.append(pair.first if rng.random() < 0.5 else pair.second)
    return examples


def main() -> None:
    """Write, choose and train, or go on training."""
    parser = loop.parser(__doc__, minutes=28.0, rates=(0.003, 0.0006))
    parser.add_argument("--texts", type=int, default=2500, help="training texts to write rationales for")
    options = loop.begin(parser)

    marks = Tokenizer.from_file(str(options.work / "tokenizer.json"))
    writer = Writer(marks, rationales.corpus_vocabulary(options.data))
    by_name = pairs.kinds(options.data)
    vectors = model.start(options.work, "contrast", "widen", wait=options.wait)["model"]
    weights = model.start(options.work, "finetune", wait=options.wait)["model"]
    path = options.work / "own.jsonl"
    if not path.exists():
        examples = drawn(by_name, options.texts, np.random.default_rng([options.seed, 4]))
        kept = own(write(weights, marks, examples, writer), writer)
        log.info("%d of %d texts have a rationale worth learning", len(kept), len(examples))
        if not kept:
            raise SystemExit("the model wrote no rationale worth learning; train `finetune` for longer")
        save(path, kept)
    examples = load(path)

    tokens = np.load(options.work / "tokens.npy")

    def draw(number: int) -> finetune.Batch:
        rng = np.random.default_rng([options.seed, 5, number])
        if rng.random() < SHARE_TEXT:
            return finetune.draw_plain(tokens, finetune.TEXT_ROWS * options.larger, rng)
        places = rng.choice(len(examples), size=OWN_ROWS * options.larger)
        texts = [*(examples[int(place)] for place in places), *built(by_name, BUILT_ROWS * options.larger, rng)]
        return finetune.Rationales("rationale", [finetune.encode(one, finetune.LONG, writer) for one in texts])

    path = options.work / "refine.pt"
    finetune.learn(path, draw, options, marks, weights, vectors, warm_up=0.05, decay_from=0.2)


if __name__ == "__main__":
    main()
