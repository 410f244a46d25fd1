"""Rules that measure their step in a unit per coordinate: what they share, AdaGrad and RMSProp."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from eigenstep.errors import InvalidValue
from eigenstep.rules.base import Coefficients, LinearRule, Number, State, advance, momentum_buffer


@dataclass(frozen=True)
class AdaptiveRule(LinearRule):
    """What all adaptive rules share: a unit that is a root mean square, guarded by eps or by delta.

    `eps` is added outside the root, as torch does; `delta` inside it, as the article does. One of the two is given;
    without either, torch's eps. Where the mean square is 0, delta acts as eps = sqrt(delta).

    Raises InvalidValue when both are given.
    """

    eps: Number | None = field(default=None, kw_only=True)
    delta: Number | None = field(default=None, kw_only=True)

    default_eps: ClassVar[float] = 1e-8

    def __post_init__(self) -> None:
        """Settle which of eps and delta guards the root."""
        if self.eps is not None and self.delta is not None:
            raise InvalidValue(f"{type(self).__name__}: give eps (outside the root) or delta (inside it), not both")
        if self.eps is None and self.delta is None:
            object.__setattr__(self, "eps", self.default_eps)
        super().__post_init__()

    def replace(self, **changes: Any) -> Self:
        """Return the rule with some hyperparameters changed; a new delta takes eps's place, and the reverse."""
        for new, old in (("eps", "delta"), ("delta", "eps")):
            if changes.get(new) is not None:
                changes.setdefault(old, None)
        return super().replace(**changes)

    @property
    def outside(self) -> Number:
        """What is added outside the root: eps; 0 where delta stands inside it."""
        return 0.0 if self.eps is None else self.eps

    def root(self, mean_square: Tensor) -> Tensor:
        """sqrt(mean_square) + eps, or sqrt(mean_square + delta)."""
        if self.delta is not None:
            return (mean_square + self.delta).sqrt()
        return mean_square.sqrt() + self.outside


@dataclass(frozen=True)
class AdaGrad(AdaptiveRule):
    """AdaGrad (Duchi et al. 2011): s <- s + g^2; x <- x - lr / (1 + (t - 1) lr_decay) * g / (sqrt(s) + eps).

    >>> AdaGrad().eps
    1e-10
    """

    lr: Number = 1e-2
    lr_decay: Number = 0.0
    initial_accumulator_value: Number = field(default=0.0, kw_only=True)

    name = "adagrad"
    elementwise = True
    scale_names = ("sum",)
    default_eps = 1e-10
    unit_only_grows = True

    def init(self, x: Tensor) -> State:
        """The sum starts at initial_accumulator_value."""
        return State((), (torch.zeros_like(x) + self.initial_accumulator_value,))

    def accumulate(self, grad: Tensor, scales: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """s + g^2."""
        return (torch.addcmul(scales[0], grad, grad),)

    def unit(self, scales: tuple[Tensor, ...], t: int) -> Tensor:
        """sqrt(s) + eps."""
        return self.root(scales[0])

    def coefficients(self, t: int | None) -> Coefficients:
        """What lr_decay leaves of lr; in the late limit nothing, unless lr_decay is 0."""
        if t is None:
            return (0.0**self.lr_decay,)
        return (1 / (1 + (t - 1) * self.lr_decay),)

    def move(
        self, x: Tensor, grad: Tensor, unit: Number, buffers: tuple[Tensor, ...], c: Coefficients
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """x - lr * remaining * g / unit."""
        return advance(self.shrink(x), grad, -self.lr * c[0], unit), ()


@dataclass(frozen=True)
class RMSProp(AdaptiveRule):
    """RMSProp (Hinton 2012): v <- alpha v + (1 - alpha) g^2; b <- momentum b + g / (sqrt(v) + eps); x <- x - lr b.

    With `centered`, the square of the mean gradient is taken off v. With momentum it is not Adam: the momentum is a
    trace (it accumulates) of gradients already scaled, and nothing is bias-corrected.

    >>> RMSProp().alpha
    0.99
    """

    lr: Number = 1e-2
    alpha: Number = 0.99
    momentum: Number = field(default=0.0, kw_only=True)
    centered: bool = field(default=False, kw_only=True)

    name = "rmsprop"
    elementwise = True

    @property
    def buffer_names(self) -> tuple[str, ...]:
        """No buffer without momentum, as in torch, which leaves one from before as it was."""
        return momentum_buffer(self.momentum)

    @property
    def scale_names(self) -> tuple[str, ...]:
        """The mean gradient is only kept when centred."""
        return ("square_avg", "grad_avg") if self.centered else ("square_avg",)

    def accumulate(self, grad: Tensor, scales: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Move the averages towards g^2 and, centred, towards g."""
        new = (grad * grad, grad)
        return tuple(torch.lerp(n, old, self.alpha) for n, old in zip(new, scales, strict=False))

    def unit(self, scales: tuple[Tensor, ...], t: int) -> Tensor:
        """sqrt(v) + eps, or sqrt(v - mean^2) + eps."""
        return self.root(scales[0] - scales[1] ** 2 if self.centered else scales[0])

    def move(
        self, x: Tensor, grad: Tensor, unit: Number, buffers: tuple[Tensor, ...], c: Coefficients
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """b <- momentum * b + g / unit; x - lr * b."""
        if not self.buffer_names:
            return advance(self.shrink(x), grad, -self.lr, unit), buffers
        buffer = advance(buffers[0] * self.momentum, grad, 1.0, unit)
        return advance(self.shrink(x), buffer, -self.lr), (buffer,)
