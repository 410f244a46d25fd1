"""Real data, small losses, exact Hessians: logistic and ridge regression, and a tanh network on digits."""

from abc import abstractmethod
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from eigenstep.problems.base import Problem
from eigenstep.problems.minimise import minimise


class RealLoss(Problem):
    """A mean loss over real, standardised data plus an L2 term, 1/2 l2 |x|^2 over the penalised coordinates.

    `inputs` (N, features + 1) end in a column of ones, for the biases. The minimum is found when first asked for, to a
    gradient norm of 1e-8, and kept. `start` is torch's usual initialisation, uniform within 1 / sqrt(fan in), seed 0.
    """

    def __init__(self, name: str, features: Tensor, shapes: tuple[tuple[int, int], ...], l2: float) -> None:
        self.name, self.l2, self.shapes = name, l2, shapes
        self.inputs = torch.cat([_standardised(features), torch.ones(len(features), 1, dtype=torch.float64)], 1)
        self.dimension = sum(rows * columns for rows, columns in shapes)
        self._cast: dict[torch.dtype, tuple[Tensor, ...]] = {}

    @cached_property
    def _start(self) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        layers = [
            (2 * torch.rand(rows * columns, generator=generator, dtype=torch.float64) - 1) / (columns - 1) ** 0.5
            for rows, columns in self.shapes
        ]
        return torch.cat(layers)

    @property
    def start(self) -> Tensor:
        """Where training begins: torch's usual initialisation, seed 0."""
        return self._start

    @cached_property
    def minima(self) -> Tensor:
        """The minimum that L-BFGS and then Newton reach from the start, (1, n)."""
        return minimise(self).unsqueeze(0)

    def data(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Return the data in this precision, cast once."""
        if dtype not in self._cast:
            self._cast[dtype] = tuple(part.to(dtype).contiguous() for part in self._data())
        return self._cast[dtype]

    @abstractmethod
    def _data(self) -> tuple[Tensor, ...]:
        """The tensors that the loss is made from, float64."""


class _LinearModel(RealLoss):
    """A loss of the score z = inputs x alone; the bias, the last coordinate, is not penalised."""

    def __init__(self, name: str, features: Tensor, targets: Tensor, l2: float) -> None:
        super().__init__(name, features, ((1, features.shape[1] + 1),), l2)
        self.targets = targets
        self._penalty = torch.full((self.dimension,), l2, dtype=torch.float64)
        self._penalty[-1] = 0

    def _data(self) -> tuple[Tensor, ...]:
        return self.inputs, self.targets, self._penalty

    def loss_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """mean l(z, y) + 1/2 penalty x^2, and inputs^T l'(z, y) / N + penalty x."""
        inputs, targets, penalty = self.data(x.dtype)
        values, slopes = self._of_score(x @ inputs.T, targets)
        shrink = penalty * x
        return values.mean(-1) + (shrink * x).sum(-1) / 2, slopes @ inputs / len(inputs) + shrink

    def hessian(self, x: Tensor) -> Tensor:
        """inputs^T diag(l''(z)) inputs / N + diag(penalty)."""
        inputs, _, penalty = self.data(self.one_point(x).dtype)
        weighted = inputs.T * self._curvature(inputs @ x)
        product = weighted @ inputs / len(inputs)
        return (product + product.T) / 2 + torch.diag(penalty)

    @abstractmethod
    def _of_score(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """l(z, y) and its derivative in z, elementwise."""

    @abstractmethod
    def _curvature(self, z: Tensor) -> Tensor:
        """l''(z), elementwise."""


class _Logistic(_LinearModel):
    """l = ln(1 + exp(z)) - y z, y in {0, 1}."""

    def _of_score(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        softplus = z.clamp(min=0) + torch.log1p(torch.exp(-z.abs()))
        return softplus - y * z, z.sigmoid() - y

    def _curvature(self, z: Tensor) -> Tensor:
        return z.sigmoid() * (-z).sigmoid()


class _Ridge(_LinearModel):
    """l = 1/2 (z - y)^2."""

    def _of_score(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        residual = z - y
        return residual * residual / 2, residual

    def _curvature(self, z: Tensor) -> Tensor:
        return torch.ones_like(z)


class _TanhNetwork(RealLoss):
    """Cross-entropy of softmax(W2 tanh(W1 inputs)), each W with its bias as the last column, all penalised."""

    def __init__(self, name: str, features: Tensor, labels: Tensor, hidden: int, l2: float) -> None:
        classes = int(labels.max()) + 1
        super().__init__(name, features, ((hidden, features.shape[1] + 1), (classes, hidden + 1)), l2)
        self.targets = torch.nn.functional.one_hot(labels, classes).T.to(torch.float64)

    def _data(self) -> tuple[Tensor, ...]:
        return self.inputs, self.inputs.T, self.targets

    def _layers(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """W1 (B, hidden, features + 1) and W2 (B, classes, hidden + 1) of the points (B, n)."""
        first, second = self.shapes
        split = first[0] * first[1]
        return x[:, :split].reshape(-1, *first), x[:, split:].reshape(-1, *second)

    def _forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden values (B, hidden, N), logits (B, classes, N) and losses (B,) of the points (B, n)."""
        _, transposed, targets = self.data(x.dtype)
        first, second = self._layers(x)
        hidden = torch.tanh((first.flatten(0, 1) @ transposed).view(*first.shape[:2], -1))
        logits = torch.baddbmm(second[..., -1:], second[..., :-1], hidden)
        entropy = (logits.logsumexp(1) - (logits * targets).sum(1)).mean(-1)
        return hidden, logits, entropy + self.l2 / 2 * (x * x).sum(-1)

    def loss_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and its gradient by the chain rule written out, for all points together."""
        lanes = x.reshape(-1, self.dimension)
        inputs, _, targets = self.data(x.dtype)
        second = self._layers(lanes)[1]
        hidden, logits, losses = self._forward(lanes)
        slope = (logits.softmax(1) - targets) / len(inputs)  # in the logits
        outer = torch.cat([slope @ hidden.mT, slope.sum(-1, keepdim=True)], -1)
        inner = (second[..., :-1].mT @ slope) * (1 - hidden * hidden)  # in the hidden sums
        first = inner.flatten(0, 1) @ inputs
        gradient = torch.cat([first.reshape(len(lanes), -1), outer.flatten(1)], 1) + self.l2 * lanes
        return losses.reshape(x.shape[:-1]), gradient.reshape(x.shape)

    def loss(self, x: Tensor) -> Tensor:
        """The loss alone."""
        return self._forward(x.reshape(-1, self.dimension))[2].reshape(x.shape[:-1])

    def hessian(self, x: Tensor) -> Tensor:
        """Differentiate the loss twice backward, all rows at once."""
        with torch.enable_grad():
            point = self.one_point(x).detach().clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self.loss(point), point, create_graph=True)
            basis = torch.eye(self.dimension, dtype=x.dtype)
            (rows,) = torch.autograd.grad(gradient, point, basis, is_grads_batched=True)
        return (rows + rows.T) / 2


@cache
def breast_cancer() -> RealLoss:
    """L2-regularised logistic regression on scikit-learn's breast cancer data: 569 tumours, 31 parameters, l2 = .01.

    >>> breast_cancer().dimension
    31
    """
    from sklearn.datasets import load_breast_cancer

    features, labels = _loaded(load_breast_cancer)
    return _Logistic("breast-cancer", features, labels, l2=1e-2)


@cache
def diabetes() -> RealLoss:
    """Ridge regression on scikit-learn's diabetes data, target standardised: 442 patients, 11 parameters, l2 = .01.

    >>> diabetes().dimension
    11
    """
    from sklearn.datasets import load_diabetes

    features, progression = _loaded(load_diabetes)
    return _Ridge("diabetes", features, _standardised(progression), l2=1e-2)


@cache
def digits() -> RealLoss:
    """A 64-5-10 tanh network on every fifth of scikit-learn's digits: 360 images, 385 parameters, l2 = .01.

    A fifth, so that thousands of updates of tens of lanes take seconds; the Hessian is that of the loss trained.

    >>> digits().dimension
    385
    """
    from sklearn.datasets import load_digits

    features, labels = _loaded(load_digits)
    return _TanhNetwork("digits", features[::5], labels[::5].long(), hidden=5, l2=1e-2)


def _loaded(load: Any) -> tuple[Tensor, Tensor]:
    features, targets = load(return_X_y=True)
    return torch.as_tensor(features, dtype=torch.float64), torch.as_tensor(targets, dtype=torch.float64)


def _standardised(columns: Tensor) -> Tensor:
    """Mean 0 and variance 1; a constant column (a pixel at the edge) becomes 0."""
    centred = columns - columns.mean(0)
    spread = centred.square().mean(0).sqrt()
    return centred / torch.where(spread > 0, spread, 1.0)
