"""The paper's tables in miniature: arms trained from one small backbone on one mixture, three seeds each, then judged.

    python -m grace_training.tiny.miniature --data DATA             # hours; called again, it resumes
    python -m grace_training.tiny.miniature --data DATA --study passages
    grace-eval report .miniature/results --out miniature.html       # the tables, from what is saved there

The backbone is the language model of `pretrain` after a `finetune` that taught it rationales and no vectors
(`--contrastive-weight 0`): as the paper's backbones, it writes, and was never trained to be an embedding. Each core
works on a run of its own: training, the shipped suite, general ability.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from grace_training import cli, mix
from grace_training.errors import TrainingError
from grace_training.evaluation import cli as evaluation
from grace_training.interpolate import interpolate
from grace_training.tiny import corpus, export, measure, model, passages

log = logging.getLogger(__name__)

RECIPE = Path(__file__).parents[2] / "recipes" / "miniature.yaml"
NAME = "miniature"  # of the backbone in the tables
HALF = "-half"  # after an arm's name: its checkpoint halfway back to the backbone
MAX_INPUT = 256  # tokens; longer texts are cut, for every arm alike
SEEDS = (0, 1, 2)
SOURCES = (
    "triples_snli/dev.jsonl.xz",
    "triples_cad/train.jsonl.xz",
    "triples_wikiqa/train.jsonl.xz",
)
EXAMPLES, HELD_OUT, WORDS = 400, 50, 24  # of each source, to train on and to measure on; words of the longest text
GENERAL = 100  # held-out texts that general ability is measured on


TEXTS = ("mixed", "texts")


@dataclass(frozen=True)
class Arm:
    """One line of a table: what it changes of the recipe."""

    settings: dict[str, Any] = field(default_factory=dict)
    data: tuple[str, str] = ("mixed", "train")  # folder of the mixture, and its file to train on; `texts` are single
    compared: bool = False  # read out in every way, not only as its checkpoint is served
    halved: bool = False  # judged a second time with half of the change from the backbone


# A rate for what each kind of gradient stands, tried on the held-out examples of seed 0: at 1e-4 the reward alone takes
# the language along, at 3e-4 so does the joint gradient.
BASELINE: dict[str, Any] = {"per_device_train_batch_size": 8}
REWARD = {"learning_rate": 2e-5}
ARMS = {
    "contrastive": Arm({"method": "contrastive", "learning_rate": 3e-4, **BASELINE}),
    "simcse": Arm({"method": "simcse", **BASELINE}, data=TEXTS),
    "joint": Arm({"preset": "improved", "joint_weight": 1.0}, compared=True),
    "improved": Arm({"preset": "improved", **REWARD}),
    "paper": Arm({"preset": "paper", **REWARD}),
    "unsupervised": Arm({"preset": "improved", "objective": "unsupervised", **REWARD}, data=TEXTS),
    "official": Arm({"preset": "official", **REWARD}),
    "dapo": Arm({"preset": "paper", "algorithm": "dapo", **REWARD}),
    "reinforce-pp": Arm({"preset": "paper", "algorithm": "reinforce++", **REWARD}),
    "remax": Arm({"preset": "paper", "algorithm": "remax", **REWARD}),
    "lambdas-0-0": Arm({"preset": "paper", "reward.consistency_weight": 0.0, "reward.hard_weight": 0.0, **REWARD}),
    "lambdas-0.2-0": Arm({"preset": "paper", "reward.hard_weight": 0.0, **REWARD}),
    "lambdas-0-0.2": Arm({"preset": "paper", "reward.consistency_weight": 0.0, **REWARD}),
    "pool-last": Arm({"preset": "improved", "joint_weight": 1.0, "pooling": "last"}),
    "pool-rationale": Arm({"preset": "improved", "joint_weight": 1.0, "pooling": "rationale"}),
}

# Passages, and steps of 128 rollouts instead of 32, or of 64 pairs: two of each of 64 texts, or eight of 16 where they
# alone say which way to go. Queries take their turn, for a search begins at one. Adam scales what it gets, so a weight
# of 10 lets the joint gradient lead; `beta` holds the language beside it.
LARGER: dict[str, Any] = {
    "max_input_tokens": 128,
    "max_steps": 60,
    "eval_steps": 30,
    "eval_limit": 150,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 4,
    "bf16": True,
}
BOTH_SIDES: dict[str, Any] = {"preset": "improved", "symmetric": True, "per_device_train_batch_size": 128, **LARGER}
JOINT: dict[str, Any] = {"num_generations": 2, "joint_weight": 10.0, "beta": 1.0, "learning_rate": 3e-4}
PASSAGES = {
    "passages-contrastive": Arm(
        {"method": "contrastive", "per_device_train_batch_size": 64, "learning_rate": 3e-4, **LARGER},
        halved=True,
        data=("passages", "triples"),
    ),
    "passages-joint": Arm({**BOTH_SIDES, **JOINT}, compared=True, halved=True, data=("passages", "train")),
    "passages-improved": Arm({**BOTH_SIDES, "num_generations": 8, "learning_rate": 3e-5}, data=("passages", "train")),
}
STUDIES = {"paper": ARMS, "passages": PASSAGES}
EVERY = {**ARMS, **PASSAGES}


def backbone(work: Path, data: Path) -> Path:
    """The checkpoint that every arm starts from."""
    folder = work / NAME
    if not (folder / "grace.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        read, taught = (model.start(work, stage) for stage in ("pretrain", "finetune"))
        provenance = {
            "base_model": None,
            "recipe": "grace_training.tiny.miniature",
            "steps": {"pretrain": read["step"], "finetune": taught["step"]},
            "minutes": {name: round(s["spent_s"] / 60) for name, s in (("pretrain", read), ("finetune", taught))},
            "pretraining_tokens": read["reading"]["read"],
            "data": corpus.file_hashes(data),
        }
        marks = Tokenizer.from_file(str(work / "tokenizer.json"))
        card = "The backbone of the miniature tables: docs/miniature.md.\n"
        export.write_checkpoint(folder, marks, taught, provenance, card, max_input=MAX_INPUT)
    return folder


def prepare(work: Path, data: Path, mixtures: set[str]) -> None:
    """The mixtures that arms ask for, and the texts of general ability."""
    general = work / "general"
    if "mixed" in mixtures and not (work / "mixed" / "texts.jsonl").exists():
        _mix(work / "mixed", data)
    if "passages" in mixtures and not (work / "passages" / "train.jsonl").exists():
        passages.write(data, work / "passages")
    if not (general / "summaries.jsonl").exists():
        general.mkdir(parents=True, exist_ok=True)
        _write(general / "text.jsonl", [{"text": text} for _, text in measure.held_out_texts(data, GENERAL)])
        entry = corpus.source("scitldr")
        papers = [row for row in corpus.records(data, "scitldr") if corpus.is_held_out(corpus.key_text(entry, row))]
        _write(general / "summaries.jsonl", [{"text": row["text"], "summary": row["summary"]} for row in papers])


def _mix(folder: Path, data: Path) -> None:
    """Triples, and the same texts one by one."""
    sources = [str(data / source) for source in SOURCES]
    counts = ["--rows", str(EXAMPLES), "--held-out-rows", str(HELD_OUT), "--longest", str(WORDS)]
    _checked(mix.main([*sources, "--folder", str(folder), "--negatives", "1", *counts]), "mix")
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    texts = dict.fromkeys(row[side] for row in rows for side in ("query", "positive"))
    _write(folder / "texts.jsonl", [{"text": text} for text in texts])


def run(arm: str, seed: int, work: Path, samples: int | None) -> str:
    """Train one arm and judge it; what is done already is left. What it says goes to a file beside its checkpoint."""
    direct, every = (["--representations", names] for names in ("direct", "mean,rationale,input,last"))
    folder = work / "runs" / f"{arm}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log").open("a", encoding="utf-8") as said, redirect_stdout(said), redirect_stderr(said):
        if arm == NAME:
            readings = [["--row", "base", *direct], ["--row", "reasoning", *every]]
            _judge(work / NAME, arm, seed, work, readings, samples)
        else:
            trained = _trained(arm, seed, work, folder)
            _judge(trained, arm, seed, work, [every if EVERY[arm].compared else []], samples)
            if EVERY[arm].halved:
                half = interpolate(work / NAME, trained, 0.5, folder / "half")
                _judge(half, f"{arm}{HALF}", seed, work, [[]], samples)
    return f"{arm}-{seed}"


def _judge(checkpoint: Path, label: str, seed: int, work: Path, readings: list[list[str]], samples: int | None) -> None:
    shared = ["--model", str(checkpoint), "--out", str(work / "results"), "--label", label]
    limit = ["--limit", str(samples)] if samples else []
    for reading in readings:
        options = [*shared, *reading, *limit, "--no-report", "--quiet"]
        _checked(evaluation.main(["local", *options]), f"{label}-{seed}: grace-eval local")
    tasks = ["--data", str(work / "general"), "--tasks", "perplexity,rationales,summaries"]
    _checked(evaluation.main(["general", *shared, *tasks]), f"{label}-{seed}: grace-eval general")


def _trained(arm: str, seed: int, work: Path, folder: Path) -> Path:
    final = folder / "final"
    if not (final / "grace.json").exists():
        chosen = EVERY[arm]
        mixture, file = chosen.data
        settings = {
            "model": work / NAME,
            "data": work / mixture / f"{file}.jsonl",
            "eval_data": work / mixture / "heldout.jsonl",
            "output_dir": folder,
            "seed": seed,
            **chosen.settings,
        }
        words = [f"{key}={value}" for key, value in settings.items()]
        _checked(cli.main(["--config", str(RECIPE), *words]), f"{arm}-{seed}: grace-train")
    _judged_alike(final / "grace.json")  # also where the last call ended before it
    return final


def _judged_alike(served: Path) -> None:
    """Cut texts where the backbone cuts them, however short an arm's training kept them."""
    config = json.loads(served.read_text(encoding="utf-8"))
    config["max_input_tokens"] = MAX_INPUT
    partial = served.with_suffix(".partial")
    partial.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    partial.replace(served)


def _checked(status: int, what: str) -> None:
    if status:
        raise TrainingError(f"{what} ended with {status}")


def _write(path: Path, rows: Sequence[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _take_core(cores: multiprocessing.Queue[int]) -> None:
    os.sched_setaffinity(0, {cores.get()})
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)  # else a run that was handed on already would go on, beside the same one of the next call

    threading.Thread(target=watch, name="parent", daemon=True).start()


def main() -> None:
    """Train and judge, or go on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path(".miniature"))
    parser.add_argument("--study", choices=STUDIES, default="paper", help="the paper's tables, or the one of passages")
    parser.add_argument("--arms", help="of the study's, separated by commas")
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--samples", type=int, help="draw so many samples per task, always the same ones")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    os.environ["OMP_NUM_THREADS"] = "1"  # a core each

    backbone(options.work, options.data)
    # Arm by arm within a seed: what was stopped early has whole seeds.
    chosen = options.arms.split(",") if options.arms else [NAME, *STUDIES[options.study]]
    prepare(options.work, options.data, {EVERY[arm].data[0] for arm in chosen if arm != NAME})
    jobs = [(arm, seed) for seed in SEEDS[: options.seeds] for arm in chosen if arm != NAME or seed == SEEDS[0]]
    context = multiprocessing.get_context("spawn")
    cores: multiprocessing.Queue[int] = context.Queue()
    available = sorted(os.sched_getaffinity(0))
    for core in available:
        cores.put(core)
    failed = []
    with ProcessPoolExecutor(len(available), context, _take_core, (cores,)) as pool:
        running = {pool.submit(run, arm, seed, options.work, options.samples): (arm, seed) for arm, seed in jobs}
        for done in as_completed(running):
            if error := done.exception():
                failed.append(running[done])
                log.error("%s-%d: %s", *running[done], error)
            else:
                log.info("%s is done", done.result())
    if failed:
        raise SystemExit(f"{len(failed)} runs failed: their logs are in {options.work / 'runs'}")


if __name__ == "__main__":
    main()
