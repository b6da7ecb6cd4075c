"""The settings of a GRACE run: TRL's, under our defaults, and the few that are ours."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

import torch
from trl import GRPOConfig

from grace.pooling import POOLINGS, Pooling
from grace_training.errors import BadRecipe
from grace_training.heldout import FIGURES
from grace_training.presets import ALGORITHMS, PRESETS, Algorithm, Objective, PresetName, RewardSettings, preset

PoolIn = Literal["generation", "logprob", "forward"]
_REPLACED = {
    "scale_rewards": "advantages are the algorithm's: set scale_advantage or algorithm",
    "multi_objective_aggregation": "there is one reward: set algorithm, and the weights of its parts in reward",
    "reward_weights": "there is one reward: set the weights of its parts in reward",
    "chat_template_kwargs": "prompts are those of serving: set instruction",
}
_COUNTS = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "steps_per_generation",
    "num_iterations",
    "max_completion_length",
    "max_input_tokens",
)
# TRL asks for its name at the first loss, after the first rollouts are written.
_LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo")
_KINDS = {bool: "true or false", int: "a number", float: "a number", str: "a text"}


@dataclass
class GraceConfig(GRPOConfig):
    """One run. Fields that are not listed here are TRL's `GRPOConfig` and transformers' `TrainingArguments`."""

    preset: PresetName = "paper"
    algorithm: Algorithm = "grpo"
    objective: Objective = "supervised"
    reward: dict[str, Any] = field(default_factory=dict)  # fields of RewardSettings, on top of the preset
    num_negatives: int = 1  # M, rolled out once each; 0 leaves the other examples of the batch
    anchor_temperature: float = 0.5  # of the one rollout of query and negatives; 0 is greedy
    symmetric: bool = False  # roll out queries K times too, their positives being the anchors
    pooling: Pooling = "mean"
    pool_in: PoolIn | None = None  # the pass that gives the states of the documents; None picks the cheapest
    scale_advantage: bool = False  # grpo: divide by the group's std
    kl_coefficient: float = 0.0  # reinforce++: KL penalty per token
    dynamic_sampling_tries: int | None = None  # dapo: how often groups of equal rewards are replaced; None is 2
    overlong_filter: bool = False  # leave rationales that were cut off out of the loss
    joint_weight: float = 0.0  # alpha: InfoNCE gradient on the states of the loss's own pass
    max_input_tokens: int = 1024  # of the text; longer ones are cut in the text, never in the template
    telemetry: bool = False  # TRL's report of its use

    # TRL's and transformers' fields under other defaults: the published settings, and nothing sent anywhere.
    loss_type: str | None = None  # None: dr_grpo under `paper` (a sum of log-probabilities), dapo (token mean) else
    lr_scheduler_type: str = "constant"
    weight_decay: float = 0.01
    logging_steps: float = 1
    log_completions: bool = True
    num_completions_to_print: int | None = 0
    num_generations_eval: int | None = 1
    # TRL's whose place others have taken here: refused where they are given, see `_REPLACED`.
    scale_rewards: str | bool | None = None
    multi_objective_aggregation: str | None = None
    epsilon_high: float | None = None  # dapo: 0.28
    report_to: str | list[str] | None = "none"
    bf16: bool | None = None  # None: where there is a GPU
    metric_for_best_model: str | None = None  # ndcg_at_10 where one is needed
    lr_scheduler_kwargs: dict[str, Any] | str | None = None

    def __post_init__(self) -> None:
        self._check_choices()
        self.reward_settings()
        if self.bf16 is None:
            self.bf16 = torch.cuda.is_available() and not self.fp16 and not self.use_cpu
        if self.loss_type is None:
            self.loss_type = "dr_grpo" if self.preset == "paper" and self.algorithm != "dapo" else "dapo"
        if self.algorithm == "dapo":
            self.epsilon_high = self.epsilon_high or 0.28
        if self.dynamic_sampling_tries is None:
            self.dynamic_sampling_tries = 2 if self.algorithm == "dapo" else 0
        self.scale_rewards = "none"  # advantages are ours; TRL's would only be thrown away
        self.multi_objective_aggregation = "sum_then_normalize"
        paced = self.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy")  # by what is measured
        if paced or self.load_best_model_at_end or self.save_strategy == "best":
            self.metric_for_best_model = self.metric_for_best_model or "ndcg_at_10"  # transformers would take a loss
        try:
            super().__post_init__()
        except ValueError as error:
            raise BadRecipe(str(error)) from error
        if paced:  # both take the less for the better
            mode = "max" if self.greater_is_better else "min"
            given = self.lr_scheduler_kwargs or {}
            if not isinstance(given, dict):  # transformers has made one of a text that spells it
                raise BadRecipe(f"lr_scheduler_kwargs must be a mapping, not {given!r}")
            self.lr_scheduler_kwargs = {"mode": mode, **given}
        self._check_batch()
        self.pool_in = self.pool_in or self._cheapest_pass()
        if self.pool_in == "generation" and (self.use_vllm or self.use_transformers_continuous_batching):
            raise BadRecipe("pool_in 'generation' needs rollouts by transformers' generate: vLLM keeps its states")
        if self.pool_in == "logprob" and not self.has_logprob_pass:
            raise BadRecipe("pool_in 'logprob' needs TRL's log-prob pass, which is not made by on-policy settings")
        if self.pool_in == "logprob" and self.dynamic_sampling_tries:
            raise BadRecipe("dynamic sampling pays rollouts before the log-prob pass: set pool_in 'forward'")

    def reward_settings(self) -> RewardSettings:
        """The preset with this run's changes.

        Raises:
            BadRecipe: an unknown field, or a value that makes no sense.
        """
        if not isinstance(self.reward, dict):
            raise BadRecipe(f"reward must be a mapping of its fields, not {self.reward!r}")
        known = {f.name for f in fields(RewardSettings)}
        if unknown := sorted(set(self.reward) - known):
            raise BadRecipe(f"reward has no {', '.join(unknown)}; it has {', '.join(sorted(known))}")
        settings = preset(self.preset, self.objective)
        if self.algorithm == "dapo":
            settings = replace(settings, overlong_buffer=max(1, (self.max_completion_length or 1) // 5))
        settings = replace(settings, **{name: _as_field(name, value) for name, value in self.reward.items()})
        if settings.temperature <= 0:
            raise BadRecipe("reward.temperature must be above 0")
        for name in ("length_margin", "overlong_buffer"):
            if getattr(settings, name) < 0:
                raise BadRecipe(f"reward.{name} must not be negative")
        if settings.contrast not in ("margin", "infonce") or settings.hard not in ("anchor", "rollout"):
            raise BadRecipe("reward.contrast is 'margin' or 'infonce', reward.hard is 'anchor' or 'rollout'")
        if settings.length_rule not in ("replace", "floor", "none"):
            raise BadRecipe("reward.length_rule is 'replace', 'floor' or 'none'")
        return settings

    @property
    def has_logprob_pass(self) -> bool:
        """Whether TRL makes a pass for old log-probabilities in each generation (its own condition, repeated)."""
        misaligned = self.gradient_accumulation_steps % self._micro_steps != 0
        return bool(misaligned or (self.use_vllm and self.vllm_importance_sampling_correction))

    def _cheapest_pass(self) -> PoolIn:
        if not self.use_vllm and not self.use_transformers_continuous_batching:
            return "generation"
        # Dynamic sampling pays before that pass is made.
        return "logprob" if self.has_logprob_pass and not self.dynamic_sampling_tries else "forward"

    def _check_choices(self) -> None:
        choices = {
            "preset": PRESETS,
            "algorithm": ALGORITHMS,
            "objective": get_args(Objective),
            "pooling": [p for p in POOLINGS if p != "input"],
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise BadRecipe(f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")
        for name, known in (("pool_in", get_args(PoolIn)), ("loss_type", _LOSSES)):
            if getattr(self, name) not in (None, *known):
                raise BadRecipe(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")
        if self.metric_for_best_model not in (None, *FIGURES, *(f"eval_{name}" for name in FIGURES)):
            figures = ", ".join(FIGURES)
            raise BadRecipe(f"metric_for_best_model must be one of {figures}, not {self.metric_for_best_model!r}")
        for name, reason in _REPLACED.items():
            if getattr(self, name) is not None:
                raise BadRecipe(f"{name} has no effect: {reason}")
        if (self.num_generations or 0) < 2:
            raise BadRecipe("num_generations (K) must be at least 2: one rollout has nothing to be compared with")
        for name in _COUNTS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadRecipe(f"{name} must be at least 1, not {value}")
        if (self.dynamic_sampling_tries or 0) < 0:
            raise BadRecipe("dynamic_sampling_tries must not be negative")
        if not 0 < self.temperature < math.inf:
            raise BadRecipe("temperature must be above 0: greedy rollouts of one text are all the same")
        for name in ("learning_rate", "num_negatives", "anchor_temperature", "kl_coefficient", "joint_weight"):
            if not 0 <= getattr(self, name) < math.inf:  # false also for NaN
                raise BadRecipe(f"{name} must be finite and not negative")
        if self.symmetric and self.objective == "unsupervised":
            raise BadRecipe("symmetric swaps query and positive; unsupervised examples have one text")
        if self.kl_coefficient and self.algorithm != "reinforce++":
            raise BadRecipe("kl_coefficient belongs to reinforce++; the others take beta, a KL term in the loss")
        if self.kl_coefficient and self.beta:
            raise BadRecipe("kl_coefficient and beta are two forms of one penalty: set one")
        if self.mask_truncated_completions:
            raise BadRecipe(
                "mask_truncated_completions hides cut-off rationales from the attention, which falsifies their "
                "states: set overlong_filter, which leaves them out of the loss alone"
            )

    @property
    def drawn_negatives(self) -> int:
        """M as it is rolled out: an unsupervised example has one text and no negatives of its own."""
        return 0 if self.objective == "unsupervised" else self.num_negatives

    def _check_batch(self) -> None:
        rows = self.per_device_train_batch_size * self.steps_per_generation
        if rows % self.num_generations:
            raise BadRecipe(
                f"a process generates {rows} rollouts at a time (per_device_train_batch_size x steps_per_generation): "
                f"that holds no whole number of groups of {self.num_generations}"
            )
        if self._saves_by is None:
            return
        steps, every = getattr(self, self._saves_by), self._micro_steps
        if steps != int(steps):
            raise BadRecipe(
                f"{self._saves_by} must be a whole number of steps, not {steps}: a share of the run can fall "
                "inside a generation, and such a checkpoint would not resume exactly"
            )
        if steps * self.gradient_accumulation_steps % every:
            raise BadRecipe(
                f"{self._saves_by} {steps} falls inside a generation of {every} micro-steps: such a checkpoint "
                "would not resume exactly"
            )
        # transformers saves at the last step too, from which a run with more of them goes on.
        if max(0, self.max_steps) * self.gradient_accumulation_steps % every:
            raise BadRecipe(
                f"max_steps {self.max_steps} ends inside a generation of {every} micro-steps: the checkpoint saved "
                "there would not resume exactly; take a multiple, or save_strategy=no"
            )

    def check_end(self, rows: int) -> None:
        """Whether a run over so many rows of data ends between two generations: its last checkpoint is saved there.

        Raises:
            BadRecipe: it does not.
        """
        per_epoch = self.updates_per_epoch(rows)
        saves = self.save_strategy != "no" and not (self.save_strategy == "best" and self.eval_strategy == "no")
        if not saves or self.save_only_model or not per_epoch:  # nothing that is gone on with
            return
        last = self.max_steps if self.max_steps > 0 else math.ceil(self.num_train_epochs * per_epoch)
        if last % per_epoch * self.gradient_accumulation_steps % self._micro_steps:
            raise BadRecipe(
                f"the last step, {last}, falls inside a generation of {self._micro_steps} micro-steps: the checkpoint "
                "saved there would not resume exactly; take whole epochs, other max_steps, or save_strategy=no"
            )

    def updates_per_epoch(self, rows: int) -> int:
        """Steps in which so many rows of data are gone through; those that fill no generation are left out."""
        generations = rows // (self.generation_batch_size // self.num_generations)
        updates: int = math.ceil(generations * self._micro_steps / self.gradient_accumulation_steps)
        return updates

    @property
    def _micro_steps(self) -> int:
        """How many micro-steps learn from one generation, whether they make several updates or a part of one."""
        return int(self.steps_per_generation * self.num_iterations)

    @property
    def _saves_by(self) -> str | None:
        """The setting that says at which steps checkpoints are saved; None where none are, or where epochs end."""
        if self.save_strategy == "best":
            return "eval_steps" if self.eval_strategy == "steps" else None
        return "save_steps" if self.save_strategy == "steps" else None


def _as_field(name: str, value: Any) -> Any:
    """A value of `reward` in the type of its field."""
    wanted = getattr(RewardSettings(), name)
    if isinstance(wanted, tuple):
        if not isinstance(value, list | tuple) or not all(type(size) is int and size > 0 for size in value):
            raise BadRecipe(f"reward.{name} must be a list of whole numbers above 0, not {value!r}")
        return tuple(value)
    fits = type(value) in (int, float) if type(wanted) in (int, float) else isinstance(value, type(wanted))
    if not fits:
        raise BadRecipe(f"reward.{name} must be {_KINDS[type(wanted)]}, not {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise BadRecipe(f"reward.{name} must be finite, not {value!r}")
    return value
