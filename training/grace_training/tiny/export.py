"""After the last stage: the trained weights as an ordinary checkpoint folder, with `grace.json` and a model card.

`python -m grace_training.tiny.export` may be called at any time; it takes the newest stage that has saved a state, and
where that is `unlearn-2`, the mean of `AVERAGED`.
"""

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from grace_training.tiny import card, corpus, model, tokenizer
from grace_training.tiny.rationales import INSTRUCTIONS, LONGEST

log = logging.getLogger(__name__)

FOLDER = Path("core/grace/models/grace-tiny")
MAX_INPUT = 896  # tokens: with template and rationale it stays inside the context of 1024
MAX_WEIGHTS = 32_000_000  # bytes; the folder travels inside the package
# Those that leave a whole model, newest first.
STAGES = ("brief", "unlearn-2", "unlearn-1", "refine", "finetune", "contrast", "widen")
_SPENT = {"steps": "steps", "minutes": "minutes", "devices": "device"}  # field of the provenance: what a stage says
AVERAGED = STAGES[1:4]  # each was trained from the next


def history(work: Path) -> dict[str, Any]:
    """What the stages read and how long they took, in the order in which they were run."""
    learned = model.start(work, "widen")["learned"]
    stages = dict(learned["stages"])
    for stage in ("words", "contrast", "finetune", "refine", "unlearn-1", "unlearn-2", "brief"):
        if (state := model.load_state(work / f"{stage}.pt")) is not None:
            name = stage if stage not in stages else f"{stage} again"
            stages[name] = model.spent(state)
    return {
        **{field: {name: spent[key] for name, spent in stages.items()} for field, key in _SPENT.items()},
        "pretraining_tokens": learned["read"],
    }


def newest(work: Path) -> dict[str, Any]:
    """The state to export."""
    present = [stage for stage in STAGES if (work / f"{stage}.pt").exists()]
    if present[:3] == list(AVERAGED):
        return mean(work, AVERAGED)
    return model.start(work, *STAGES)


def mean(work: Path, stages: Sequence[str]) -> dict[str, Any]:
    """The mean of the weights that these stages have saved.

    Raises:
        FileNotFoundError: one of them has saved none.
    """
    states = {stage: model.load_state(work / f"{stage}.pt") for stage in stages}
    if missing := [stage for stage, state in states.items() if state is None]:
        raise FileNotFoundError(f"{work} holds no weights of: {', '.join(missing)}")
    log.info("the mean of %s", ", ".join(stages))
    return {"model": model.average(*(state["model"] for state in states.values() if state is not None))}


def write_checkpoint(
    folder: Path,
    marks: Tokenizer,
    state: dict[str, Any],
    provenance: dict[str, Any],
    card: str,
    *,
    max_input: int = MAX_INPUT,
) -> None:
    """Write every file of the checkpoint; weights as bfloat16."""
    tokenizer.save(marks, folder, model.CONTEXT)
    end, padding = (tokenizer.mark_id(marks, mark) for mark in (tokenizer.TURN_END, tokenizer.END_OF_TEXT))
    network = model.restore(marks, state["model"])
    network.config.architectures = ["Qwen2ForCausalLM"]
    network.config.dtype = torch.bfloat16
    network.config.use_cache = True  # off in training only
    network.config.save_pretrained(folder)
    tied = network.config.tie_word_embeddings
    weights = {
        name: tensor.to(torch.bfloat16).contiguous()
        for name, tensor in state["model"].items()
        if not (tied and name == "lm_head.weight")
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    # safetensors makes files that only their owner can read.
    (folder / "model.safetensors").chmod(0o644)
    size = (folder / "model.safetensors").stat().st_size
    if size > MAX_WEIGHTS:
        raise ValueError(f"weights take {size} bytes, more than {MAX_WEIGHTS}")
    generation = {"do_sample": False, "eos_token_id": end, "pad_token_id": padding, "max_new_tokens": LONGEST}
    grace = {
        "format": 1,
        "instruction": INSTRUCTIONS,
        "pooling": "mean",
        "similarity": "cosine",
        "max_input_tokens": max_input,
        "max_rationale_tokens": LONGEST,
        "generation": {"temperature": 0.0},
        "provenance": provenance,
    }
    for name, content in (("generation_config.json", generation), ("grace.json", grace)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card, encoding="utf-8")


def main() -> None:
    """Export the newest state with the last measured scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path(".tiny"))
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--stages", nargs="+", choices=STAGES, help="the mean of these stages' weights instead")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    state = mean(options.work, options.stages) if options.stages else newest(options.work)
    scores_file = options.work / "scores.json"
    scores = json.loads(scores_file.read_text(encoding="utf-8")) if scores_file.exists() else {}
    provenance = {
        "base_model": None,
        "recipe": "grace_training.tiny",
        **history(options.work),
        "data": corpus.file_hashes(options.data),
        "scores": scores,
    }
    marks = Tokenizer.from_file(str(options.work / "tokenizer.json"))
    parameters = sum(weight.numel() for weight in state["model"].values())
    write_checkpoint(options.out, marks, state, provenance, card.text(provenance, parameters))
    log.info("exported to %s", options.out)


if __name__ == "__main__":
    main()
