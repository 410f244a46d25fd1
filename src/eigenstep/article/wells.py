"""The article's claim that lr selects the minimum: gradient descent on two wells of different sharpness."""

from dataclasses import dataclass

import torch
from torch import Tensor

from eigenstep.problems import DoubleWell
from eigenstep.rules import GradientDescent
from eigenstep.simulation import simulate

REACH = 3.0  # starts lie evenly within this distance of the middle; the wells are at -1 and 1
_NEAR = 1e-3  # from a minimum, after all updates: the run has settled there


@dataclass(frozen=True, eq=False)
class Shares:
    """The share of starts that settled in the sharp well, and in the flat one, at each lr (k,); (k,) each."""

    lr: Tensor
    sharp: Tensor
    flat: Tensor


def well_shares(well: DoubleWell, lr: Tensor, *, starts: int = 400, updates: int = 2_000) -> Shares:
    """Run gradient descent from evenly spaced starts at each lr (k,), and see in which well it settles.

    >>> shares = well_shares(DoubleWell(), torch.tensor([0.01, 0.03]).double(), starts=20, updates=500)
    >>> shares.sharp.tolist()[1]
    0.0
    """
    # Half a spacing off the ends, so that no start is a minimum itself.
    x = ((torch.arange(starts, dtype=torch.float64) + 0.5) / starts * 2 - 1) * REACH
    rule = GradientDescent(lr=lr.unsqueeze(-1))
    end = simulate(rule, well, x.unsqueeze(-1), steps=updates).final.squeeze(-1)
    flat, sharp = ((end - place).abs().lt(_NEAR).double().mean(-1) for place in well.minima.squeeze(-1).tolist())
    return Shares(lr, sharp, flat)
