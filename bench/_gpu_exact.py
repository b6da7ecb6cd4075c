"""Exactness of the one-pass engine, part by part of `gpu.py`: every sum against a float32 Transformers forward."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from typing import Any

from bench._gpu_engines import runner, start_one_pass
from bench._parts import Asked
from bench._shared import WORDS


async def exact(asked: Asked) -> None:
    import torch

    from grace.checkpoint import Checkpoint
    from grace.prompt import Prompter

    device = "cuda" if torch.cuda.is_available() else "cpu"
    checkpoint = Checkpoint.load()
    prompter = Prompter(checkpoint)
    start = time.perf_counter()
    engine = await start_one_pass(checkpoint, prompter, asked, max_num_seqs=asked.part.options.get("max_num_seqs", 64))
    asked.figures(start_s=time.perf_counter() - start, runner=runner(engine))
    oracle = Oracle(checkpoint, device, asked.part.dtype)
    jobs = exact_jobs(prompter, 24 if asked.small else 160)
    made = await asyncio.gather(*(engine.represent(job) for job in jobs))
    asked.figures(**oracle.judge(jobs, made), **await engine.diagnostics())
    again = await asyncio.gather(*(engine.represent(job) for job in jobs))
    asked.figures(**repeated(jobs, made, again))
    asked.figures(**await cancelled(engine, prompter, oracle, jobs, made))
    asked.figures(**await streamed_and_probed(engine, oracle, jobs[:12]))
    asked.figures(at_the_end=await engine.diagnostics())
    await engine.close()


def exact_jobs(prompter: Any, count: int) -> list[Any]:
    """Texts of 1 to 600 words, short ones most, as queries and documents, with budgets of 1 token to the longest."""
    rng, jobs = random.Random(0), []
    for i in range(count):
        words = rng.choice((1, 3, 8, 20, 20, 60, 60, 200, 600))
        text = f"{i} " + " ".join(rng.choice(WORDS) + rng.choice(("", "", "", ",", ".")) for _ in range(words))
        chosen: dict[str, Any] = {"role": rng.choice(("query", "document"))}
        if i % 4 == 3:
            chosen["mode"] = "direct"
        elif i % 4 == 2:
            chosen |= {"max_rationale_tokens": 1 + i % 40, "temperature": 1.0}
        elif i % 16 == 0:
            chosen["max_rationale_tokens"] = prompter.max_rationale_tokens
        jobs.append(prompter.job(text, **chosen))
    return jobs


class Oracle:
    """Plain Transformers forwards in float32, and in the engine's type for what rounding alone does."""

    def __init__(self, checkpoint: Any, device: str, dtype: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self.device, self.dtype = device, dtype
        self.models = {
            kind: AutoModelForCausalLM.from_pretrained(str(checkpoint.folder), dtype=getattr(torch, kind))
            .to(device)
            .eval()
            for kind in {"float32", dtype}
        }

    def states(self, job: Any, got: Any, kind: str = "float32") -> Any:
        """(T, H) float64 states of the pooled positions."""
        import torch

        written = got.rationale.token_ids if got.rationale and job.max_new_tokens else ()
        ran = written if not written or got.rationale.finish_reason == "stop" else written[:-1]
        with torch.inference_mode():
            ids = torch.tensor([[*job.prompt_ids, *ran]], device=self.device)
            return self.models[kind].base_model(ids).last_hidden_state[0].double().cpu().numpy()[job.pooled_from :]

    def judge(self, jobs: Sequence[Any], made: Sequence[Any]) -> dict[str, Any]:
        """How far vectors, segment sums and last states are from the oracle's. Counts are exact, or there is an error
        before: `represent` refuses others.
        """
        import numpy as np

        vectors, errors, segments, totals, lasts, rounding = [], [], [], [], [], []
        for job, got in zip(jobs, made, strict=True):
            states = self.states(job, got)
            mine, right = got.vector("mean").astype(np.float64), unit(states.mean(axis=0))
            vectors.append(1 - mine @ right / np.linalg.norm(mine))
            errors.append(np.abs(mine - right).max())
            sums = [one.sum(axis=0) for one in np.split(states, np.cumsum(got.counts)[:-1])]
            segments += [distance(a, b) for a, b in zip(got.sums, sums, strict=True)]
            totals.append(distance(got.sums.sum(axis=0, dtype=np.float64), states.sum(axis=0)))
            lasts.append(distance(got.last, states[-1]))
            if self.dtype != "float32":
                rounding.append(1 - unit(self.states(job, got, self.dtype).mean(axis=0)) @ right)
        reasons = [one.rationale.finish_reason for one in made if one.rationale]
        figures = {
            "texts": len(jobs),
            "rationales": len(reasons),
            "ended_by_themselves": reasons.count("stop"),
            "states_pooled": sum(one.pooled_tokens for one in made),
            "segments": len(segments),
            "one_minus_cosine_max": max(vectors),
            "one_minus_cosine_median": statistics.median(vectors),
            "unit_vector_error_max": max(errors),
            "segment_sum_error_max": max(segments),
            "sum_of_segments_error_max": max(totals),
            "last_state_error_max": max(lasts),
        }
        if rounding:
            figures |= {
                "rounding_one_minus_cosine_max": max(rounding),
                "rounding_one_minus_cosine_median": statistics.median(rounding),
            }
        return {key: float(value) if not isinstance(value, int) else value for key, value in figures.items()}


def unit(vector: Any) -> Any:
    import numpy as np

    return vector / np.linalg.norm(vector)


def distance(a: Any, b: Any) -> float:
    """|a - b| / |b|."""
    import numpy as np

    return float(np.linalg.norm(np.asarray(a, np.float64) - b) / np.linalg.norm(b))


def repeated(jobs: Sequence[Any], made: Sequence[Any], again: Sequence[Any]) -> dict[str, Any]:
    """The same texts a second time, sampled ones left out."""
    import numpy as np

    pairs = [(a, b) for job, a, b in zip(jobs, made, again, strict=True) if job.temperature == 0]
    same = [(a, b) for a, b in pairs if ids_of(a) == ids_of(b)]
    return {
        "greedy_texts": len(pairs),
        "same_rationale_again": len(same),
        "same_bits_again": sum(a.sums.tobytes() == b.sums.tobytes() for a, b in same),
        "again_error_max": max(float(np.abs(a.vector() - b.vector()).max()) for a, b in same),
    }


def ids_of(representation: Any) -> Any:
    return representation.rationale and representation.rationale.token_ids


async def cancelled(
    engine: Any, prompter: Any, oracle: Oracle, jobs: Sequence[Any], made: Sequence[Any]
) -> dict[str, Any]:
    """End every third request midway: the others stay right, and nothing is held afterwards."""
    tasks = [asyncio.create_task(engine.represent(job)) for job in jobs]
    ended = 0
    for task in tasks[::3]:
        await asyncio.sleep(0.002)
        ended += task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    kept = [(job, one) for job, one in zip(jobs, answers, strict=True) if not isinstance(one, BaseException)]
    broken = [one for one in answers if isinstance(one, Exception)]
    if broken:
        raise broken[0]
    await engine.represent(prompter.job("one more step"))
    for _ in range(50):
        if not (held := (await engine.diagnostics())["held"]):
            break
        await asyncio.sleep(0.1)
    sample = kept[::4]
    found = oracle.judge([job for job, _ in sample], [one for _, one in sample])
    return {
        "cancelled": ended,
        "held_after_cancelling": held,
        "beside_cancelled_one_minus_cosine_max": found["one_minus_cosine_max"],
        "beside_cancelled_segment_sum_error_max": found["segment_sum_error_max"],
    }


async def streamed_and_probed(engine: Any, oracle: Oracle, jobs: Sequence[Any]) -> dict[str, Any]:
    """Streams end in the same states; a probe meets each of them."""
    import numpy as np

    from grace.representation import replay, written_ids

    async def last_of(job: Any) -> Any:
        return [item async for item in engine.stream(job)][-1]

    streamed = await asyncio.gather(*(last_of(job) for job in jobs))
    found = oracle.judge(jobs, streamed)
    probe = np.random.default_rng(0).standard_normal(streamed[0].sums.shape[1]).astype(np.float32)
    again = [replay(job, written_ids(job, one), one.segments, probe) for job, one in zip(jobs, streamed, strict=True)]
    dots = [one.dots for one in await asyncio.gather(*(engine.represent(job) for job in again))]
    right = [oracle.states(job, one) @ probe for job, one in zip(jobs, streamed, strict=True)]
    return {
        "streamed_one_minus_cosine_max": found["one_minus_cosine_max"],
        "probe_error_max": max(distance(a, b) for a, b in zip(dots, right, strict=True)),
    }
