"""`grace-train --dry-run`: what a run will do and need, by arithmetic. Nothing is loaded but the config."""

from __future__ import annotations

import json
import math
from typing import Any

from grace_training.run import Run

GIB = 1024**3


def plan(run: Run) -> list[str]:
    """Lines of a report."""
    args, data = run.args, run.data
    K, rows = args.num_generations, len(data.examples) * (2 if args.symmetric else 1)
    per_generation = args.generation_batch_size // K
    per_epoch = args.updates_per_epoch(rows)
    if run.recipe.method != "grace":  # no generations; the last batch may be a smaller one
        batch = args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps
        per_epoch = math.ceil(len(data.examples) / batch)
    steps = args.max_steps if args.max_steps > 0 else math.ceil(per_epoch * args.num_train_epochs)
    texts = per_generation * (1 + args.drawn_negatives) + (per_generation if args.algorithm == "remax" else 0)
    sample = [run.prompter.job(e.positive) for e in data.examples[:200]]
    prompt = sum(len(job.prompt_ids) for job in sample) / len(sample)
    rollouts = per_generation * K
    lines = [
        f"model      {run.recipe.model}, fingerprint {run.prompter.checkpoint.fingerprint}",
        f"data       {len(data.examples)} examples ({len(data.bad)} bad rows skipped), {data.fingerprint}",
        f"method     {run.recipe.method}, preset {args.preset}, algorithm {args.algorithm}, {args.objective}",
        f"steps      {steps}; an epoch is {per_epoch}",
    ]
    if run.recipe.method == "grace" and per_generation > rows:
        lines.append(f"warning    a generation takes {per_generation} examples, there are {rows}: no step will be made")
    if run.recipe.method == "grace":
        lines += [
            f"generation {rollouts} rollouts ({per_generation} examples x {K}), {texts} single ones",
            f"tokens     {rollouts * prompt:.0f} of prompts, at most {(rollouts + texts) * args.max_completion_length} "
            f"written, at most {rollouts * (prompt + args.max_completion_length):.0f} learned from, per generation",
            f"states     pooled in: {args.pool_in}",
        ]
    lines.append(f"memory     about {_memory(run) / GIB:.2f} GiB for weights, gradients, Adam and activations")
    lines += [f"inert      {term}: equal within a group, the advantage cancels it" for term in run.inert]
    if run.unused:
        lines.append(f"unused     {', '.join(run.unused)}: of no effect on {run.recipe.method}")
    return lines


def _memory(run: Run) -> float:
    """Bytes: float32 master weights, gradients and two moments; activations of one micro-batch with checkpointing."""
    checkpoint, args = run.prompter.checkpoint, run.args
    config = json.loads((checkpoint.folder / "config.json").read_text(encoding="utf-8"))
    parameters = _parameters(config)
    trained = 16 * parameters if not run.recipe.lora_rank else 4 * parameters * 1.02
    tokens = args.per_device_train_batch_size * (args.max_input_tokens + args.max_completion_length)
    layers = 2 if args.gradient_checkpointing else int(config["num_hidden_layers"])
    width = 2 if args.bf16 else 4
    activations = tokens * config["hidden_size"] * width * (config["num_hidden_layers"] + 16 * layers)
    copies = 2 * parameters if args.use_vllm and args.vllm_mode == "colocate" else 0
    return float(trained + activations + copies)


def _parameters(config: dict[str, Any]) -> int:
    H, layers, heads = config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"]
    head = config.get("head_dim") or H // heads
    attention = 2 * H * heads * head + 2 * H * config.get("num_key_value_heads", heads) * head
    feed_forward = 3 * H * config["intermediate_size"]
    embeddings = H * config["vocab_size"] * (1 if config.get("tie_word_embeddings") else 2)
    return int(layers * (attention + feed_forward) + embeddings)
