"""Third stage: the table of `words.py` built into the language model, which goes on writing what it wrote.

`python -m grace_training.tiny.widen` takes the pretrained weights, or those of a narrow checkpoint, and the table. The
stream gets W numbers more a token, which hold its word vector from the embedding to the final norm, as no layer writes
there yet: so the mean of the states is the language model's vector beside the mean of the word vectors, before any
further step. The head is no longer the embedding: a table that tells texts apart would predict each word to follow
itself.

H old width, W of the word vectors, V vocabulary.
"""

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from grace_training.tiny import loop, model
from grace_training.tiny.model import NARROW, WIDE
from grace_training.tiny.muon import Optimisers

log = logging.getLogger(__name__)

QUIET = 0.2  # norm of the word part against the rest of the embedding: so small that the layers' norms hardly feel it
SHARE = 0.9  # of the squared length of a state that its word part has, on average, after the final norm

ROWS, LENGTH = 8, 512  # of plain text, to see how long states are

Weights = dict[str, Tensor]


def widened(
    narrow: Weights,  # of the NARROW shape
    words: Tensor,  # (V, W)
    state_square: Tensor,  # () mean squared length of the last layer's states before the final norm
) -> Weights:
    """Weights of the WIDE shape that predict the same tokens, up to what QUIET moves the norms.

    Norms divide by the root of the mean over more numbers now, which their weights take back. New heads write nothing
    yet, and old ones keep the key-value head that they had.
    """
    H, W = NARROW.hidden, words.shape[1]
    embedding = narrow["model.embed_tokens.weight"]  # (V, H)
    quiet = QUIET * embedding.norm(dim=1).mean() / words.norm(dim=1).mean()
    wide = {"model.embed_tokens.weight": torch.cat([embedding, quiet * words], dim=1)}
    head = narrow.get("lm_head.weight", embedding)
    wide["lm_head.weight"] = torch.cat([head, torch.zeros(len(head), W)], dim=1)
    back = (H / (H + W)) ** 0.5
    for name, weight in narrow.items():
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            continue
        if name.endswith("norm.weight"):
            wide[name] = back * torch.cat([weight, weight.mean().expand(W) / QUIET])
        else:
            wide[name] = _larger(name, weight, W)
    # The final norm: divided by the length that states have, the word part comes out as SHARE of a state's square.
    word_square = (quiet * words).square().sum(dim=1).mean()
    kept = narrow["model.norm.weight"].square().mean() * H  # about what the old part's square is after the norm
    after = word_square / state_square * H  # and the word part's, under a weight of one
    loud = (SHARE / (1 - SHARE) * kept / after).sqrt()
    wide["model.norm.weight"][H:] = back * loud
    return wide


def spare_words(network: nn.Module) -> None:
    """Drop the gradients of a token's word vector, and of what would write over it or write from it.

    The final norm makes the word part thousands of times larger: one step of a layer that writes there, or of a head
    that reads it, is as large as those of other weights, and drowns what was there. So layers learn to read the word
    vectors, and what to add beside them.
    """
    for name, parameter in network.named_parameters():
        if parameter.grad is None:
            continue
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            parameter.grad[:, NARROW.hidden :] = 0
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            parameter.grad[NARROW.hidden :] = 0


def update(network: nn.Module, optimisers: Optimisers, factor: float) -> None:
    """One update from the gradients, at most of norm one, which leaves the word vectors as they are."""
    spare_words(network)
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimisers.step(factor)


def _larger(name: str, weight: Tensor, W: int) -> Tensor:
    """A layer's matrix or bias, with room for W numbers more and for the new heads.

    It starts with zeros there, which get a gradient all the same, since what they are multiplied by is not zero.
    """
    reads, writes = (0, W) if ".o_proj." in name or ".down_proj." in name else (W, 0)
    if ".q_proj." in name:
        weight = _with_heads(weight, dim=0, fill=0.02)
    elif ".o_proj." in name:
        weight = _with_heads(weight, dim=1, fill=0.0)
    if weight.ndim == 1:
        return weight
    return F.pad(weight, (0, reads, 0, writes))


def _with_heads(weight: Tensor, *, dim: int, fill: float) -> Tensor:
    """Query heads in groups of one key-value head each: new ones at the end of every group."""
    groups, more = NARROW.kv_heads, (WIDE.heads - NARROW.heads) // NARROW.kv_heads * WIDE.head_size
    parts = []
    for group in weight.chunk(groups, dim=dim):
        shape = list(group.shape)
        shape[dim] = more
        parts += [group, fill * torch.randn(shape)]
    return torch.cat(parts, dim=dim)


def state_square(marks: Tokenizer, weights: Weights, ids: Tensor) -> Tensor:
    """() mean squared length of the NARROW model's states before the final norm, over token ids [B, T]."""
    network = model.build(marks, NARROW)
    network.load_state_dict({**weights, "lm_head.weight": weights["model.embed_tokens.weight"]})
    found: list[Tensor] = []
    network.model.norm.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    with torch.inference_mode():
        model.states(network, ids)
    return found[0].square().sum(dim=-1).mean()


def _checkpoint(folder: Path) -> tuple[Weights, dict[str, Any]]:
    """Weights of an exported folder, and what its provenance says of how they were learned."""
    provenance = json.loads((folder / "grace.json").read_text(encoding="utf-8"))["provenance"]
    stages = {
        name: {
            "steps": steps,
            "minutes": provenance["minutes"][name],
            "device": provenance.get("devices", {}).get(name, "cpu"),
        }
        for name, steps in provenance["steps"].items()
    }
    weights = {name: weight.float() for name, weight in load_file(folder / "model.safetensors").items()}
    return weights, {"read": provenance["pretraining_tokens"], "stages": dict(reversed(stages.items()))}


def main() -> None:
    """Widen the narrow weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(".tiny"))
    parser.add_argument("--checkpoint", type=Path, help="a narrow checkpoint to widen, instead of `pretrain`'s weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--wait", action="store_true", help=loop.WAIT_HELP)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.manual_seed(options.seed)
    marks = Tokenizer.from_file(str(options.work / "tokenizer.json"))
    words = model.start(options.work, "words", wait=options.wait)
    if options.checkpoint is None:
        state = model.start(options.work, "pretrain", wait=options.wait)
        narrow, learned = state["model"], {"read": state["reading"]["read"], "stages": {"pretrain": model.spent(state)}}
    else:
        narrow, learned = _checkpoint(options.checkpoint)
    tokens = np.load(options.work / "tokens.npy")[: ROWS * LENGTH].astype(np.int64).reshape(ROWS, LENGTH)
    square = state_square(marks, narrow, torch.from_numpy(tokens))
    weights = widened(narrow, words["table"]["weight"], square)
    made = {"model": weights, "learned": learned, "step": 0, "spent_s": 0.0, "over": True}
    model.save_state(options.work / "widen.pt", made)
    log.info("widened to %d numbers a token", weights["model.norm.weight"].numel())


if __name__ == "__main__":
    main()
