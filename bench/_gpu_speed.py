"""Speed of the one-pass engine beside plain generation and beside two steps: parts of `gpu.py`."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench._gpu_engines import runner, start_one_pass, start_plain
from bench._parts import Asked
from bench._shared import WORDS, ratios, with_interval

TOKENS_AT_ONCE = 16_384  # of the second step, in one forward
SHAPE_1B5 = {  # Qwen2.5-1.5B
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
    "max_position_embeddings": 4096,
}
SHAPE_SMALL = SHAPE_1B5 | {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 16_384,
    "max_position_embeddings": 1024,
}


async def speed(asked: Asked) -> None:
    """At the bundled model: rationales end by themselves, after some 30 tokens."""
    from grace.checkpoint import Checkpoint

    await compare(asked, Checkpoint.load(), texts=24 if asked.small else 1024, words=20, tokens=48)


async def speed_1b5(asked: Asked) -> None:
    """At the shape of Qwen2.5-1.5B, weights made up: rationales have the length of their budget."""
    from grace.checkpoint import Checkpoint

    with tempfile.TemporaryDirectory() as folder:
        made_up(Path(folder), SHAPE_SMALL if asked.small else SHAPE_1B5)
        tokens = 16 if asked.small else 128
        await compare(asked, Checkpoint.load(folder), texts=8 if asked.small else 256, words=100, tokens=tokens)


def made_up(folder: Path, shape: dict[str, Any]) -> None:
    """The bundled tokenizer and template around a config of another shape, with a file of weights that nobody reads."""
    import torch
    from safetensors.torch import save_file

    from grace import checkpoint

    # Its weights are not asked for: this part runs where they were left behind.
    for file in (Path(checkpoint.__file__).parent / "models" / checkpoint.BUNDLED_NAME).iterdir():
        if file.suffix in (".json", ".jinja"):
            shutil.copy(file, folder)
    config = json.loads((folder / "config.json").read_text())
    layers = ["full_attention"] * shape["num_hidden_layers"]
    (folder / "config.json").write_text(json.dumps(config | shape | {"layer_types": layers}))
    settings = json.loads((folder / "grace.json").read_text())
    (folder / "grace.json").write_text(json.dumps(settings | {"max_input_tokens": 512, "max_rationale_tokens": 128}))
    save_file({"nothing": torch.zeros(1)}, folder / "model.safetensors")


async def compare(asked: Asked, checkpoint: Any, *, texts: int, words: int, tokens: int) -> None:
    import torch

    from bench.one_pass import generate, stop
    from grace.prompt import Prompter

    device = "cuda" if torch.cuda.is_available() else "cpu"
    prompter = Prompter(checkpoint)
    start = time.perf_counter()
    one_pass, plain = await asyncio.gather(
        start_one_pass(checkpoint, prompter, asked), asyncio.to_thread(start_plain, checkpoint, prompter, asked)
    )
    asked.figures(start_s=time.perf_counter() - start, runner=runner(one_pass))
    second = load_second(checkpoint, device, asked.part.dtype)
    rounds = 2 if asked.small else 6

    async def throughput() -> None:
        seconds: dict[str, list[float]] = {"plain": [], "one_pass": [], "two_step": []}
        second_step: list[float] = []
        written = 0
        for number in range(rounds + 2):
            if number == 2:  # the first two warm up
                seconds, second_step, written = {arm: [] for arm in seconds}, [], 0
            for arm in [*seconds][number % 3 :] + [*seconds][: number % 3]:
                batch = sentences(texts, words, seed=f"{arm} {number}")
                jobs = [prompter.job(text, max_rationale_tokens=tokens) for text in batch]
                begun = time.perf_counter()
                if arm == "one_pass":
                    made = await asyncio.gather(*(one_pass.represent(job) for job in jobs))
                    vectors = [one.vector() for one in made]
                    written += sum(one.completion_tokens for one in made)
                else:
                    ids = await generate(plain, prompter, jobs)
                    if arm == "two_step":
                        between = time.perf_counter()
                        vectors = encode(second, device, jobs, ids)
                        second_step.append(time.perf_counter() - between)
                seconds[arm].append(time.perf_counter() - begun)
            assert len(vectors) == texts
            if done := len(seconds["plain"]) if number >= 2 else 0:
                told(seconds, second_step, written / done, done)

    def told(seconds: dict[str, list[float]], second_step: list[float], written: float, done: int) -> None:
        # After each round: what is stopped by its limit of time leaves those that it had.
        asked.figures(
            **{f"{arm}_texts_per_s": texts / statistics.median(times) for arm, times in seconds.items()},
            **with_interval("one_pass_vs_plain", ratios(seconds["plain"], seconds["one_pass"])),
            **with_interval("one_pass_vs_two_step", ratios(seconds["two_step"], seconds["one_pass"])),
            second_step_s=statistics.median(second_step),
            arm_seconds={arm: statistics.median(times) for arm, times in seconds.items()},
            tokens_written_per_s=written * done / sum(seconds["one_pass"]),
            rationale_tokens_mean=written / texts,
            texts=texts,
            words=words,
            rounds=done,
        )

    async def latency() -> None:
        waited: dict[str, list[float]] = {"plain": [], "one_pass": []}
        gaps, lasts = [], []
        for number, text in enumerate(sentences(4 if asked.small else 10, words, seed="alone")):
            for arm in [*waited][:: 1 if number % 2 else -1]:
                job = prompter.job(f"{arm[0]}{text}", max_rationale_tokens=tokens)
                begun = time.perf_counter()
                if arm == "one_pass":
                    (await one_pass.represent(job)).vector()
                else:
                    await generate(plain, prompter, [job])
                waited[arm].append(time.perf_counter() - begun)
            times = await moments(one_pass, prompter.job(f"s{text}", max_rationale_tokens=tokens))
            gaps += [b - a for a, b in itertools.pairwise(times[1:-1])]
            lasts.append(times[-1] - times[-2])
        asked.figures(
            **{f"alone_{arm}_ms": 1000 * statistics.median(times) for arm, times in waited.items()},
            **with_interval("alone_one_pass_vs_plain", ratios(waited["plain"], waited["one_pass"])),
            step_ms_p50=1000 * statistics.median(gaps) if gaps else None,
            last_step_to_vector_ms_p50=1000 * statistics.median(lasts),
            last_step_to_vector_ms_max=1000 * max(lasts),
        )

    await throughput()
    await latency()
    asked.figures(at_the_end=await one_pass.diagnostics())
    stop(plain)
    await one_pass.close()


def sentences(count: int, words: int, *, seed: str) -> list[str]:
    """Texts of about so many words, other ones for another seed: a prefix cache knows none of them."""
    rng = random.Random(seed)
    return [
        f"{i} {seed} " + " ".join(rng.choices(WORDS, k=rng.randint(words * 3 // 4, words * 5 // 4))) + "."
        for i in range(count)
    ]


async def moments(engine: Any, job: Any) -> list[float]:
    """When each of a streamed request's steps was heard of; at last, when its vector was there."""
    heard: list[float] = []
    original = engine._engine.generate

    async def listening(*arguments: Any, **named: Any) -> Any:
        async for output in original(*arguments, **named):
            heard.append(time.perf_counter())
            yield output

    engine._engine.generate = listening
    try:
        async for item in engine.stream(job):
            if not isinstance(item, str):
                item.vector()
                heard[-1] = time.perf_counter()  # the last step's news, and the vector with it
    finally:
        engine._engine.generate = original
    return heard


def load_second(checkpoint: Any, device: str, dtype: str) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind = getattr(torch, dtype)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(str(checkpoint.folder)), dtype=kind)
    return model.eval().base_model


def encode(model: Any, device: str, jobs: Sequence[Any], written: Sequence[Sequence[int]]) -> list[Any]:
    """The mean states of prompt + rationale, by a second forward; the longest texts first, together."""
    import torch

    sequences = [[*job.prompt_ids, *ids] for job, ids in zip(jobs, written, strict=True)]
    order = sorted(range(len(jobs)), key=lambda i: -len(sequences[i]))
    vectors: dict[int, Any] = {}
    while order:
        width = len(sequences[order[0]])
        part, order = order[: max(1, TOKENS_AT_ONCE // width)], order[max(1, TOKENS_AT_ONCE // width) :]
        ids = torch.tensor([sequences[i] + [0] * (width - len(sequences[i])) for i in part]).to(device)
        lengths = torch.tensor([len(sequences[i]) for i in part]).to(device)
        firsts = torch.tensor([jobs[i].pooled_from for i in part]).to(device)
        places = torch.arange(width, device=device)
        real = places < lengths[:, None]
        pooled = real & (places >= firsts[:, None])
        with torch.inference_mode():
            states = model(input_ids=ids, attention_mask=real.long(), use_cache=False).last_hidden_state
            means = (states.float() * pooled[..., None]).sum(dim=1) / pooled.sum(dim=1, keepdim=True)
            means = torch.nn.functional.normalize(means, dim=1)
        vectors |= zip(part, means.cpu().numpy(), strict=True)
    return [vectors[i] for i in range(len(jobs))]
