"""The Adam family: rules with two moments, the first for the direction, the second for the unit."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from eigenstep.errors import InvalidValue
from eigenstep.rules.adaptive import AdaptiveRule
from eigenstep.rules.base import Coefficients, Number, advance


@dataclass(frozen=True)
class _Moments(AdaptiveRule):
    """The two moments of Kingma and Ba (2014): m <- b1 m + (1 - b1) g; v <- b2 v + (1 - b2) g^2, both from zero."""

    betas: tuple[Number, Number] = (0.9, 0.999)

    buffer_names = ("exp_avg",)

    @property
    def scale_names(self) -> tuple[str, ...]:
        """The second moment."""
        return ("exp_avg_sq",)

    def accumulate(self, grad: Tensor, scales: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """v <- b2 v + (1 - b2) g^2."""
        return (torch.lerp(grad * grad, scales[0], self.betas[1]),)

    def unit(self, scales: tuple[Tensor, ...], t: int) -> Tensor:
        """sqrt(v / (1 - b2^t)) + eps."""
        return self.root(scales[-1] / (1 - self.betas[1] ** t))

    def coefficients(self, t: int | None) -> Coefficients:
        """The first moment's bias correction, 1 / (1 - b1^t)."""
        return (1.0 if t is None else 1 / (1 - self.betas[0] ** t),)

    def mean(self, grad: Tensor, buffers: tuple[Tensor, ...]) -> Tensor:
        """m <- b1 m + (1 - b1) g."""
        return torch.lerp(grad, buffers[0], self.betas[0])

    def move(
        self, x: Tensor, grad: Tensor, unit: Number, buffers: tuple[Tensor, ...], c: Coefficients
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """x - lr * correction * m / unit."""
        mean = self.mean(grad, buffers)
        return advance(self.shrink(x), mean, -self.lr * c[0], unit), (mean,)


@dataclass(frozen=True)
class Adam(_Moments):
    """Adam (Kingma and Ba 2014, arXiv 1412.6980): x <- x - lr * m_hat / (sqrt(v_hat) + eps), both bias-corrected.

    With `amsgrad` (Reddi et al. 2018) v_hat is made from the largest v so far. P = sqrt(v_hat) + eps.

    >>> Adam().eps
    1e-08
    """

    amsgrad: bool = field(default=False, kw_only=True)

    name = "adam"
    elementwise = True

    @property
    def scale_names(self) -> tuple[str, ...]:
        """The second moment and, for AMSGrad, its largest value so far."""
        return ("exp_avg_sq", "max_exp_avg_sq") if self.amsgrad else ("exp_avg_sq",)

    def accumulate(self, grad: Tensor, scales: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """v, and its running maximum."""
        (v,) = super().accumulate(grad, scales)
        return (v, torch.maximum(scales[1], v)) if self.amsgrad else (v,)


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay, .01 by default (Loshchilov and Hutter 2017, arXiv 1711.05101).

    >>> AdamW().weight_decay, AdamW().decoupled
    (0.01, True)
    """

    weight_decay: Number = field(default=1e-2, kw_only=True)
    decoupled: bool = field(default=True, kw_only=True)

    name = "adamw"
    elementwise = True


@dataclass(frozen=True)
class Adamax(_Moments):
    """Adamax (Kingma and Ba 2014, section 7.1): u <- max(b2 u, |g| + eps); x <- x - lr * m_hat / u.

    There is no root, hence no delta.

    >>> Adamax().lr
    0.002
    """

    lr: Number = 2e-3

    name = "adamax"
    elementwise = True

    def __post_init__(self) -> None:
        """Refuse delta."""
        if self.delta is not None:
            raise InvalidValue("Adamax: its unit has no root for delta to stand in; give eps")
        super().__post_init__()

    @property
    def scale_names(self) -> tuple[str, ...]:
        """The decaying maximum."""
        return ("exp_inf",)

    def accumulate(self, grad: Tensor, scales: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """max(b2 u, |g| + eps)."""
        return (torch.maximum(scales[0] * self.betas[1], grad.abs() + self.outside),)

    def unit(self, scales: tuple[Tensor, ...], t: int) -> Tensor:
        """u itself."""
        return scales[0]


@dataclass(frozen=True)
class NAdam(_Moments):
    """NAdam (Dozat 2016) as torch has it: Nesterov's momentum in Adam, with a momentum schedule.

    mu_t = b1 (1 - 0.96^(t momentum_decay) / 2); x <- x - lr ((1 - mu_t) / (1 - prod mu) g + mu_(t+1) / (1 - prod mu
    mu_(t+1)) m) / (sqrt(v_hat) + eps). The late limit, mu = b1, comes only after some 85,000 updates. The product is
    carried in the state, as torch's mu_product, so that a schedule may change b1; without it, it is the present b1's.

    >>> NAdam().momentum_decay
    0.004
    """

    lr: Number = 2e-3
    momentum_decay: Number = field(default=4e-3, kw_only=True)

    name = "nadam"
    elementwise = True
    carried_names = ("mu_product",)

    def coefficients(self, t: int | None) -> Coefficients:
        """The weights of the gradient and of the first moment, where b1 has always been the present one."""
        return (1 - self.betas[0], self.betas[0]) if t is None else self._weights(t, self._product(t))

    def carry(self, carried: tuple[Number, ...], t: int) -> tuple[Coefficients, tuple[Number, ...]]:
        """The weights from the product of the mu that were, and that product."""
        product = (carried[0] if carried else self._product(t - 1)) * self._mu(t)
        one = isinstance(product, Tensor) and product.dim() == 0  # torch's: rounded as torch does, then a plain number
        return self._weights(t, float(product) if one else product), (product,)

    def _weights(self, t: int, product: Number) -> Coefficients:
        mu, following = self._mu(t), self._mu(t + 1)
        return ((1 - mu) / (1 - product), following / (1 - product * following))

    def _mu(self, t: int) -> Number:
        return self.betas[0] * (1 - 0.5 * 0.96 ** (t * self.momentum_decay))

    def _product(self, t: int) -> Number:
        """mu_1 ... mu_t, begun anew at each t; below 1e-18, where 1 - product is 1, it is 0."""
        largest = float(torch.as_tensor(self.betas[0], dtype=torch.float64).max())
        if largest == 0 or largest**t < 1e-18:
            return 0.0
        product: Number = 1.0
        for i in range(1, t + 1):
            product = product * self._mu(i)
        return product

    def move(
        self, x: Tensor, grad: Tensor, unit: Number, buffers: tuple[Tensor, ...], c: Coefficients
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """x - lr * (c_g * g + c_m * m) / unit."""
        mean = self.mean(grad, buffers)
        x = advance(self.shrink(x), grad, -self.lr * c[0], unit)
        return advance(x, mean, -self.lr * c[1], unit), (mean,)


@dataclass(frozen=True)
class RAdam(_Moments):
    """RAdam (Liu et al. 2019, arXiv 1908.03265): Adam with its step rectified, and no unit while rho_t <= 5.

    rho_t = rho_inf - 2 t b2^t / (1 - b2^t), rho_inf = 2 / (1 - b2) - 1. As in torch, eps is added to sqrt(v) before the
    bias correction divides both.

    >>> RAdam().lr
    0.001
    """

    name = "radam"
    elementwise = True

    def unit(self, scales: tuple[Tensor, ...], t: int) -> Tensor:
        """(sqrt(v) + eps) / sqrt(1 - b2^t), or 1 while not rectified."""
        correction = 1 - self.betas[1] ** t
        if self.delta is not None:
            root = self.root(scales[0] / correction)
        else:
            root = self.root(scales[0]) / correction**0.5
        length = self._length(t)
        if not isinstance(length, Tensor):
            return root if length > 5 else torch.ones_like(root)
        return torch.where(length > 5, root, torch.ones_like(root))

    def coefficients(self, t: int | None) -> Coefficients:
        """Bias correction times rectification."""
        if t is None:
            return (1.0,)
        rho, top = self._length(t), self._length(None)
        rectified: Number = 1.0
        if isinstance(rho, Tensor) or rho > 5:  # a lane that is not rectified may divide by 0; where() drops it
            rectified = ((rho - 4) * (rho - 2) * top / ((top - 4) * (top - 2) * rho)) ** 0.5
        if isinstance(rho, Tensor):
            rectified = torch.where(rho > 5, rectified, 1.0)
        return (rectified / (1 - self.betas[0] ** t),)

    def _length(self, t: int | None) -> Number:
        """rho_t, the length of the approximated average; rho_inf for None."""
        b2 = self.betas[1]
        top = 2 / (1 - b2) - 1
        return top if t is None else top - 2 * t * b2**t / (1 - b2**t)
