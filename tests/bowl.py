"""A quadratic that StabilityLR is tried on, and the loop that trains on it."""

import torch
from torch import Tensor, nn

import eigenstep as es

CURVATURES = torch.tensor([4.0, 1.0, 0.25], dtype=torch.float64)


class Bowl(nn.Module):
    """A quadratic whose largest eigenvalue is 4 * scale."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(3, dtype=torch.float64))
        self.scale, self.floor, self.quartic = 1.0, 0.0, 0.0

    def forward(self, _: object = None) -> Tensor:
        bent = self.quartic * (self.w**4).sum() if self.quartic else 0.0
        return 0.5 * self.scale * (CURVATURES * self.w**2).sum() + bent + self.floor


def train(model: Bowl, optimizer: torch.optim.Optimizer, scheduler: es.StabilityLR, updates: int) -> list[float]:
    """Train by a plain loop; the lr of every update."""
    lrs = []
    for _ in range(updates):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.zero_grad()
        model().backward()
        optimizer.step()
        scheduler.step()
    return lrs
