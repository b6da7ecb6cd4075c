"""The half of the trainer that writes: rollouts, anchors, negatives, and the pooled state of each.

Rollouts go through TRL's own generation (transformers, vLLM colocated or as a server), so weights are in step with the
policy. The states come from a hook on a pass that runs anyway, wherever there is one.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from trl import GRPOTrainer

from grace.prompt import Prompter
from grace.representation import Job, Role
from grace_training.advantages import flat_groups
from grace_training.config import GraceConfig
from grace_training.errors import NonFiniteReward
from grace_training.pooling import GenerationPooler, SpanPooler, forward_pooled, prompt_tail
from grace_training.rollouts import Batch, Drawn, Row, Written

FLAT_STD = 1e-6  # DAPO's dynamic sampling: below this a group teaches nothing
SHARDED = "_is_fsdp_managed_module"  # the mark of transformers


class RolloutTrainer(GRPOTrainer):
    """Writes and represents; what the rewards are is the subclass's."""

    args: GraceConfig
    prompter: Prompter
    _batch: Batch  # of the generation under way
    _drawn: Drawn
    _needs_greedy: bool
    _generation: tuple[int, int] = (-1, 0)  # the update that the last generation was for, and which of its own it was
    generation_config: Any

    @property
    def causal_lm(self) -> Any:
        """The model that writes, without what training has wrapped around it."""
        model = self.accelerator.unwrap_model(self.model_wrapped)
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    @property
    def backbone(self) -> nn.Module:
        """The module whose output is the last layer after the final norm."""
        return self.causal_lm.base_model  # type: ignore[no-any-return]

    def represent(self, jobs: list[Job], temperature: float, *, served: bool = False) -> Written:
        """One rationale for each job, with its pooled state; 0 is greedy.

        `served`: as serving would write it, which knows no `repetition_penalty`.
        """
        if not jobs:
            return Written([], torch.zeros(0, self.prompter.checkpoint.hidden_size, device=self.accelerator.device))
        with self._sampling_at(temperature, served=served):
            return self._write(jobs, per_prompt=1)[0]

    @torch.no_grad()
    def encode(self, texts: list[str], role: Role) -> Tensor:
        """(N, H) pooled states of texts with greedy rationales as served, in batches of similar length."""
        jobs = [self.prompter.job(text, role=role, max_rationale_tokens=self.max_completion_length) for text in texts]
        order = sorted(range(len(jobs)), key=lambda n: len(jobs[n].prompt_ids))
        size = max(1, self.args.per_device_eval_batch_size)
        batches = [[jobs[n] for n in order[i : i + size]] for i in range(0, len(jobs), size)]
        pieces = [self.represent(batch, 0.0, served=True).states for batch in batches]
        states = torch.cat([piece for piece in pieces if piece is not None])
        return states[torch.tensor(order, device=states.device).argsort()]

    def pay(self, batch: Batch, drawn: Drawn) -> Tensor:
        """(B, K) rewards of the batches of all processes."""
        raise NotImplementedError

    def _write(self, jobs: list[Job], *, per_prompt: int) -> tuple[Written, list[list[float]] | None]:
        with self._listening(jobs) as pooler:
            ids = [list(job.prompt_ids) for job in jobs]
            token_ids, logprobs = self._generate_single_turn(ids, None, {}, per_prompt)
        return Written(token_ids, self._states_of(jobs, token_ids, pooler)), logprobs

    def _states_of(self, jobs: list[Job], token_ids: list[list[int]], pooler: GenerationPooler | None) -> Tensor:
        if pooler is not None:
            return pooler.states([len(ids) for ids in token_ids])
        with self.accelerator.autocast():  # which is wrapped around the whole model alone
            return forward_pooled(
                self.backbone,
                [(*job.prompt_ids, *ids[:-1]) for job, ids in zip(jobs, token_ids, strict=True)],
                [self._tail(job) + len(ids) - 1 for job, ids in zip(jobs, token_ids, strict=True)],
                self.args.pooling,
                batch_size=self.args.per_device_train_batch_size,
                device=self.accelerator.device,
            )

    def _tail(self, job: Job) -> int:
        return prompt_tail(job, self.args.pooling)

    def _listening(self, jobs: list[Job]) -> AbstractContextManager[GenerationPooler | None]:
        """A pooler that listens to `generate`, or None where generation is not transformers' own."""
        if self.args.use_vllm or self.args.use_transformers_continuous_batching:
            return nullcontext(None)
        tails = [self._tail(job) for job in jobs]
        return GenerationPooler(self.backbone, tails, self.prompter.stop_ids, self.args.pooling)

    @contextmanager
    def _sampling_at(self, temperature: float, *, served: bool) -> Iterator[None]:
        if self.use_vllm:
            generation = self.vllm_generation
            before = generation.temperature, generation.repetition_penalty
            generation.temperature, generation.repetition_penalty = temperature, 1.0 if served else before[1]
            try:
                yield
            finally:
                generation.temperature, generation.repetition_penalty = before
            return
        config = self.generation_config
        self.generation_config = copy.deepcopy(config)
        self.generation_config.do_sample = temperature > 0
        self.generation_config.temperature = temperature if temperature > 0 else 1.0
        if served:
            self.generation_config.repetition_penalty = 1.0
        try:
            yield
        finally:
            self.generation_config = config

    @contextmanager
    def _in_step(self) -> Iterator[None]:
        """Under FSDP every process runs the model until the last of them has written all: each pass gathers weights.

        transformers (5.19.0) sees to it in models that are marked as sharded, and accelerate (1.15.0) marks none.
        """
        model = self.causal_lm
        if not self.is_fsdp_enabled or getattr(model, SHARDED, False):
            yield
            return
        setattr(model, SHARDED, True)
        try:
            yield
        finally:
            delattr(model, SHARDED)  # saving goes by it too

    # TRL's seams

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        try:
            with self._in_step():
                return super()._generate_single_turn(*args, **kwargs)
        except RuntimeError as error:
            if "probability tensor" not in str(error):
                raise
            raise NonFiniteReward(
                f"step {self.state.global_step}: the policy's probabilities are NaN or infinite, so its weights are: "
                "resume from the last checkpoint with a lower learning rate"
            ) from error

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [list(job.prompt_ids) for job in self._batch.rollout_jobs], None, {}

    def _generate(self, prompts: list[str]) -> Any:
        jobs = self._batch.rollout_jobs
        in_generation = self.args.pool_in == "generation"
        with self._listening(jobs) if in_generation else nullcontext(None) as pooler:
            result = super()._generate(prompts)
        token_ids: list[list[int]] = result[1]
        late = self.args.pool_in == "logprob"  # TRL's own pass follows, see below
        rollouts = Written(token_ids, None if late else self._states_of(jobs, token_ids, pooler))
        self._drawn = self._completed(self._batch, rollouts)
        update, number = self._generation
        step = self.state.global_step
        self._generation = step, number + 1 if update == step else 0
        for attempt in range(self.args.dynamic_sampling_tries or 0):
            if not self._replace_flat_groups(attempt, prompts, result):
                break
        return result

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *args: Any, **kwargs: Any
    ) -> Any:
        def run() -> Any:
            return super(RolloutTrainer, self)._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
            )

        # Only the first pass without gradient after a generation, which is the policy's own; a reference comes later.
        if torch.is_grad_enabled() or self._drawn.rollouts.states is not None:
            return run()
        P = input_ids.shape[1] - logits_to_keep
        starts, ends = self._spans(P, attention_mask.device)
        with SpanPooler(self.backbone, starts, ends, self.args.pooling) as pooler:
            result = run()
        self._drawn = self._drawn._replace(rollouts=self._drawn.rollouts._replace(states=pooler.states()))
        return result

    def _spans(self, P: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """(B*K,), (B*K,) where the pooled states of each rollout begin and end, prompts padded on the left to P."""
        tails = torch.tensor([self._tail(job) for job in self._batch.rollout_jobs], device=device)
        written = torch.tensor([len(ids) for ids in self._drawn.rollouts.token_ids], device=device)
        return P - tails, P + written - 1

    # What one generation is made of

    def _completed(self, batch: Batch, rollouts: Written) -> Drawn:
        """Queries and negatives in one call: one batch, one tail of stragglers. Then the greedy rollouts, if any."""
        both = self.represent([*batch.anchor_jobs, *batch.negative_jobs], self.args.anchor_temperature)
        assert both.states is not None
        B = len(batch.rows)
        return Drawn(
            rollouts=rollouts,
            anchors=Written(both.token_ids[:B], both.states[:B]),
            negatives=Written(both.token_ids[B:], both.states[B:]),
            greedy=self.represent(batch.jobs, 0.0) if self._needs_greedy else None,
        )

    def _build(self, rows: list[Row]) -> Batch:
        return Batch.build(
            rows,
            self.num_generations,
            self.prompter,
            max_tokens=self.max_completion_length,
            num_negatives=self.args.drawn_negatives,
        )

    def _replace_flat_groups(self, attempt: int, prompts: list[str], result: Any) -> bool:
        """DAPO's dynamic sampling: put fresh examples where all rollouts were paid alike. False when none were."""
        batch, K = self._batch, self._batch.K
        flat = flat_groups(self.pay(batch, self._drawn), least_std=FLAT_STD)
        if not flat.any():
            return False
        here = flat.view(self.accelerator.num_processes, -1)
        count = int(here.sum(dim=1).max())  # the same on every process: a vLLM server takes equal shares
        at = here[self.accelerator.process_index].nonzero().flatten().tolist()
        # Seeded by the step, so that a resumed run draws the same, and by which of the step's generations this is. One
        # draw for all processes, of which each takes its share.
        draw, processes = random.Random(repr((self.args.seed, self._generation, attempt))), here.shape[0]
        all_picks = without_repeats(draw, len(self.train_dataset), count * processes)
        picks = all_picks[self.accelerator.process_index :: processes]
        fresh = self._build([self.train_dataset[n] for n in picks])
        rollouts, logprobs = self._write(fresh.rollout_jobs, per_prompt=K)
        drawn = self._completed(fresh, rollouts)
        self._batch = batch.spliced(fresh, at)
        self._drawn = self._drawn.spliced(drawn, at, len(batch.rows))
        prompt_ids, token_ids, _, completions, sampled_logprobs, *_ = result
        for n, group in enumerate(at):
            for k in range(K):
                into, source = group * K + k, n * K + k
                prompts[into] = fresh.rows[n]["prompt"]
                prompt_ids[into] = list(fresh.jobs[n].prompt_ids)
                token_ids[into] = rollouts.token_ids[source]
                completions[into] = self.processing_class.decode(rollouts.token_ids[source], skip_special_tokens=True)
                if sampled_logprobs is not None and logprobs is not None:
                    sampled_logprobs[into] = logprobs[source]
        self._metrics["train"]["grace/groups_replaced"].append(float(flat.sum()))
        return True


def without_repeats(draw: random.Random, rows: int, count: int) -> list[int]:
    """`count` of `rows`, none twice before all were drawn: two of one query are no contrast to each other."""
    picks: list[int] = []
    while len(picks) < count:
        picks += draw.sample(range(rows), k=min(rows, count - len(picks)))
    return picks
