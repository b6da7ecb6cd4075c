"""GraceTrainer: TRL's GRPO with rewards read off the policy's own hidden states.

What differs from `trl.GRPOTrainer`, in the order of a step: prompts are jobs of `grace.prompt`; query and negatives get
one rollout of their own, and states are pooled by a hook in a pass that runs anyway (`generation.py`); rewards are
computed over the batches of all processes (`paying.py`); advantages are the chosen algorithm's. The rest is TRL's. The
methods overridden are private ones of TRL's: tests/training/test_seams.py says when they move.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from grace.prompt import Prompter
from grace_training import advantages, checkpoints, heldout
from grace_training.carried import keep_carried
from grace_training.config import GraceConfig
from grace_training.data import Example
from grace_training.errors import BadRecipe
from grace_training.export import Provenance, stamped
from grace_training.paying import PayingTrainer
from grace_training.pooling import SpanPooler
from grace_training.rewards import infonce, unit
from grace_training.rollouts import Drawn, Row, Written, one_per_group
from grace_training.sampler import EpochRepeatSampler
from grace_training.vllm_cpu import keep_weights_updatable

log = logging.getLogger(__name__)


def grace(**_: object) -> list[float]:
    """TRL's place for a reward function; ours needs states and is computed in `pay`."""
    raise AssertionError("unreachable: GraceTrainer computes its rewards itself")


class GraceTrainer(PayingTrainer):
    """Trains a policy whose rationales make its embeddings better."""

    _name = "GRACE"
    beta: float
    control: Any
    _tag_names = ("grace", "sentence-similarity")

    def __init__(
        self,
        model: str | nn.Module,
        args: GraceConfig,
        prompter: Prompter,
        train_dataset: Any,
        held_out: list[Example] | None = None,
        *,
        callbacks: list[Any] | None = None,
        peft_config: Any = None,
        provenance: Provenance | None = None,  # what checkpoints on the way say, under their own steps
    ) -> None:
        if args.max_completion_length > prompter.max_rationale_tokens:
            raise BadRecipe(
                f"max_completion_length {args.max_completion_length} is more than the {prompter.max_rationale_tokens} "
                f"tokens that the context leaves beside {prompter.max_input_tokens} tokens of text"
            )
        if args.kl_coefficient:
            args = copy.copy(args)
            args.beta = args.kl_coefficient  # makes TRL keep a reference; its loss term is left out below
        if args.use_vllm and args.vllm_mode == "colocate":
            keep_weights_updatable()
        self.prompter, self.provenance = prompter, provenance
        self.held_out = held_out or []
        self.settings = args.reward_settings()
        self._needs_greedy = args.algorithm == "remax" and not self.settings.zero_greedy_baseline
        super().__init__(
            model=model,
            reward_funcs=[grace],
            args=args,
            train_dataset=train_dataset,
            eval_dataset=None if held_out is None else train_dataset.select([0]),  # TRL asks for one; ours is below
            processing_class=prompter.tokenizer,
            callbacks=callbacks,
            peft_config=peft_config,
        )
        if set(self.eos_token_ids) != set(prompter.stop_ids):
            raise BadRecipe(
                f"the model stops at {sorted(self.eos_token_ids)}, serving at {sorted(prompter.stop_ids)}: "
                "generation_config.json and tokenizer disagree"
            )
        if keep_carried(self.model) and self.is_fsdp_enabled:
            log.warning("FSDP shards anew what is trained: channels that no layer writes to are written from now on")
        self._drawn = Drawn(Written([], None), Written([], None), Written([], None), None)

    def _send_telemetry(self) -> None:
        if self.args.telemetry:
            super()._send_telemetry()

    def create_model_card(self, *_: object, **__: object) -> None:
        """Nothing: `grace_training.export` writes the card, once, with what there is to say."""

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        self._order = EpochRepeatSampler.of(super()._get_train_sampler(dataset))
        return self._order

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # accelerate (1.15.0) tells no epoch to a sampler behind batches that are skipped and shared among processes.
        self._order.set_epoch(kwargs["epoch"])
        super()._run_epoch(*args, **kwargs)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self._last_loaded_step = -1  # TRL goes by the step alone, and takes vLLM to hold the weights of this one

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        step = self.state.global_step
        folder = Path(self.args.output_dir) / f"checkpoint-{step}"
        config = stamped(self.prompter.checkpoint.config, self.provenance and replace(self.provenance, steps=step))
        with checkpoints.whole_or_nothing(folder, config, self):
            super()._save_checkpoint(model, trial)

    def evaluate(self, *_: object, metric_key_prefix: str = "eval", **__: object) -> dict[str, float]:
        """Held-out retrieval and contrastive reward, greedily; on every process alike, for generation is collective."""
        was_training = self.model.training
        self.model.eval()
        try:
            measured = heldout.measure(self.held_out, self.encode)  # type: ignore[arg-type] # str for Role
        finally:
            self.model.train(was_training)
        if self.accelerator.is_main_process:
            heldout.keep(Path(self.args.output_dir), self.state.global_step, measured)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in heldout.means(measured).items()}
        Trainer.log(self, dict(metrics))  # TRL's would write the log of completions a second time
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    # Advantages and loss

    def _generate_and_score_completions(self, inputs: list[Row]) -> dict[str, Any]:
        self._batch = self._build(one_per_group(inputs, self.num_generations))
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        mask = output["completion_mask"]
        output["advantages"] = self._advantages(output)
        shown = self._logs["advantages"]
        for _ in range(min(len(shown), self._paid.numel())):
            shown.pop()  # TRL's own, which are not used
        gathered = self.accelerator.gather(output["advantages"].float().reshape(len(mask), -1)[:, 0])
        shown.extend(gathered.tolist())
        if self.args.overlong_filter:
            # TRL's mask of the loss alone: `completion_mask` is the attention mask of the loss's own pass too.
            keep = ~self._local(self._cut_off).reshape(-1, 1)
            output["tool_mask"] = output.get("tool_mask", mask) * keep.to(mask.dtype)
            output["num_items_in_batch"] = self.accelerator.gather((mask * output["tool_mask"]).sum()).sum()
        if self.args.joint_weight:
            B = len(self._batch.rows)
            starts, ends = self._spans(output["prompt_ids"].shape[1], mask.device)
            first = self.accelerator.process_index * B
            examples = torch.arange(first, first + B, device=mask.device).repeat_interleave(self._batch.K)
            output.update(pool_start=starts, pool_end=ends, example=examples)
        return output

    def _advantages(self, output: dict[str, Any]) -> Tensor:
        """(N,) of this process's rollouts, or (N, T) with a penalty per token."""
        paid = self._paid
        match self.args.algorithm:
            case "grpo":
                advantage = advantages.grpo(paid, scale=self.args.scale_advantage)
            case "dapo":
                advantage = advantages.dapo(paid)
            case "remax":
                zero = torch.zeros(len(paid), device=paid.device)
                advantage = advantages.remax(paid, zero if self._greedy_paid is None else self._greedy_paid)
            case "reinforce++" if self.args.kl_coefficient:
                return self._token_advantages(output)
            case "reinforce++":
                advantage = advantages.reinforce_pp(paid, advantages.moments(paid, torch.ones_like(paid)))
        return self._local(advantage).flatten()

    def _token_advantages(self, output: dict[str, Any]) -> Tensor:
        old, mask = output.get("old_per_token_logps"), output["completion_mask"]
        if old is None:
            ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
            attention = torch.cat([output["prompt_mask"], mask], dim=1)
            with torch.no_grad():
                old, _, _ = self._get_per_token_logps_and_entropies(
                    self.model, ids, attention, mask.shape[1], batch_size=self.args.per_device_train_batch_size
                )
        kl = (old - output["ref_per_token_logps"]) * mask
        values = advantages.returns(self._local(self._paid).flatten(), kl, mask, self.args.kl_coefficient)
        total = self.accelerator.reduce(advantages.moments(values, mask), reduction="sum")
        return torch.as_tensor(advantages.reinforce_pp(values, total) * mask)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        beta: float = self.beta
        if self.args.kl_coefficient:
            self.beta = 0.0  # the penalty is in the advantage already
        try:
            if not self.args.joint_weight:
                return super()._compute_loss(model, inputs)  # type: ignore[no-any-return]
            spans = inputs["pool_start"], inputs["pool_end"]
            with SpanPooler(self.backbone, *spans, self.args.pooling) as pooler:
                loss = super()._compute_loss(model, inputs)
        finally:
            self.beta = beta
        joint = self._joint_loss(pooler.states(), inputs["example"])
        self._metrics["train"]["grace/joint_loss"].append(self.accelerator.gather(joint.detach()).mean().item())
        return loss + self.args.joint_weight * joint / self.current_gradient_accumulation_steps  # type: ignore[no-any-return]

    def _joint_loss(self, pooled: Tensor, examples: Tensor) -> Tensor:
        """InfoNCE of pooled (N, H), with gradient, against its anchor, negatives and all others' anchors, without."""
        assert self._states is not None
        s = self._states
        anchors = unit(s.anchors)
        rivals = torch.cat([unit(s.negatives)[examples], anchors.expand(len(pooled), -1, -1)], dim=1)
        rivalry = torch.cat([s.negative_mask[examples], s.competes[examples]], dim=1)
        candidates = unit(pooled)[:, None]
        nobody = torch.zeros(len(pooled), len(pooled), dtype=torch.bool, device=pooled.device)
        log_p = infonce(anchors[examples], candidates, candidates, rivals, rivalry, nobody, self.settings.temperature)
        return -log_p.mean()
