"""The rule without memory: gradient descent."""

from dataclasses import dataclass

from torch import Tensor

from eigenstep.rules.base import Coefficients, LinearRule, Number, advance


@dataclass(frozen=True)
class GradientDescent(LinearRule):
    """Gradient descent: x <- x - lr * g (torch.optim.SGD without momentum).

    >>> GradientDescent(lr=0.1).lr
    0.1
    """

    name = "gradient-descent"
    elementwise = True

    def move(
        self, x: Tensor, grad: Tensor, unit: Number, buffers: tuple[Tensor, ...], c: Coefficients
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """x - lr * g."""
        return advance(self.shrink(x), grad, -self.lr), ()
