"""One pass against plain generation and against the two-model pipeline: speed, memory, delay of the vector.

Three arms, interleaved:
  plain      vLLM writes rationales, nothing is pooled
  one pass   vLLM writes them and the states are summed in the same pass (ours)
  two model  vLLM writes them, then a Transformers copy of the model runs prompt + rationale again, in batches of 16
             with `output_hidden_states=True`, and their mean is pooled: what the paper's released evaluation does

Peak memory is that of fresh processes that run one arm each (the whole process tree's, less what the imports take).
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)  # this folder would shadow the standard library's http

import asyncio
import json
import resource
import statistics
import subprocess
import time
from typing import Any

from bench._shared import arguments, median_ratio, model_100m, report, texts

KV_GIB = 0.5
BATCH = 16


def main() -> None:
    options = arguments(__doc__ or "", texts=32, rounds=5, tokens=48, arm="", folder="")
    if options.arm:
        print(json.dumps(asyncio.run(peak_memory(options.arm, Path(options.folder), options.texts, options.tokens))))
        return
    with model_100m() as folder:
        figures = asyncio.run(speed(folder, options.texts, options.rounds, options.tokens))
        for arm in ("one_pass", "two_model"):
            command = [sys.executable, __file__, "--arm", arm, "--folder", str(folder)]
            command += ["--texts", str(options.texts), "--tokens", str(options.tokens)]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            figures[f"{arm}_peak_mib"] = json.loads(output.splitlines()[-1])
    figures["memory_vs_two_model"] = figures["one_pass_peak_mib"] / figures["two_model_peak_mib"]
    report(figures, options.json)


async def speed(folder: Path, count: int, rounds: int, tokens: int) -> dict[str, Any]:
    from grace.checkpoint import Checkpoint
    from grace.prompt import Prompter

    checkpoint = Checkpoint.load(folder)
    prompter = Prompter(checkpoint)
    jobs = [prompter.job(text, max_rationale_tokens=tokens) for text in texts(count)]
    one_pass, delays = await start_one_pass(checkpoint, prompter, count)
    plain, reference = await start_plain(checkpoint, prompter, count), load_reference(folder)
    seconds: dict[str, list[float]] = {"plain": [], "one_pass": [], "two_model": []}
    for number in range(rounds + 1):
        if number == 1:  # the first round warms up
            delays.clear()
            seconds = {arm: [] for arm in seconds}
        # The order turns with the rounds, so that no arm always comes after the same other.
        for arm in [*seconds][number % 3 :] + [*seconds][: number % 3]:
            start = time.perf_counter()
            match arm:
                case "plain":
                    await generate(plain, prompter, jobs)
                case "one_pass":
                    await asyncio.gather(*(vector(one_pass, job) for job in jobs))
                case "two_model":
                    encode_again(reference, jobs, await generate(plain, prompter, jobs))
            seconds[arm].append(time.perf_counter() - start)
    plain.shutdown()
    await one_pass.close()
    return {
        **{f"{arm}_texts_per_s": count / statistics.median(times) for arm, times in seconds.items()},
        "one_pass_vs_plain": median_ratio(seconds["plain"], seconds["one_pass"]),
        "one_pass_vs_two_model": median_ratio(seconds["two_model"], seconds["one_pass"]),
        "vector_delay_ms_p50": 1000 * statistics.median(delays),
        "vector_delay_ms_p99": 1000 * statistics.quantiles(delays, n=100)[98],
        "texts": count,
        "rounds": rounds,
        "rationale_tokens": tokens,
    }


async def peak_memory(arm: str, folder: Path, count: int, tokens: int) -> float:
    """MiB above the imports, of this process and the engine's, after two rounds of one arm."""
    import torch  # noqa: F401
    import vllm.v1.engine.async_llm  # noqa: F401

    from grace.checkpoint import Checkpoint
    from grace.prompt import Prompter

    # The engine's process imports the same again.
    imports = 2 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    checkpoint = Checkpoint.load(folder)
    prompter = Prompter(checkpoint)
    jobs = [prompter.job(text, max_rationale_tokens=tokens) for text in texts(count)]
    if arm == "one_pass":
        one_pass, _ = await start_one_pass(checkpoint, prompter, count)
        for _ in range(2):
            await asyncio.gather(*(vector(one_pass, job) for job in jobs))
        peak = peak_kib_of_tree()
        await one_pass.close()
    else:
        plain, reference = await start_plain(checkpoint, prompter, count), load_reference(folder)
        for _ in range(2):
            encode_again(reference, jobs, await generate(plain, prompter, jobs))
        peak = peak_kib_of_tree()
        plain.shutdown()
    return (peak - imports) / 1024


def peak_kib_of_tree() -> int:
    import psutil

    me = psutil.Process()
    status = [Path(f"/proc/{p.pid}/status").read_text() for p in [me, *me.children(recursive=True)]]
    peaks = [line.split() for text in status for line in text.splitlines() if line.startswith("VmHWM")]
    return sum(int(kib) for _, kib, _ in peaks)


async def start_one_pass(checkpoint: Any, prompter: Any, batch: int) -> tuple[Any, list[float]]:
    from grace.engines.vllm import VllmEngine, VllmOptions

    delays: list[float] = []

    class Timed(VllmEngine):
        """Notes how long after the last token its vector is there."""

        def _representation(self, *arguments: Any) -> Any:
            start = time.perf_counter()
            answer = super()._representation(*arguments)
            answer.vector()
            delays.append(time.perf_counter() - start)
            return answer

    engine = Timed(checkpoint, prompter, VllmOptions(dtype="float32", max_num_seqs=batch, kv_cache_gib=KV_GIB))
    await engine.start()
    return engine, delays


async def start_plain(checkpoint: Any, prompter: Any, batch: int) -> Any:
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    from grace.engines.vllm import VllmEngine, VllmOptions, prepare_environment

    on_cpu = prepare_environment()
    engine = VllmEngine(checkpoint, prompter, VllmOptions(dtype="float32", max_num_seqs=batch, kv_cache_gib=KV_GIB))
    # The same arguments as ours, with vLLM's own worker and scheduler.
    same = engine.engine_arguments(on_cpu)
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
