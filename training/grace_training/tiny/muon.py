"""Muon for the matrices, Adam for everything else.

Muon (Jordan et al. 2024) replaces a matrix's momentum by its nearest semi-orthogonal matrix, so that every direction of
the update counts alike; its authors report about two thirds of AdamW's tokens for the same loss.
"""

from collections import defaultdict
from functools import partial

import torch
from torch import Tensor, nn

from grace_training.tiny.crew import Crew, products

# Quintic Newton-Schulz coefficients of the Muon paper: fast growth at zero, singular values end in about 0.7 to 1.2.
_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrices, roughly, of a stack [N, rows, columns]; bfloat16 suffices, where it is fast."""
    x = matrices.to(products())
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * (gram @ gram)) @ x
    orthogonal: Tensor = x.mT if tall else x
    return orthogonal.to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Matrices of one shape are stacked, so a step is a few batched products, of which each worker takes a share."""

    def __init__(
        self, matrices: list[nn.Parameter], workers: Crew, lr: float, momentum: float = 0.95, decay: float = 0.0
    ) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "decay": decay})
        self._workers = workers

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update from the gradients."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape[matrix.shape].append(matrix)
            for shape, matrices in by_shape.items():
                gradients = torch.stack([m.grad for m in matrices if m.grad is not None])
                for i, matrix in enumerate(matrices):
                    momentum = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
                    momentum.lerp_(gradients[i], 1 - group["momentum"])
                    gradients[i].lerp_(momentum, group["momentum"])  # Nesterov
                shares = gradients.chunk(self._workers.size)
                updates = torch.cat(self._workers.run([partial(orthogonalise, share) for share in shares]))
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                for matrix, update in zip(matrices, updates, strict=True):
                    matrix.mul_(1 - group["lr"] * group["decay"])
                    matrix.add_(update, alpha=-group["lr"] * scale)


class Optimisers:
    """Both optimisers as one, with one learning-rate factor."""

    def __init__(self, model: nn.Module, workers: Crew, *, matrix_lr: float, other_lr: float, decay: float) -> None:
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in model.named_parameters():
            by_token = "embed" in name or "lm_head" in name  # a row is a token's, most of them unseen in a step
            (matrices if parameter.ndim == 2 and not by_token else others).append(parameter)
        self._muon = Muon(matrices, workers, lr=matrix_lr, decay=decay)
        self._adam = torch.optim.Adam(others, lr=other_lr, betas=(0.9, 0.95), eps=1e-10)
        self._rates = (matrix_lr, other_lr)

    def step(self, factor: float) -> None:
        """Update with both learning rates times `factor`, then drop the gradients."""
        for optimiser, rate in zip((self._muon, self._adam), self._rates, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate * factor
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, object]]:
        """Both states, to be saved."""
        return [self._muon.state_dict(), self._adam.state_dict()]

    def load_state_dict(self, states: list[dict[str, object]]) -> None:
        """Both states, as saved."""
        self._muon.load_state_dict(states[0])
        self._adam.load_state_dict(states[1])
