"""The one-pass engine on a GPU: exactness against a float32 Transformers forward, and speed. `--list` names the parts.

    python bench/gpu.py --out FOLDER                    all parts
    python bench/gpu.py --out FOLDER float32 v1_float32   these
    python bench/gpu.py --out FOLDER --small            of next to no size: whether the script runs, on a CPU too

Exactness: every vector and segment sum of some hundred texts of mixed length (modes `reason` and `direct`, greedy and
sampled, long and short budgets) is held against a forward over exactly the token ids that were pooled. Parts differ in
numbers' type, in vLLM's model runner (V2 is its default, V1 the older one) and in what they force upon it: prompts in
pieces, pre-emption by a cache too small. Each also runs its texts twice, and ends a third of them midway.

Speed, three arms in turns, as in one_pass.py:
  plain      vLLM writes rationales, nothing is pooled
  one pass   vLLM writes them and the states are summed in the same pass (ours)
  two step   vLLM writes them, then Transformers runs prompt + rationale again, batches sorted by length
Then one request alone, and how long after the step before its last a vector is there. Last a training step beside
plain TRL's (train_step.py).

Each part has a process of its own, a log and a limit of time, so that none stops another. FOLDER/gpu.json is written
anew after each part, FOLDER/gpu.log grows; parts of exactness run a few at a time, those of speed alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[0] = str(ROOT)  # this folder would shadow the standard library's http

import argparse
import json
import os

from bench._gpu_engines import gpu
from bench._gpu_exact import exact
from bench._gpu_speed import speed, speed_1b5
from bench._gpu_train import train_step
from bench._parts import Part, Run, inside

V1 = {"VLLM_USE_V2_MODEL_RUNNER": "0"}
PIECES = {"max_num_batched_tokens": 128}
# A text of the bundled model's 1,024 positions takes 64 blocks of 16 tokens: a few texts fill these.
FEW_BLOCKS = {"kv_cache_blocks": 72, "max_num_seqs": 32}
DUMMY = {"extra": {"load_format": "dummy"}, "max_num_batched_tokens": 8192}

PARTS = {
    "float32": Part(exact, "exactness in float32"),
    "bfloat16": Part(exact, "exactness in bfloat16", "bfloat16"),
    "pieces": Part(exact, "prompts in pieces of 128 tokens", options=PIECES),
    "preemption": Part(exact, "a cache too small", options=FEW_BLOCKS),
    "both_bfloat16": Part(exact, "pieces and a cache too small", "bfloat16", options=PIECES | FEW_BLOCKS),
    "v1_float32": Part(exact, "exactness, model runner V1", environment=V1),
    "v1_bfloat16": Part(exact, "exactness in bfloat16, V1", "bfloat16", environment=V1),
    "v1_both": Part(exact, "pieces and a cache too small, V1", environment=V1, options=PIECES | FEW_BLOCKS),
    "tf32": Part(exact, "float32 with attention as it comes", environment={"TRITON_F32_DEFAULT": "tf32"}),
    "speed_1b5": Part(speed_1b5, "speed at Qwen2.5-1.5B's shape", "bfloat16", True, 240.0, options=DUMMY),
    "speed_tiny": Part(speed, "speed of grace-tiny", "bfloat16", True, 120.0, options={"max_num_batched_tokens": 8192}),
    "train_1b5": Part(train_step, "a training step beside TRL's at that shape", "bfloat16", True, 240.0),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="PART")
    parser.add_argument("--out", type=Path, help="folder of gpu.json and gpu.log")
    parser.add_argument("--at-once", type=int, default=4, help="parts of exactness at a time")
    parser.add_argument("--budget", type=float, default=570.0, help="seconds for all; what is not over then is ended")
    parser.add_argument("--small", action="store_true", help="tiny shapes and few texts")
    parser.add_argument("--eager", action="store_true", help="neither compiled nor as graphs, if that is what breaks")
    parser.add_argument("--extra", type=json.loads, default={}, help="more of vLLM's engine arguments, as JSON")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)  # a part's own process, and where figures go
    options = parser.parse_args()
    if options.list:
        print("\n".join(f"{name:20} {part.about}" for name, part in PARTS.items()))
        return 0
    if unknown := set(options.names) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if options.inside:
        # Triton's attention, the one for float32, would round its factors to TF32.
        os.environ.setdefault("TRITON_F32_DEFAULT", "ieee")
        inside(PARTS[options.names[0]], options)
        return 0
    if not options.out:
        parser.error("--out is needed")
    return Run(Path(__file__), PARTS, options, gpu=gpu()).all()


if __name__ == "__main__":
    sys.exit(main())
