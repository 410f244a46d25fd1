"""Rules with one velocity: the article's heavy ball, torch's momentum, EMA momentum and Nesterov's."""

from dataclasses import dataclass

import torch
from torch import Tensor

from eigenstep.errors import InvalidValue
from eigenstep.rules.base import Coefficients, LinearRule, Number, State, advance, fade


@dataclass(frozen=True)
class HeavyBall(LinearRule):
    """The article's (Polyak's, 1964) heavy ball, trace momentum: m <- momentum * m - lr * g; x <- x + m.

    The lr is folded into the velocity, so that after a change of lr it differs from torch's `Momentum`.

    >>> HeavyBall(lr=0.1).momentum
    0.9
    """

    momentum: Number = 0.9

    name = "heavy-ball"
    elementwise = True
    buffer_names = ("momentum_buffer",)

    def move(
        self, x: Tensor, grad: Tensor, unit: Number, buffers: tuple[Tensor, ...], c: Coefficients
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """m <- momentum * m - lr * g; x + m."""
        velocity = advance(fade(buffers[0], self.momentum), grad, -self.lr)
        return self.shrink(x) + velocity, (velocity,)


@dataclass(frozen=True)
class Momentum(LinearRule):
    """torch.optim.SGD's momentum, trace momentum: b <- momentum * b + (1 - dampening) * g; x <- x - lr * b.

    The first update is not dampened (b starts as g). momentum=0 is torch's default, and is gradient descent.

    Raises InvalidValue for dampening without momentum, which torch ignores.

    >>> Momentum(lr=0.1, momentum=0.9).dampening
    0.0
    """

    momentum: Number = 0.0
    dampening: Number = 0.0

    name = "momentum"
    elementwise = True
    buffer_names = ("momentum_buffer",)

    def __post_init__(self) -> None:
        """Check the fields one by one, then together."""
        super().__post_init__()
        lonely = (torch.as_tensor(self.dampening) != 0) & (torch.as_tensor(self.momentum) == 0)
        if bool(lonely.any()):
            raise InvalidValue(
                "Momentum: dampening has no effect at momentum=0 in torch; use GradientDescent, or set momentum"
            )

    def coefficients(self, t: int | None) -> Coefficients:
        """The gradient's gain: 1 at the first update, 1 - dampening later."""
        return (1.0 if t == 1 else 1 - self.dampening,)

    def move(
        self, x: Tensor, grad: Tensor, unit: Number, buffers: tuple[Tensor, ...], c: Coefficients
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """b <- momentum * b + gain * g; x - lr * b."""
        buffer = advance(fade(buffers[0], self.momentum), grad, c[0])
        return advance(self.shrink(x), buffer, -self.lr), (buffer,)


@dataclass(frozen=True)
class EMAMomentum(LinearRule):
    """Exponential-moving-average momentum: m <- momentum * m + (1 - momentum) * g; x <- x - lr * m, m from zero.

    torch's momentum with dampening = momentum, except that here the first update is dampened too.

    >>> EMAMomentum(lr=0.1).momentum
    0.9
    """

    momentum: Number = 0.9

    name = "ema-momentum"
    elementwise = True
    buffer_names = ("momentum_buffer",)

    def move(
        self, x: Tensor, grad: Tensor, unit: Number, buffers: tuple[Tensor, ...], c: Coefficients
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """m <- momentum * m + (1 - momentum) * g; x - lr * m."""
        mean = torch.lerp(grad, buffers[0], self.momentum)
        return advance(self.shrink(x), mean, -self.lr), (mean,)


@dataclass(frozen=True)
class Nesterov(LinearRule):
    """Nesterov momentum in torch's form: b <- momentum * b + g; x <- x - lr * (g + momentum * b).

    The stored x is the look-ahead point. `iterate` gives the article's: w = x + lr * momentum * b, whose gradient
    is taken at w + momentum * m with m = -lr * b (O'Donoghue and Candes 2015 relate the two).

    >>> Nesterov(lr=0.1).momentum
    0.9
    """

    momentum: Number = 0.9

    name = "nesterov"
    elementwise = True
    buffer_names = ("momentum_buffer",)

    def move(
        self, x: Tensor, grad: Tensor, unit: Number, buffers: tuple[Tensor, ...], c: Coefficients
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """b <- momentum * b + g; x - lr * (g + momentum * b)."""
        buffer = advance(grad, buffers[0], self.momentum)
        return advance(self.shrink(x), advance(grad, buffer, self.momentum), -self.lr), (buffer,)

    def iterate(self, x: Tensor, state: State) -> Tensor:
        """x + lr * momentum * b: the article's iterate from torch's stored look-ahead point."""
        return advance(x, state.buffers[0], self.lr * self.momentum)
