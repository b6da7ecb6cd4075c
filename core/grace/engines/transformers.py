"""The exact reference: Hugging Face Transformers, one job at a time. Also the fallback where vLLM does not run."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from typing import Any, Literal

import torch

from grace import weights
from grace.checkpoint import Checkpoint
from grace.engines.base import Delta, assemble_states
from grace.errors import CheckpointError, EngineError
from grace.prompt import Prompter
from grace.representation import Job, Representation

Dtype = Literal["auto", "float32", "bfloat16"]


class TransformersEngine:
    """Decodes with a key-value cache and keeps the last hidden state of every position that runs."""

    def __init__(
        self, checkpoint: Checkpoint, prompter: Prompter, *, dtype: Dtype = "float32", device: str = "cpu"
    ) -> None:
        self._checkpoint, self._prompter = checkpoint, prompter
        self._dtype, self._device = dtype, device
        self._model: Any = None
        self._states: torch.Tensor  # (T, H) of the last forward
        self._last_logits_alone: dict[str, int] = {}
        # One thread: the model's own parallelism uses the cores, and jobs cannot disturb each other.
        self._thread = ThreadPoolExecutor(1, "grace-transformers")
        self._turn = asyncio.Lock()  # one at a time: each holds a key-value cache of its own

    async def start(self) -> None:
        """Load the weights."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._load)

    async def close(self) -> None:
        """Drop the model."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._model = None

    @property
    def dead(self) -> bool:
        """Never by itself: a failure here is an exception of the job that met it."""
        return False

    async def represent(self, job: Job) -> Representation:
        """Answer one job."""
        async with aclosing(self._stream(job)) as items, self._turn:
            async for item in items:
                if isinstance(item, Representation):
                    return item
        raise EngineError("generation ended without a representation")

    async def stream(self, job: Job) -> AsyncIterator[Delta | Representation]:
        """Pieces of the rationale, then the representation. Leaving the iteration stops the generation."""
        async with aclosing(self._stream(job)) as items, self._turn:
            async for item in items:
                yield item

    async def _stream(self, job: Job) -> AsyncGenerator[Delta | Representation, None]:
        loop = asyncio.get_running_loop()
        decoder = self._prompter.decoder()
        steps = self._steps(job)
        try:
            while True:
                item = await loop.run_in_executor(self._thread, next, steps)
                if isinstance(item, Representation):
                    yield item
                    return
                if item not in self._prompter.stop_ids and (piece := decoder.step(item)):
                    yield piece
        finally:
            with suppress(RuntimeError):  # the engine is closed, and the generator goes with it
                self._thread.submit(steps.close)

    def _load(self) -> None:
        from transformers import AutoModelForCausalLM

        weights.check(self._checkpoint)
        try:
            model, told = AutoModelForCausalLM.from_pretrained(
                str(self._checkpoint.folder),
                dtype="auto" if self._dtype == "auto" else getattr(torch, self._dtype),
                output_loading_info=True,
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise CheckpointError(f"{self._checkpoint.name}: the weights do not load: {error}") from error
        if told["missing_keys"]:  # of a model that the check passes over; Transformers would make them up
            raise CheckpointError(f"{self._checkpoint.folder}: {weights.lack(told['missing_keys'])}")
        self._model = model.to(self._device).eval()
        self._model.base_model.register_forward_hook(self._keep_states)
        if "logits_to_keep" in inspect.signature(self._model.forward).parameters:
            self._last_logits_alone = {"logits_to_keep": 1}

    @torch.inference_mode()
    def _forward(self, ids: list[int], cache: Any) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """States (T, H) after the final norm, of `ids` following what `cache` holds, and the last one's logits (V,).

        The whole model runs, not its head on a state: some families scale their logits in between, or cap them.
        """
        output = self._model(
            input_ids=torch.tensor([ids], device=self._device),
            past_key_values=cache,
            use_cache=True,
            **self._last_logits_alone,
        )
        return self._states, output.logits[0, -1], output.past_key_values

    def _keep_states(self, base_model: Any, given: Any, output: Any) -> None:
        self._states = output.last_hidden_state[0]

    def _steps(self, job: Job) -> Generator[int | Representation, None, None]:
        """Sampled ids one by one, then the representation."""
        states, logits, cache = self._forward(list(job.prompt_ids), None)
        pooled = [states[job.pooled_from :].float()]
        generated: list[int] = []
        while len(generated) < job.max_new_tokens:
            generated.append(_sample(logits, job.temperature))
            yield generated[-1]
            if generated[-1] in self._prompter.stop_ids or len(generated) == job.max_new_tokens:
                break
            states, logits, cache = self._forward([generated[-1]], cache)
            pooled.append(states.float())
        yield assemble_states(job, self._prompter, generated=tuple(generated), states=torch.cat(pooled).cpu().numpy())


@torch.inference_mode()
def _sample(logits: torch.Tensor, temperature: float) -> int:
    if temperature == 0:
        return int(logits.argmax())
    # Less the largest, and over no less than float32 holds: near 0, what is divided would be infinite or no number.
    below = (logits.float() - logits.max()) / max(temperature, torch.finfo(torch.float32).tiny)
    return int(torch.multinomial(torch.softmax(below, dim=-1), 1))
