"""The tasks of the advice benchmark: small, of many kinds, half for development and half held out."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from sklearn import datasets
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

Half = Literal["development", "held out"]
BATCH = 64
OPTIMIZERS = ("sgd", "momentum", "adam")


@dataclass(frozen=True)
class Task:
    """Data, a model and a loss; `half` says whether the task may be looked at while recommend is developed."""

    name: str
    half: Half
    data: Callable[[], tuple[Tensor, Tensor]]
    build: Callable[[], nn.Module]
    spoil: Callable[[nn.Module], None] | None = None

    def model(self, seed: int) -> nn.Module:
        """The model as it is initialised with this seed."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = self.build()
        if self.spoil is not None:
            with torch.no_grad():
                self.spoil(model)
        return model

    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy for classes, the mean squared error for numbers."""
        return F.mse_loss(output, y) if y.is_floating_point() else F.cross_entropy(output, y)


def optimizer_of(name: str, model: nn.Module, lr: float = 1e-3) -> torch.optim.Optimizer:
    """The three optimizers of the benchmark, with torch's defaults; lr = 1e-3 is torch's for each."""
    if name == "adam":
        return torch.optim.Adam(model.parameters(), lr=lr)
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9 if name == "momentum" else 0.0)


def scaled(x: np.ndarray) -> np.ndarray:
    """Mean 0 and deviation 1 in each column that varies."""
    deviation = x.std(0)
    return (x - x.mean(0)) / np.where(deviation > 0, deviation, 1.0)


def _pair(x: np.ndarray, y: np.ndarray) -> tuple[Tensor, Tensor]:
    target = torch.as_tensor(y)
    target = target.float().reshape(len(y), -1) if target.is_floating_point() else target.long()
    return torch.as_tensor(x, dtype=torch.float32), target


@cache
def digits() -> tuple[Tensor, Tensor]:
    """1,797 images of 8 x 8, pixels 0 to 1."""
    x, y = datasets.load_digits(return_X_y=True)
    return _pair(x / 16.0, y)


@cache
def some_digits() -> tuple[Tensor, Tensor]:
    """The first 640 of them, for the models that are slow to train."""
    x, y = digits()
    return x[:640], y[:640]


@cache
def digits_raw() -> tuple[Tensor, Tensor]:
    """The same with pixels 0 to 255."""
    x, y = datasets.load_digits(return_X_y=True)
    return _pair(x / 16.0 * 255.0, y)


@cache
def cancer() -> tuple[Tensor, Tensor]:
    """569 patients, 30 columns scaled, two classes."""
    x, y = datasets.load_breast_cancer(return_X_y=True)
    return _pair(scaled(x), y)


@cache
def cancer_raw() -> tuple[Tensor, Tensor]:
    """The same as measured: columns from 1e-3 to 4e3."""
    x, y = datasets.load_breast_cancer(return_X_y=True)
    return _pair(x, y)


@cache
def wine_raw() -> tuple[Tensor, Tensor]:
    """178 wines, 13 columns as measured, three classes."""
    x, y = datasets.load_wine(return_X_y=True)
    return _pair(x, y)


@cache
def diabetes() -> tuple[Tensor, Tensor]:
    """442 patients, 10 columns and the target scaled."""
    x, y = datasets.load_diabetes(return_X_y=True)
    return _pair(scaled(x), scaled(y[:, None]))


@cache
def friedman() -> tuple[Tensor, Tensor]:
    """1,000 points of Friedman's first function, the target scaled."""
    x, y = datasets.make_friedman1(1000, n_features=8, noise=0.3, random_state=0)
    return _pair(x, scaled(y[:, None]))


@cache
def wave() -> tuple[Tensor, Tensor]:
    """800 points of a sine of growing frequency on [-1, 1]."""
    x = np.linspace(-1, 1, 800)[:, None]
    return _pair(x, np.sin(4 * x + 3 * x**2))


@cache
def moons() -> tuple[Tensor, Tensor]:
    """1,000 points on two interleaved half circles."""
    return _pair(*datasets.make_moons(1000, noise=0.15, random_state=0))


@cache
def sentences() -> tuple[Tensor, Tensor]:
    """640 rows of 6 tokens out of 10; the class is the most frequent of tokens 0 to 2."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 10, (640, 6))
    return torch.as_tensor(tokens), torch.as_tensor((tokens[:, :, None] == np.arange(3)).sum(1).argmax(1))


def mlp(*sizes: int, act: type[nn.Module] = nn.ReLU, norm: type[nn.Module] | None = None) -> nn.Module:
    """Linear layers with an activation, and perhaps a normalisation, between them."""
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(pairwise(sizes)):
        layers.append(nn.Linear(a, b))
        if i < len(sizes) - 2:
            layers += [norm(b)] if norm is not None else []
            layers.append(act())
    return nn.Sequential(*layers)


def convolutional(*channels: int, norm: bool = False, act: type[nn.Module] = nn.ReLU) -> nn.Module:
    """Convolutions of 3 x 3 on images of 8 x 8, each halving the image, and a linear layer to 10 classes."""
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 8, 8))]
    for a, b in zip((1, *channels[:-1]), channels, strict=True):
        layers += [nn.Conv2d(a, b, 3, stride=2, padding=1), *([nn.BatchNorm2d(b)] if norm else []), act()]
    side = 8 // 2 ** len(channels)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[-1] * side * side, 10))


class Attention(nn.Module):
    """Pre-norm transformer blocks over the 8 rows of an image, or over tokens; the mean of all places is classified."""

    def __init__(self, width: int, blocks: int, classes: int, tokens: int = 0, places: int = 8) -> None:
        super().__init__()
        self.embed: nn.Module = nn.Embedding(tokens, width) if tokens else nn.Linear(8, width)
        self.tokens, self.place = tokens, nn.Parameter(0.02 * torch.randn(places, width))
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.embed(x if self.tokens else x.unflatten(-1, (8, 8))) + self.place
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(-2))


class Block(nn.Module):
    """Attention with two heads, then a GELU layer, each beside a residual path."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """The residual stream after both."""
        q, k, v = (t.unflatten(-1, (2, -1)).transpose(-3, -2) for t in self.mix(self.norms[0](x)).chunk(3, -1))
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        x = x + self.out((weights @ v).transpose(-3, -2).flatten(-2))
        return x + self.feed(self.norms[1](x))


def times(factor: float, *layers: int) -> Callable[[nn.Module], None]:
    """Multiply the weights of some linear layers (all if none is named) by a factor: a badly scaled initialisation."""

    def spoil(model: nn.Module) -> None:
        linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
        for m in [linear[i] for i in layers] if layers else linear:
            m.weight.mul_(factor)

    return spoil


TASKS = (
    Task("softmax regression", "development", digits, lambda: nn.Linear(64, 10)),
    Task("linear regression", "held out", diabetes, lambda: nn.Linear(10, 1)),
    Task("tanh", "development", digits, lambda: mlp(64, 32, 32, 10, act=nn.Tanh)),
    Task("tanh, deep", "held out", moons, lambda: mlp(2, *[16] * 6, 2, act=nn.Tanh)),
    Task("ReLU, deep", "development", digits, lambda: mlp(64, *[24] * 5, 10)),
    Task("GELU", "development", cancer, lambda: mlp(30, 32, 32, 2, act=nn.GELU)),
    Task("GELU, deep", "held out", some_digits, lambda: mlp(64, *[24] * 4, 10, act=nn.GELU)),
    Task("LayerNorm", "development", digits, lambda: mlp(64, 32, 32, 10, norm=nn.LayerNorm)),
    Task("LayerNorm, raw wine", "held out", wine_raw, lambda: mlp(13, 32, 32, 3, act=nn.GELU, norm=nn.LayerNorm)),
    Task("BatchNorm", "held out", some_digits, lambda: mlp(64, 32, 32, 10, norm=nn.BatchNorm1d)),
    Task("BatchNorm, convolution", "development", some_digits, lambda: convolutional(6, 12, norm=True)),
    Task("convolution", "held out", some_digits, lambda: convolutional(4, 8)),
    Task("attention on tokens", "held out", sentences, lambda: Attention(8, 1, 3, tokens=10, places=6)),
    Task("regression, tanh", "development", friedman, lambda: mlp(8, 32, 32, 1, act=nn.Tanh)),
    Task("regression, GELU", "held out", wave, lambda: mlp(1, 32, 32, 1, act=nn.GELU)),
    Task("raw inputs, cancer", "development", cancer_raw, lambda: mlp(30, 24, 2)),
    Task("raw inputs, digits", "held out", digits_raw, lambda: mlp(64, 24, 10, act=nn.Tanh)),
    Task("initialised 4 times too large", "development", some_digits, lambda: mlp(64, 32, 32, 10), times(4.0)),
    Task("initialised 5 times too small", "held out", cancer, lambda: mlp(30, 32, 32, 2, act=nn.GELU), times(0.2)),
)
