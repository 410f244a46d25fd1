"""Rules with one velocity: the article's heavy ball, torch's momentum, EMA momentum and Nesterov's."""

from dataclasses import dataclass

import torch
from torch import Tensor

from eigenstep.rules.base import Coefficients, LinearRule, Number, State, advance, fade, momentum_buffer


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

    The first update is not dampened (b starts as g). momentum=0 is torch's default, and is gradient descent: dampening
    has no effect then, no buffer is kept, and one from before (a schedule passes through 0) is left as it was.

    >>> Momentum(lr=0.1, momentum=0.9).dampening
    0.0
    """

    momentum: Number = 0.0
    dampening: Number = 0.0

    name = "momentum"
    elementwise = True

    @property
    def buffer_names(self) -> tuple[str, ...]:
        """No buffer without momentum, as in torch."""
        return momentum_buffer(self.momentum)

    def coefficients(self, t: int | None) -> Coefficients:
        """The gradient's gain: 1 at the first update and without momentum, else 1 - dampening."""
        begun = self.momentum.sign() if isinstance(self.momentum, Tensor) else float(self.momentum != 0)
        return (1.0 if t == 1 else 1 - self.dampening * begun,)

    def move(
        self, x: Tensor, grad: Tensor, unit: Number, buffers: tuple[Tensor, ...], c: Coefficients
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """b <- momentum * b + gain * g; x - lr * b."""
        if not self.buffer_names:
            return advance(self.shrink(x), grad, -self.lr), buffers
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
    is taken at w + momentum * m with m = -lr * b (O'Donoghue and Candes 2015 relate the two). momentum=0 is gradient
    descent; a buffer from before is left as it was.

    >>> Nesterov(lr=0.1).momentum
    0.9
    """

    momentum: Number = 0.9

    name = "nesterov"
    elementwise = True

    @property
    def buffer_names(self) -> tuple[str, ...]:
        """No buffer without momentum, as in torch."""
        return momentum_buffer(self.momentum)

    def move(
        self, x: Tensor, grad: Tensor, unit: Number, buffers: tuple[Tensor, ...], c: Coefficients
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """b <- momentum * b + g; x - lr * (g + momentum * b)."""
        if not self.buffer_names:
            return advance(self.shrink(x), grad, -self.lr), buffers
        buffer = advance(grad, buffers[0], self.momentum)
        return advance(self.shrink(x), advance(grad, buffer, self.momentum), -self.lr), (buffer,)

    def iterate(self, x: Tensor, state: State) -> Tensor:
        """x + lr * momentum * b: the article's iterate from torch's stored look-ahead point."""
        return advance(x, state.buffers[0], self.lr * self.momentum) if self.buffer_names else x
