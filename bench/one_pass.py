"""One pass against plain generation and against the two-model pipeline: speed, memory, delay of the vector.

Three arms, interleaved:
  plain      vLLM writes rationales, nothing is pooled
  one pass   vLLM writes them and the states are summed in the same pass (ours)
  two model  vLLM writes them, then a Transformers copy of the model runs prompt + rationale again, in batches of 16
             with `output_hidden_states=True`, and their mean is pooled: what the paper's released evaluation does

Each round and arm has texts of its own, alike but for the first letter: plain generation would find a repeated prompt
in vLLM's prefix cache, where there are no states to pool.

Peak memory is the anonymous memory of fresh process trees that run one arm each. `*_process_mib` is all of it; the same
arm on a model of next to no size is subtracted for `*_peak_mib`, which leaves weights, key-value cache and activations,
and not what Python and its imports take in each process. `memory_vs_two_model` is the ratio of the latter.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)  # this folder would shadow the standard library's http

import asyncio
import subprocess
import time
from typing import Any

from bench._shared import arguments, least_of, model_100m, model_of_no_size, rates, ratios, report, texts, with_interval

KV_GIB = 0.3  # 80 blocks of 128 tokens: the 32 texts of a round take up to 71
BLOCK = 128  # tokens of a block of the cache, as vLLM has them on a CPU
BATCH = 16


def main() -> None:
    asked = arguments(__doc__ or "", texts=32, rounds=5, tokens=32, arm="", folder="")
    if asked.arm:
        asyncio.run(two_rounds(asked.arm, Path(asked.folder), asked.texts, asked.tokens))
        return
    with model_100m() as folder:
        figures = asyncio.run(speed(folder, asked.texts, asked.rounds, asked.tokens))
        with model_of_no_size() as nothing:
            for arm in ("one_pass", "two_model"):
                figures[f"{arm}_process_mib"] = peak_mib(arm, folder, asked.texts, asked.tokens)
                idle = peak_mib(arm, nothing, asked.texts, asked.tokens)
                figures[f"{arm}_peak_mib"] = figures[f"{arm}_process_mib"] - idle
    figures["memory_vs_two_model"] = figures["one_pass_peak_mib"] / figures["two_model_peak_mib"]
    report(figures, asked.json)


def peak_mib(arm: str, folder: Path, count: int, tokens: int) -> float:
    """Run one arm in processes of its own and watch their anonymous memory."""
    command = [sys.executable, __file__, "--arm", arm, "--folder", str(folder)]
    with subprocess.Popen([*command, "--texts", str(count), "--tokens", str(tokens)]) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, anonymous_kib(process.pid))
            time.sleep(0.05)
    if process.returncode:
        raise RuntimeError(f"the {arm} arm failed")
    return peak / 1024


def anonymous_kib(pid: int) -> int:
    import psutil

    total = 0
    try:
        root = psutil.Process(pid)
        for one in [root, *root.children(recursive=True)]:
            status = Path(f"/proc/{one.pid}/status").read_text()
            total += sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return 0  # one of them went while we looked
    return total


async def speed(folder: Path, count: int, rounds: int, tokens: int) -> dict[str, Any]:
    from grace.checkpoint import Checkpoint
    from grace.prompt import Prompter

    checkpoint = Checkpoint.load(folder)
    prompter = Prompter(checkpoint)
    one_pass, delays = await start_one_pass(checkpoint, prompter, count)
    plain, reference = await start_plain(checkpoint, prompter, count), load_reference(folder)
    seconds: dict[str, list[float]] = {"plain": [], "one_pass": [], "two_model": []}
    for number in range(rounds + 1):
        if number == 1:  # the first round warms up
            delays.clear()
            seconds = {arm: [] for arm in seconds}
        batch = texts(count, seed=number)
        # The order turns with the rounds, so that no arm always comes after the same other.
        for arm in [*seconds][number % 3 :] + [*seconds][: number % 3]:
            jobs = [prompter.job(f"{arm[0]}{text}", max_rationale_tokens=tokens) for text in batch]
            start = time.perf_counter()
            match arm:
                case "plain":
                    await generate(plain, prompter, jobs)
                case "one_pass":
                    await asyncio.gather(*(vector(one_pass, job) for job in jobs))
                case "two_model":
                    encode_again(reference, jobs, await generate(plain, prompter, jobs))
            seconds[arm].append(time.perf_counter() - start)
    stop(plain)
    await one_pass.close()
    return {
        **rates(seconds, count),
        **with_interval("one_pass_vs_plain", ratios(seconds["plain"], seconds["one_pass"])),
        **with_interval("one_pass_vs_two_model", ratios(seconds["two_model"], seconds["one_pass"])),
        **with_interval("vector_delay_ms_p50", [1000 * s for s in delays]),
        **with_interval("vector_delay_ms_p99", [1000 * s for s in delays], of=least_of(0.99)),
        "texts": count,
        "rounds": rounds,
        "rationale_tokens": tokens,
    }


async def two_rounds(arm: str, folder: Path, count: int, tokens: int) -> None:
    """One arm, twice, for whoever watches its memory."""
    from grace.checkpoint import Checkpoint
    from grace.prompt import Prompter

    checkpoint = Checkpoint.load(folder)
    prompter = Prompter(checkpoint)
    jobs = [prompter.job(text, max_rationale_tokens=tokens) for text in texts(count)]
    if arm == "one_pass":
        one_pass, _ = await start_one_pass(checkpoint, prompter, count)
        for _ in range(2):
            await asyncio.gather(*(vector(one_pass, job) for job in jobs))
        await one_pass.close()
    else:
        plain, reference = await start_plain(checkpoint, prompter, count), load_reference(folder)
        for _ in range(2):
            encode_again(reference, jobs, await generate(plain, prompter, jobs))
        stop(plain)


def stop(llm: Any) -> None:
    llm.shutdown()
    llm.shutdown = lambda timeout=None: None  # its finaliser calls it again, after the interpreter's end


def options(batch: int, kv_gib: float = KV_GIB) -> Any:
    """The same for both of vLLM's arms; with its own key-value blocks, since only ours can read smaller ones."""
    from grace.engines.vllm import VllmOptions

    return VllmOptions(dtype="float32", max_num_seqs=batch, kv_cache_gib=kv_gib, extra={"block_size": BLOCK})


async def start_one_pass(checkpoint: Any, prompter: Any, batch: int) -> tuple[Any, list[float]]:
    from grace.engines.vllm import VllmEngine

    delays: list[float] = []

    class Timed(VllmEngine):
        """Notes how long after the last token its vector is there."""

        def _representation(self, *arguments: Any) -> Any:
            start = time.perf_counter()
            answer = super()._representation(*arguments)
            answer.vector()
            delays.append(time.perf_counter() - start)
            return answer

    engine = Timed(checkpoint, prompter, options(batch))
    await engine.start()
    return engine, delays


async def start_plain(checkpoint: Any, prompter: Any, batch: int, kv_gib: float = KV_GIB) -> Any:
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    from grace.engines.vllm_start import arguments, prepare_environment

    # The same arguments as ours, with vLLM's own worker and scheduler.
    same = arguments(checkpoint, prompter, options(batch, kv_gib), on_cpu=prepare_environment())
    del same["worker_cls"], same["additional_config"]
    return AsyncLLM.from_engine_args(AsyncEngineArgs(**same, disable_log_stats=True))


def load_reference(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(str(folder)).eval()


async def vector(engine: Any, job: Any) -> Any:
    return (await engine.represent(job)).vector()


async def generate(llm: Any, prompter: Any, jobs: list[Any]) -> list[list[int]]:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    async def one(number: int, job: Any) -> list[int]:
        parameters = SamplingParams(
            temperature=0.0,
            max_tokens=job.max_new_tokens,
            ignore_eos=True,
            stop_token_ids=list(prompter.stop_ids),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        written: list[int] = []
        async for output in llm.generate(
            {"prompt_token_ids": list(job.prompt_ids)}, parameters, f"{time.time()}{number}"
        ):
            written = list(output.outputs[0].token_ids)
        return written

    return await asyncio.gather(*(one(i, job) for i, job in enumerate(jobs)))


def encode_again(model: Any, jobs: list[Any], written: list[list[int]]) -> list[Any]:
    import torch

    vectors: list[Any] = []
    sequences = [[*job.prompt_ids, *ids] for job, ids in zip(jobs, written, strict=True)]
    for start in range(0, len(jobs), BATCH):
        part = sequences[start : start + BATCH]
        longest = max(map(len, part))
        ids = torch.tensor([s + [0] * (longest - len(s)) for s in part])
        mask = torch.tensor([[1] * len(s) + [0] * (longest - len(s)) for s in part])
        with torch.inference_mode():
            states = model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[-1]
        for row, job, sequence in zip(states, jobs[start : start + BATCH], part, strict=True):
            vectors.append(torch.nn.functional.normalize(row[job.pooled_from : len(sequence)].mean(dim=0), dim=0))
    return vectors


if __name__ == "__main__":
    main()
