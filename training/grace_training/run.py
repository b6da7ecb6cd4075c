"""A run from recipe to checkpoint: open the policy, read the data, train, measure, export."""

from __future__ import annotations

import errno
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, set_seed

from grace.prompt import Prompter
from grace_training import checkpoints, curves, heldout
from grace_training.config import GraceConfig
from grace_training.data import Data, Example, read, training_rows
from grace_training.deviations import deviations
from grace_training.errors import BadRecipe, SaveFailed
from grace_training.export import Provenance, Sample, export, merge_adapter
from grace_training.policy import open_policy
from grace_training.presets import inert_terms
from grace_training.progress import Progress
from grace_training.recipe import Recipe
from grace_training.trainer import GraceTrainer

FINAL = "final"  # the exported checkpoint, in the run's output_dir
HISTORY = "history.json"  # what was logged
_PRIVATE = {"output_dir", "hub_token"}  # settings that no card tells
UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EIO}


class Run:
    """What a recipe comes to: settings, prompts and data, each checked.

    With `only_plan` nothing will be trained: a recipe for a GPU can be looked through where there is none.
    """

    def __init__(self, recipe: Recipe, *, only_plan: bool = False) -> None:
        self.recipe = recipe
        settings = dict(recipe.settings)
        # `evaluate` is our own and needs data; without any there is nothing to measure.
        if recipe.eval_data is not None and "eval_strategy" not in settings:
            settings.update(eval_strategy="steps", eval_steps=settings.get("eval_steps", 50))
        settings.setdefault("disable_tqdm", True)  # `Progress` takes its place
        if only_plan and not torch.cuda.is_available():
            settings["use_cpu"] = True  # transformers refuses bfloat16 without a GPU otherwise
        if recipe.method != "grace":
            # A baseline has neither groups nor generations, nor best weights; any batch of several texts will do.
            size = int(settings.get("per_device_train_batch_size", 8))
            if size < 2:
                raise BadRecipe(
                    "per_device_train_batch_size must be at least 2: a text is told from others of its batch"
                )
            settings["num_generations"] = size
            for name in ("steps_per_generation", "generation_batch_size", "num_iterations", "metric_for_best_model"):
                settings.pop(name, None)
        self.args = GraceConfig(**settings)
        self.prompter: Prompter = open_policy(
            recipe.model,
            max_input_tokens=self.args.max_input_tokens,
            max_rationale_tokens=self.args.max_completion_length,
            pooling=self.args.pooling,
            direct=recipe.method != "grace",
            instruction=recipe.instruction,  # type: ignore[arg-type] # roles are checked by the checkpoint
        )
        width = self.prompter.checkpoint.hidden_size
        if over := [size for size in self.args.reward_settings().dimensions if size > width]:
            raise BadRecipe(f"reward.dimensions: {over[0]} is more than the {width} that a vector of this model has")
        objective = {"contrastive": "supervised", "simcse": "unsupervised"}.get(recipe.method, self.args.objective)
        self.data: Data = read(
            recipe.data,
            objective,  # type: ignore[arg-type] # str for Objective
            columns=recipe.columns,
            skip_bad=recipe.skip_bad,
            limit=recipe.limit,
        )
        self.unused: list[str] = []  # settings that mean nothing to the method
        if recipe.method == "grace":
            self.args.check_end(len(self.data.examples) * (2 if self.args.symmetric else 1))
        else:
            from grace_training.baselines import train as baseline  # slow to import

            baseline.check(recipe.method, recipe.settings, self.data.examples, lora_rank=recipe.lora_rank)
            self.unused = baseline.unused(recipe.method, recipe.settings)
        self.held_out: Data | None = None
        if recipe.eval_data is not None:
            self.held_out = read(
                recipe.eval_data,
                "supervised",
                columns=recipe.columns,
                skip_bad=recipe.skip_bad,
                limit=recipe.eval_limit,
            )
        if self.args.eval_strategy != "no" and self.held_out is None:
            raise BadRecipe("eval_strategy is set, but there is no eval_data to measure on")

    @property
    def folder(self) -> Path:
        """Where the run's files go."""
        return Path(self.args.output_dir)

    @property
    def bad(self) -> list[str]:
        """Rows that were left out, of the held-out data too."""
        return self.data.bad + (self.held_out.bad if self.held_out else [])

    @property
    def inert(self) -> list[str]:
        """What of the reward will have no effect."""
        if self.recipe.method != "grace":
            return []
        args = self.args
        K, settings = args.num_generations, args.reward_settings()
        return inert_terms(settings, args.algorithm, args.objective, K=K, swapped=args.symmetric)

    def resume_from(self, wanted: str | None) -> str | None:
        """The checkpoint to go on from: a given one, or the newest that is whole; None to start afresh.

        Raises:
            BadRecipe: there is none, or the given one is not whole.
        """
        if wanted is None:
            return None
        found = checkpoints.latest(self.folder) if wanted == "latest" else Path(wanted)
        if found is None or not checkpoints.can_resume(found):
            raise BadRecipe(f"nothing to resume from: no complete checkpoint at {found or self.folder}")
        if not checkpoints.has_progress(found):
            raise BadRecipe(
                f"nothing to resume from: {found} holds weights alone, as save_only_model asks: a run would go on "
                "from it under another optimizer state and other random numbers"
            )
        return str(found)

    def train(self, resume: str | None = None) -> Path:
        """Train, measure, export; the folder of the finished checkpoint.

        Raises:
            BadRecipe: the folder holds another run, and this one does not go on from it.
            SaveFailed: the disk is full, or the folder cannot be written. Checkpoints that were complete still are.
        """
        set_seed(self.args.seed)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.args.process_index == 0:
                self._settle_in(resume)
            return self._train_grace(resume) if self.recipe.method == "grace" else self._train_baseline(resume)
        except OSError as error:
            if error.errno not in UNWRITABLE:  # a network's errors are of this class too
                raise
            raise SaveFailed(f"{self.folder} cannot be written: {error}") from error

    def _settle_in(self, resume: str | None) -> None:
        """See to it that the folder holds nothing that this run would be mixed with."""
        if resume is not None:
            step = checkpoints.step(Path(resume))
            heldout.rewind(self.folder, step)
            # Of the run as it went on before: the next `--resume` would take the newest of them for this run's.
            # One that was not saved whole is written over when its step comes.
            later = [folder for folder in checkpoints.after(self.folder, step) if checkpoints.is_whole(folder)]
            self._set_aside(later, "superseded-")
            return
        saved = sorted(self.folder.glob("checkpoint-*"))
        partial = [folder for folder in saved if not checkpoints.is_whole(folder)]
        weights = [p.name for p in [*saved, self.folder / FINAL] if p not in partial and p.exists()]
        if weights:
            raise BadRecipe(
                f"output_dir {self.folder} holds a run ({', '.join(weights)}): --resume goes on with it, another "
                "output_dir begins a new one"
            )
        # A run that ended before it left any weights cannot be gone on with: it begins anew. What it was about to
        # save when it was killed is no checkpoint, but may be another trainer's: it is set aside, not removed.
        self._set_aside(partial, "unfinished-")
        for name in (heldout.RECORD, HISTORY):
            if (self.folder / name).exists():
                (self.folder / name).replace(self.folder / f"{name}.old")

    def _set_aside(self, folders: list[Path], prefix: str) -> None:
        for folder in folders:
            folder.replace(Path(tempfile.mkdtemp(prefix=prefix, dir=self.folder)) / folder.name)

    def _before(self) -> dict[str, float]:
        """The held-out figures from before the first step of the run that is gone on with."""
        return {f"eval_{name}": value for name, value in heldout.first(self.folder).items()}

    def _train_grace(self, resume: str | None) -> Path:
        held_out = self.held_out.examples if self.held_out else None
        progress = Progress()
        trainer = GraceTrainer(
            str(self.prompter.checkpoint.folder),
            self.args,
            self.prompter,
            Dataset.from_list(training_rows(self.data.examples, symmetric=self.args.symmetric)),
            held_out,
            callbacks=[progress],
            peft_config=self._lora(),
            provenance=self._provenance(),
        )
        trainer.remove_callback(PrinterCallback)  # `Progress` says what matters, the log holds the rest
        # Within `train`: before it the model may be on no device, and runs in another precision than it is trained in.
        trainer.args.eval_on_start = bool(held_out) and resume is None
        try:
            trainer.train(resume_from_checkpoint=resume)
        finally:
            progress.close()
        history = trainer.state.log_history
        if resume is not None and (before := self._before()) and not any(entry.get("step") == 0 for entry in history):
            history[:0] = [{"step": 0, **before}]  # checkpoints of earlier versions do not hold it
        scores = self._final_scores(trainer) if held_out else {}
        samples = self._samples(trainer)
        main = trainer.args.should_save
        return self._export(trainer.state, scores, samples, save=lambda folder: self._save(trainer, folder), main=main)

    def _final_scores(self, trainer: GraceTrainer) -> dict[str, float]:
        """The held-out figures of the weights that are exported, which may have been measured already."""
        step = self._exported_step(trainer.state)
        for entry in reversed(trainer.state.log_history):
            if entry.get("step") == step and "eval_ndcg_at_10" in entry:
                return {name: value for name, value in entry.items() if name.startswith("eval_")}
        return trainer.evaluate()

    def _exported_step(self, state: Any) -> int:
        """The step whose weights the trainer holds when it has ended."""
        return int((self.args.load_best_model_at_end and state.best_global_step) or state.global_step)

    def _train_baseline(self, resume: str | None) -> Path:
        from grace_training.baselines.train import Baseline

        assert self.recipe.method != "grace"
        baseline = Baseline(self.recipe.method, self.prompter, dropout=self.recipe.dropout)
        before = self._before() if resume is not None else self._measured(baseline, 0)
        temperature = self.args.reward_settings().temperature
        trainer = baseline.train(
            self.data.examples,
            self.recipe.settings,
            temperature=temperature,
            resume=resume,
            provenance=self._provenance(),
        )
        scores = self._measured(baseline, trainer.state.global_step)
        trainer.state.log_history[:0] = [{"step": 0, **before}] if before else []
        trainer.state.log_history.append({"step": trainer.state.global_step, **scores})

        def save(folder: Path) -> None:
            baseline.encoder.save(str(folder))

        return self._export(trainer.state, scores, [], save=save, main=trainer.args.should_save)

    def _measured(self, baseline: Any, step: int) -> dict[str, float]:
        if self.held_out is None:
            return {}
        measured = heldout.measure(self.held_out.examples, baseline.encode)
        if self.args.process_index == 0:
            heldout.keep(self.folder, step, measured)
        return {f"eval_{name}": value for name, value in heldout.means(measured).items()}

    def _lora(self) -> Any:
        if not self.recipe.lora_rank:
            return None
        from peft import LoraConfig

        rank = self.recipe.lora_rank
        # Not on the head: TRL's fused head would not see it.
        return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")

    def _save(self, trainer: GraceTrainer, folder: Path) -> None:
        trainer.save_model(str(folder))  # gathers what FSDP or ZeRO hold in parts; of LoRA it saves the adapter
        if not trainer.args.should_save:
            return
        (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle has no place in a checkpoint
        if self.recipe.lora_rank:
            merge_adapter(self.prompter.checkpoint.folder, folder)

    def _samples(self, trainer: GraceTrainer, count: int = 3) -> list[Sample]:
        texts = [example.positive for example in self._sampled(count)]
        was_training = trainer.model.training
        trainer.model.eval()
        jobs = [self.prompter.job(text, max_rationale_tokens=self.args.max_completion_length) for text in texts]
        written = trainer.represent(jobs, 0.0, served=True).token_ids
        trainer.model.train(was_training)
        return [Sample(t, self.prompter.decode(tuple(ids))) for t, ids in zip(texts, written, strict=True)]

    def _sampled(self, count: int) -> list[Example]:
        return (self.held_out or self.data).examples[:count]

    def _provenance(self, steps: int = 0, scores: dict[str, float] | None = None) -> Provenance:
        """Where the weights come from, after so many steps."""
        sources = {"train": self.recipe.data, "held out": self.recipe.eval_data}
        fingerprints = {"train": self.data, "held out": self.held_out}
        return Provenance(
            method=self.recipe.method,
            base_model=Path(self.recipe.model).name if Path(self.recipe.model).is_dir() else self.recipe.model,
            base_fingerprint=self.prompter.checkpoint.fingerprint,
            steps=steps,
            settings={k: v for k, v in self.recipe.settings.items() if k not in _PRIVATE}
            | {"reward": asdict(self.args.reward_settings())},
            data={
                f"{name}: {_names(sources[name])}": data.fingerprint
                for name, data in fingerprints.items()
                if data is not None
            },
            base_data=checkpoints.trained_on(self.prompter.checkpoint.config.provenance),
            scores=scores or {},
            inert=tuple(self.inert),
            unused=tuple(self.unused),
            deviations=tuple(deviations(self.args, self.args.world_size)) if self.recipe.method == "grace" else (),
        )

    def _export(self, state: Any, scores: dict[str, float], samples: list[Sample], *, save: Any, main: bool) -> Path:
        if main:  # before anything is drawn: what was logged is not to be had again
            (self.folder / HISTORY).write_text(json.dumps(state.log_history, indent=1), encoding="utf-8")
        drawn = curves.write(state.log_history, self.folder) if main else []
        folder = export(
            self.folder / FINAL,
            self.prompter.checkpoint.config,
            self._provenance(self._exported_step(state), scores),
            save_weights=save,
            samples=samples,
            curves=drawn,
            main=main,
        )
        if self.recipe.push_to_hub and main:
            from huggingface_hub import HfApi

            api = HfApi()
            api.create_repo(self.recipe.push_to_hub, exist_ok=True)
            api.upload_folder(repo_id=self.recipe.push_to_hub, folder_path=folder)
        return folder


def _names(source: str | list[str] | None) -> str:
    """File names without the folders of the machine they were read on."""
    sources = [source] if isinstance(source, str) else source or []
    return ", ".join("/".join(Path(s).parts[-2:]) for s in sources)
