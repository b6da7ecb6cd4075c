"""Last stage: the trained weights as an ordinary checkpoint folder, with `grace.json` and a model card.

`python -m grace_training.tiny.export` may be called at any time; it takes the newest stage that has saved a state.
"""

import argparse
import json
import logging
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
MAX_WEIGHTS = 16_000_000  # bytes; the folder travels inside the package
STAGES = ("finetune", "contrast", "pretrain")  # newest first


def newest_state(work: Path) -> tuple[str, dict[str, Any]]:
    """Name and state of the latest stage that has saved one."""
    for stage in STAGES:
        if (state := model.load_state(work / f"{stage}.pt")) is not None:
            return stage, state
    raise FileNotFoundError(f"no saved state in {work}: run grace_training.tiny.pretrain first")


def write_checkpoint(
    folder: Path, marks: Tokenizer, state: dict[str, Any], provenance: dict[str, Any], scores: dict[str, Any]
) -> None:
    """Write every file of the checkpoint; weights as bfloat16, the tied head left out."""
    tokenizer.save(marks, folder, model.CONTEXT)
    end, padding = (tokenizer.mark_id(marks, mark) for mark in (tokenizer.TURN_END, tokenizer.END_OF_TEXT))
    network = model.build(marks)
    network.config.architectures = ["Qwen2ForCausalLM"]
    network.config.dtype = torch.bfloat16
    network.config.use_cache = True  # off in training only
    network.config.save_pretrained(folder)
    weights = {
        name: tensor.to(torch.bfloat16).contiguous()
        for name, tensor in state["model"].items()
        if name != "lm_head.weight"
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
        "max_input_tokens": MAX_INPUT,
        "max_rationale_tokens": LONGEST,
        "generation": {"temperature": 0.0},
        "provenance": {**provenance, "scores": scores},
    }
    for name, content in (("generation_config.json", generation), ("grace.json", grace)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card.text({**provenance, "scores": scores}), encoding="utf-8")


def main() -> None:
    """Export the newest state with the last measured scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path(".tiny"))
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    stage, state = newest_state(options.work)
    scores_file = options.work / "scores.json"
    scores = json.loads(scores_file.read_text(encoding="utf-8")) if scores_file.exists() else {}
    saved = {name: found for name in STAGES if (found := model.load_state(options.work / f"{name}.pt"))}
    provenance = {
        "base_model": None,
        "recipe": "grace_training.tiny",
        "steps": {name: found["step"] for name, found in saved.items()},
        "minutes": {name: round(found["spent_s"] / 60) for name, found in saved.items()},
        "pretraining_tokens": saved["pretrain"]["tokens"],
        "data": corpus.file_hashes(options.data),
    }
    marks = Tokenizer.from_file(str(options.work / "tokenizer.json"))
    write_checkpoint(options.out, marks, state, provenance, scores)
    log.info("%s, step %d, exported to %s", stage, state["step"], options.out)


if __name__ == "__main__":
    main()
