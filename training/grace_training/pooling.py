"""Pooled states taken from passes that run anyway, by a forward hook on the backbone.

Three passes can give them: generation itself (a token's state is there one step later; the last token's never is, as
in serving), TRL's pass for log-probabilities, and the pass of the loss, where they carry a gradient. Positions are
known from token counts. N rows, P prompt width, C completion width, T = P + C, H hidden size.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from grace.errors import StateMismatch
from grace.pooling import Pooling
from grace.representation import Job

Span = tuple[int, int]  # first pooled position and the one after the last, in a sequence without padding


def prompt_tail(job: Job, pooling: Pooling) -> int:
    """How many of the prompt's last tokens are pooled: text and template under `mean`, none under `rationale`.

    Raises:
        ValueError: for `input`, whose vector no rationale can change: there is nothing to reward.
    """
    match pooling:
        case "mean" | "last":
            return len(job.prompt_ids) - job.pooled_from
        case "rationale":
            return 0
        case "input":
            raise ValueError("pooling 'input' leaves the rationale out: no rollout could earn a reward")


def pool_spans(
    states: Tensor,  # (N, T, H) last layer, after the final norm
    starts: Tensor,  # (N,) first pooled position
    ends: Tensor,  # (N,) the position after the last pooled one
    pooling: Pooling,
) -> Tensor:  # (N, H) float32
    """Mean of the states in [start, end), or the last of them; an empty span gives zero. Differentiable."""
    assert states.ndim == 3
    if pooling == "last":
        rows = torch.arange(len(states), device=states.device)
        return states[rows, (ends - 1).clamp(min=0)].float() * (ends > starts)[:, None]
    at = torch.arange(states.shape[1], device=states.device)
    inside = (at >= starts[:, None]) & (at < ends[:, None])  # (N, T)
    # As a matrix product the float32 copy of all states is never made in one piece per position. Under autocast, where
    # a hook is called, it would be one of bfloat16.
    with torch.autocast(states.device.type, enabled=False):
        summed = torch.einsum("nt,nth->nh", inside.float(), states.float())
    return summed / inside.sum(dim=1, keepdim=True).clamp(min=1)


class _Hook:
    """Listens to a backbone while it is entered."""

    def __init__(self, backbone: nn.Module) -> None:
        self._backbone = backbone
        self._handle: Any = None

    def __enter__(self) -> Self:
        self._handle = self._backbone.register_forward_hook(self._on_forward, with_kwargs=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._handle.remove()

    def _on_forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self.see(kwargs["input_ids"] if "input_ids" in kwargs else args[0], output[0])

    def see(self, input_ids: Tensor, states: Tensor) -> None:
        raise NotImplementedError


class GenerationPooler(_Hook):
    """Pools while `generate` runs with a cache: one pass over left-padded prompts, then one token per row and step."""

    def __init__(self, backbone: nn.Module, tails: list[int], stop_ids: tuple[int, ...], pooling: Pooling) -> None:
        super().__init__(backbone)
        self._tails, self._stop_ids, self._pooling = tails, stop_ids, pooling
        self._pooled: Tensor | None = None  # (N, H) float32: the sum, or the last state
        self._counts = self._alive = torch.empty(0)

    def see(self, input_ids: Tensor, states: Tensor) -> None:
        """Add what one step brought."""
        if self._pooled is None:
            if len(input_ids) != len(self._tails):
                raise StateMismatch(f"generation runs {len(input_ids)} rows, {len(self._tails)} were announced")
            tails, P = torch.tensor(self._tails, device=states.device), states.shape[1]
            mean = pool_spans(states, P - tails, torch.full_like(tails, P), self._pooling)
            self._counts, self._alive = tails, torch.ones_like(tails, dtype=torch.bool)
            self._pooled = mean if self._pooling == "last" else mean * tails[:, None]
            return
        if states.shape[1] != 1:
            raise StateMismatch(f"a step of generation brought {states.shape[1]} positions per row: a cache is needed")
        # A row's last token is fed on while other rows go on; its state is not the text's.
        stops = torch.tensor(self._stop_ids, device=input_ids.device)
        self._alive = self._alive & ~torch.isin(input_ids[:, -1], stops)
        step = states[:, 0].float()
        alive = self._alive[:, None]
        self._pooled = (
            torch.where(alive, step, self._pooled) if self._pooling == "last" else self._pooled + alive * step
        )
        self._counts = self._counts + self._alive

    def states(self, completion_tokens: list[int]) -> Tensor:
        """(N, H) the pooled states, once the counts are exactly those the completions ask for.

        Raises:
            StateMismatch: states were lost or counted twice.
        """
        expected = [tail + tokens - 1 for tail, tokens in zip(self._tails, completion_tokens, strict=True)]
        if self._pooled is None or self._counts.tolist() != expected:
            raise StateMismatch(f"pooled {self._counts.tolist()} states, the token ids ask for {expected}")
        return self._pooled if self._pooling == "last" else self._pooled / self._counts.clamp(min=1)[:, None]


class SpanPooler(_Hook):
    """Pools padded batches whose spans are known, chunk by chunk of rows; with a gradient where the pass has one."""

    def __init__(self, backbone: nn.Module, starts: Tensor, ends: Tensor, pooling: Pooling) -> None:
        super().__init__(backbone)
        self._starts, self._ends, self._pooling = starts, ends, pooling  # (N,), (N,) positions with the padding
        self._chunks: list[Tensor] = []

    def see(self, input_ids: Tensor, states: Tensor) -> None:
        """Pool the next rows."""
        first = sum(len(chunk) for chunk in self._chunks)
        rows = slice(first, first + len(input_ids))
        self._chunks.append(pool_spans(states, self._starts[rows], self._ends[rows], self._pooling))

    def states(self) -> Tensor:
        """(N, H) the pooled states.

        Raises:
            StateMismatch: another number of rows ran than was announced.
        """
        pooled = torch.cat(self._chunks)
        if len(pooled) != len(self._starts):
            raise StateMismatch(f"the pass ran {len(pooled)} rows, {len(self._starts)} were announced")
        return pooled


@torch.no_grad()
def forward_pooled(
    backbone: nn.Module,
    sequences: list[tuple[int, ...]],  # N: prompt and completion, the completion's last token left out
    tails: list[int],  # N: how many of the sequence's last tokens are pooled
    pooling: Pooling,
    *,
    batch_size: int,
    device: torch.device,
) -> Tensor:  # (N, H)
    """States from a pass of their own, right-padded and sorted by length: where no pass runs anyway (vLLM anchors)."""
    order = sorted(range(len(sequences)), key=lambda n: -len(sequences[n]))
    pooled: dict[int, Tensor] = {}
    for first in range(0, len(order), batch_size):
        rows = order[first : first + batch_size]
        lengths = torch.tensor([len(sequences[n]) for n in rows], device=device)
        T = int(lengths.max())
        ids = torch.tensor([[*sequences[n], *[0] * (T - len(sequences[n]))] for n in rows], device=device)
        mask = (torch.arange(T, device=device) < lengths[:, None]).long()
        states = backbone(input_ids=ids, attention_mask=mask, use_cache=False)[0]
        starts = lengths - torch.tensor([tails[n] for n in rows], device=device)
        pooled.update(zip(rows, pool_spans(states, starts, lengths, pooling), strict=True))
    return torch.stack([pooled[n] for n in range(len(sequences))])
