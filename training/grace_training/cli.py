"""`grace-train`: train a GRACE checkpoint, or a baseline in the same form."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

EPILOG = """\
settings are the keys of a recipe, on the command line as key=value (reward.contrast=infonce reaches into a mapping):
  model, data, method (grace, contrastive, simcse), eval_data, eval_limit, limit, columns, skip_bad, instruction,
  lora_rank, dropout, push_to_hub, and every field of GraceConfig: preset (paper, official, improved),
  algorithm (grpo, dapo, reinforce++, remax), objective (supervised, unsupervised), reward.*, symmetric, joint_weight,
  output_dir, max_steps, learning_rate, per_device_train_batch_size, num_generations, max_completion_length, ...

examples:
  grace-train --config training/recipes/cpu-smoke.yaml output_dir=runs/smoke
  grace-train --config training/recipes/qwen2.5-1.5b-supervised.yaml data=triples.jsonl output_dir=runs/a --dry-run
  accelerate launch --config_file deploy/accelerate/fsdp2.yaml -m grace_training.cli --config RECIPE output_dir=runs/a
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="grace-train", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("settings", nargs="*", metavar="key=value", help="settings, over those of the recipes")
    p.add_argument("--config", type=Path, action="append", default=[], metavar="RECIPE", help="a YAML file; repeatable")
    p.add_argument("--check", action="store_true", help="look through the data and stop; 1 if rows are bad")
    p.add_argument("--dry-run", action="store_true", help="say what the run would do and need, and stop")
    p.add_argument(
        "--resume", nargs="?", const="latest", metavar="CHECKPOINT", help="go on from a checkpoint, by default the last"
    )
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 when it went well, 1 when rows were bad, 2 when it could not be done."""
    options = parser().parse_intermixed_args(arguments)
    # Before anything is imported that reports its use; a setting of the user's own is left alone.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    from grace.errors import GraceError
    from grace_training.check import check
    from grace_training.recipe import load_recipe
    from grace_training.run import Run

    try:
        recipe = load_recipe(options.config, options.settings)
        if options.check:
            recipe.skip_bad = True  # all of them are wanted, not the first
        run = Run(recipe, only_plan=options.check or options.dry_run)
        if options.check:
            findings = check(run.data, run.prompter, run.held_out)
            print("\n".join(findings.lines()))
            return 1 if findings.bad else 0
        if options.dry_run:
            from grace_training.estimate import plan

            print("\n".join(plan(run)))
            return 0
        if run.bad:
            print(f"{len(run.bad)} bad rows skipped:", *run.bad[:20], sep="\n    ", file=sys.stderr)
        for term in run.inert:
            print(f"note: {term} is equal within a group and will have no effect", file=sys.stderr)
        if run.unused:
            print(f"note: {', '.join(run.unused)} have no effect on {recipe.method}", file=sys.stderr)
        folder = run.train(run.resume_from(options.resume))
    except GraceError as error:
        print(f"grace-train: {error}", file=sys.stderr)
        return 2
    if os.environ.get("RANK", "0") == "0":
        print(f"checkpoint: {folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
