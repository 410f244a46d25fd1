"""Rules that keep only the sign of a direction: simulated, never linearised."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from eigenstep.rules.base import Number, Rule, State, advance


@dataclass(frozen=True)
class SignDescent(Rule):
    """The article's ideal scaled step, sign descent: x <- x - lr * sign(g).

    >>> SignDescent(lr=0.01).lr
    0.01
    """

    name = "sign-descent"
    elementwise = True

    def step(self, x: Tensor, grad: Tensor, state: State, t: int) -> tuple[Tensor, State]:
        """x - lr * sign(g)."""
        return advance(x, grad.sign(), -self.lr), state


@dataclass(frozen=True)
class Lion(Rule):
    """Lion (Chen et al. 2023, arXiv 2302.06675), with its decoupled weight decay.

    x <- x * (1 - lr * weight_decay) - lr * sign(b1 * m + (1 - b1) * g); m <- b2 * m + (1 - b2) * g.

    >>> Lion().betas
    (0.9, 0.99)
    """

    lr: Number = 1e-4
    betas: tuple[Number, Number] = (0.9, 0.99)
    weight_decay: Number = field(default=0.0, kw_only=True)

    name = "lion"
    elementwise = True
    buffer_names = ("exp_avg",)

    def step(self, x: Tensor, grad: Tensor, state: State, t: int) -> tuple[Tensor, State]:
        """Decay, move by lr against the sign of the mixed direction, then take the gradient in."""
        (mean,) = state.buffers
        b1, b2 = self.betas
        direction = torch.lerp(grad, mean, b1).sign()
        x = advance(x * (1 - self.lr * self.weight_decay), direction, -self.lr)
        return x, State((torch.lerp(grad, mean, b2),))
