"""The worker that reads hidden states where they are: in vLLM's own forward pass.

Every step already computes the last layer's states for every token it runs. This subclass of vLLM's worker adds them
to `SegmentSums` (on a CPU to `HostSums`) between `execute_model` and `sample_tokens`, while the runner still holds the
step's tensors, and lets a finished request's sums ride on the step's output. The scheduler (`vllm_scheduler`) hands
them on with the request's last token. No second forward, no extra call. Facts about vLLM below were read and run in
0.26 (on a GPU) to 0.32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from vllm import __version__ as vllm_version
from vllm.platforms import current_platform
from vllm.v1.outputs import AsyncModelRunnerOutput, ModelRunnerOutput

from grace.engines import host_memory
from grace.engines.host_sums import HostSums
from grace.engines.probes import Probes
from grace.engines.segment_sums import Pooled, SegmentSums, Sums
from grace.streams import lose_what_cannot_be_written

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as Worker

    import grace.engines.vllm_cpu  # noqa: F401
else:
    from vllm.v1.worker.gpu_worker import Worker

CONFIG_KEY = "grace"  # in vLLM's additional_config: what the worker must know of the checkpoint
REQUEST_KEY = "grace"  # in a request's extra_args: start, then the segment ends of the prompt
PROBE_KEY = "grace_probe"  # there, too, if wanted: a vector whose inner products with the prompt's states are asked for
OUTPUT_ATTRIBUTE = "grace_sums"  # on ModelRunnerOutput: request id -> plain values that survive pickling and msgpack


class GraceWorker(Worker):
    """vLLM's worker, which also keeps segment sums."""

    _sums: SegmentSums | HostSums | None = None
    _probes: Probes
    _limits: dict[str, tuple[int, int]]  # request -> prompt tokens, max new tokens
    _reached: dict[str, int]  # request -> positions computed once the step in hand has run
    _resumed: int = 0
    _cached_tokens: int = 0
    _copies: torch.cuda.Stream | None = None  # beside the main stream, which holds the next step by the time we copy

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Load the weights and make room for the sums."""
        lose_what_cannot_be_written()  # bars follow, and on a full disk the first one would end this process
        super().load_model(*args, **kwargs)
        self._limits, self._reached = {}, {}
        if not self._holds_the_states():
            return
        self._sums = self._make_sums(self.vllm_config.additional_config[CONFIG_KEY])
        self._probes = Probes(self.device)
        if self.device.type == "cuda":
            self._copies = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        if isinstance(self._sums, SegmentSums) and vllm_version.startswith("0.26"):
            # There the room for the key-value cache is what the weights leave, so the sums must count as weights.
            self.model_runner.model_memory_usage += self._sums.nbytes

    def _make_sums(self, known: dict[str, Any]) -> SegmentSums | HostSums:
        return self._host_sums(known) if self.device.type == "cpu" else self._device_sums(known)

    def _host_sums(self, known: dict[str, Any]) -> HostSums:
        return HostSums(
            segments=known["segments"],
            rationale_segments=known["rationale_segments"],
            hidden_size=self.vllm_config.model_config.get_hidden_size(),
            stop_ids=known["stop_ids"],
            segment_end_ids=known["segment_end_ids"],
        )

    def _device_sums(self, known: dict[str, Any]) -> SegmentSums:
        model = self.vllm_config.model_config
        return SegmentSums(
            # Requests beyond the batch: pre-empted ones keep their slot, finished ones hold theirs for one step.
            slots=2 * self.vllm_config.scheduler_config.max_num_seqs + 8,
            segments=known["segments"],
            rationale_segments=known["rationale_segments"],
            hidden_size=model.get_hidden_size(),
            vocab_size=model.get_vocab_size(),
            stop_ids=known["stop_ids"],
            segment_end_ids=known["segment_end_ids"],
            device=self.device,
        )

    def execute_model(self, scheduler_output: Any) -> Any:
        """Run the step, then add its states to the sums of their requests."""
        output = super().execute_model(scheduler_output)
        if self._sums is not None:
            self._follow(scheduler_output)
            state = self.model_runner.execute_model_state
            if state is not None and scheduler_output.total_num_scheduled_tokens:
                self._add(state, scheduler_output.num_scheduled_tokens)
        return output

    def sample_tokens(self, grammar_output: Any) -> Any:
        """Sample, and attach the sums of the requests that end here."""
        output = super().sample_tokens(grammar_output)
        if self._sums is None:
            return output
        step = _Step(
            self._sums, self._probes.held(), dict(self._reached), dict(self._limits), self._stop_ids, self._copies
        )
        if isinstance(output, AsyncModelRunnerOutput):
            return _WithSums(output, step)
        if isinstance(output, ModelRunnerOutput):
            step.attach(output)
        return output

    def grace_refusal(self) -> str | None:
        """Why this model's states must not be pooled, or None. A collective call: every rank must make it."""
        model = self.vllm_config.model_config
        compute_logits = getattr(self.model_runner.model, "compute_logits", None)
        if compute_logits is None or not _is_last_stage():
            return None
        generator = torch.Generator().manual_seed(0)
        state = torch.randn(1, model.get_hidden_size(), generator=generator).to(self.device, model.dtype)
        return None if length_matters(compute_logits, state) else "its final norm sits after the states that vLLM keeps"

    def grace_diagnostics(self) -> dict[str, int]:
        """Requests that hold sums now; requests back from pre-emption and prefix tokens from the cache, so far."""
        held = self._sums.held if self._sums is not None else 0
        return {"held": held, "resumed": self._resumed, "cached_tokens": self._cached_tokens}

    def grace_give_back(self) -> bool:
        """Return memory that nothing uses to the system, between two steps."""
        return host_memory.give_back()

    @property
    def _stop_ids(self) -> frozenset[int]:
        return frozenset(self.vllm_config.additional_config[CONFIG_KEY]["stop_ids"])

    def _holds_the_states(self) -> bool:
        # The one rank whose output the executor returns: first of its tensor-parallel group, last pipeline stage.
        parallel = self.vllm_config.parallel_config
        return bool(self.rank % parallel.world_size == parallel.world_size - parallel.tensor_parallel_size)

    def _follow(self, scheduler_output: Any) -> None:
        """Take note of who comes, who goes, and how far each request will have run after this step."""
        assert self._sums is not None
        over: Iterable[str] = scheduler_output.finished_req_ids
        self._sums.release(list(over))
        self._probes.release(list(over))
        for key in over:
            self._limits.pop(key, None)
        self._reached.clear()
        scheduled: dict[str, int] = scheduler_output.num_scheduled_tokens
        new: dict[str, Pooled] = {}
        for request in scheduler_output.scheduled_new_reqs:
            extra = (request.sampling_params and request.sampling_params.extra_args) or {}
            spans = extra.get(REQUEST_KEY)
            if spans is None:
                continue  # vLLM's own warm-up
            prompt_tokens = len(request.prompt_token_ids)
            if PROBE_KEY in extra:
                self._probes.admit(request.req_id, extra[PROBE_KEY], start=spans[0], prompt_tokens=prompt_tokens)
            new[request.req_id] = Pooled(spans[0], prompt_tokens, tuple(spans[1:]))
            self._limits[request.req_id] = (prompt_tokens, request.sampling_params.max_tokens)
            self._cached_tokens += request.num_computed_tokens
            self._reached[request.req_id] = request.num_computed_tokens + scheduled.get(request.req_id, 0)
        cached = scheduler_output.scheduled_cached_reqs
        # Model runner V1 brings a pre-empted request back among the cached ones, V2 among the new ones.
        self._resumed += self._sums.admit(new) + len(cached.resumed_req_ids)
        for key, computed in zip(cached.req_ids, cached.num_computed_tokens, strict=True):
            self._reached[key] = computed + scheduled.get(key, 0)

    def _add(self, state: Any, scheduled: dict[str, int]) -> None:
        assert self._sums is not None
        if hasattr(state, "input_batch"):  # model runner V2 keeps the step's layout with the step
            order = state.input_batch.req_ids
            positions, input_ids = state.input_batch.positions, state.input_batch.input_ids
        else:
            runner = self.model_runner
            order = runner.input_batch.req_ids
            positions, input_ids = _on_device(runner.positions), _on_device(runner.input_ids)
        # The runner's order, never the scheduler's: rows lie as the runner laid them.
        rows = [(key, scheduled[key]) for key in order if key in scheduled]
        self._sums.add(state.hidden_states, positions, input_ids, rows)
        self._probes.add(state.hidden_states, positions, rows)


class _Step:
    """One step's requests, kept until its tokens are on the host: only then is it known who ended."""

    def __init__(
        self,
        sums: SegmentSums | HostSums,
        dots: dict[str, torch.Tensor],
        reached: dict[str, int],
        limits: dict[str, tuple[int, int]],
        stop_ids: frozenset[int],
        copies: torch.cuda.Stream | None,
    ) -> None:
        self._sums, self._dots, self._reached, self._limits, self._stop_ids = sums, dots, reached, limits, stop_ids
        self._copies = copies
        self._added: Any = None
        if copies is not None:
            self._added = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._added.record()

    def attach(self, output: ModelRunnerOutput) -> None:
        """Put the sums of ended requests on the output."""
        ended = [
            key
            for key, sampled in zip(output.req_ids, output.sampled_token_ids, strict=False)
            if len(sampled) and self._ends(key, int(sampled[-1]))
        ]
        if not ended:
            return  # the output may be a shared empty one: leave it alone
        if self._copies is None:
            read = self._read(ended)
        else:
            with torch.cuda.stream(self._copies):
                self._copies.wait_event(self._added)
                read = self._read(ended)
        setattr(output, OUTPUT_ATTRIBUTE, read)

    def _read(self, keys: list[str]) -> dict[str, dict[str, Any]]:
        read = {key: _plain(sums) for key, sums in self._sums.read(keys).items()}
        for key in read.keys() & self._dots.keys():
            read[key]["dots"] = self._dots[key].cpu().numpy().tobytes()
        return read

    def _ends(self, key: str, token: int) -> bool:
        """The rule of vLLM, for the requests our front end makes: a stop id, or the budget spent."""
        if key not in self._limits or key not in self._reached:
            return False
        prompt_tokens, max_tokens = self._limits[key]
        return token in self._stop_ids or self._reached[key] - prompt_tokens + 1 >= max_tokens


class _WithSums(AsyncModelRunnerOutput):
    """An output still on the device, to which the sums are attached when it arrives."""

    def __init__(self, inner: AsyncModelRunnerOutput, step: _Step) -> None:
        self._inner, self._step = inner, step

    def get_output(self) -> ModelRunnerOutput:
        output = self._inner.get_output()
        self._step.attach(output)
        return output


@torch.inference_mode()
def length_matters(compute_logits: Callable[[torch.Tensor], torch.Tensor | None], state: torch.Tensor) -> bool:
    """Whether a longer state (1, H) gives other logits. If not, a norm stands between the two: the state is not normed.

    Models norm in their own forward pass and `compute_logits` is the head alone, but some few norm inside it.
    """
    once, eightfold = compute_logits(state), compute_logits(8 * state)
    if once is None or eightfold is None:  # ranks that do not gather the logits
        return True
    return not torch.allclose(once.float(), eightfold.float(), rtol=1e-2, atol=1e-3)


def _plain(sums: Sums) -> dict[str, Any]:
    # Bytes pass through msgpack as they are; arrays do not.
    return {"sums": sums.sums.numpy().tobytes(), "counts": sums.counts.tolist(), "last": sums.last.numpy().tobytes()}


def _on_device(buffer: Any) -> torch.Tensor:
    # Some buffers are pairs of a host and a device tensor, which of them varies by version.
    tensor: torch.Tensor = getattr(buffer, "gpu", buffer)
    return tensor


def _is_last_stage() -> bool:
    from vllm.distributed import get_pp_group

    return bool(get_pp_group().is_last_rank)
