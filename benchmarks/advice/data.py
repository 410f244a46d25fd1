"""The data of the advice benchmark's tasks: small, and made or read without a network."""

import inspect
from functools import cache
from types import ModuleType

import numpy as np
import torch
from sklearn import datasets
from torch import Tensor


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


@cache
def digits_mislabelled() -> tuple[Tensor, Tensor]:
    """The digits with three labels in ten drawn anew."""
    x, y = digits()
    rng = np.random.default_rng(0)
    drawn = np.where(rng.random(len(y)) < 0.3, rng.integers(0, 10, len(y)), y.numpy())
    return x, torch.as_tensor(drawn)


@cache
def digits_themselves() -> tuple[Tensor, Tensor]:
    """The digits as their own targets."""
    x, _ = digits()
    return x, x


def digits_low() -> tuple[Tensor, Tensor]:
    """The digits 0 to 4."""
    x, y = digits()
    return x[y < 5], y[y < 5]


@cache
def digits_high() -> tuple[Tensor, Tensor]:
    """The digits 5 to 9, called 0 to 4."""
    x, y = digits()
    return x[y >= 5], y[y >= 5] - 5


@cache
def crowd() -> tuple[Tensor, Tensor]:
    """2,000 points of 40 classes that overlap, normal clouds in 12 dimensions: at best 63% can be told."""
    rng = np.random.default_rng(0)
    centres, y = rng.normal(size=(40, 12)), rng.integers(0, 40, 2000)
    return _pair(centres[y] + 1.2 * rng.normal(size=(2000, 12)), y)


@cache
def tails() -> tuple[Tensor, Tensor]:
    """1,000 points, inputs and noise by Student's t with 2.5 degrees of freedom: some stand far out."""
    rng = np.random.default_rng(0)
    x = rng.standard_t(2.5, (1000, 8))
    y = np.tanh(x[:, :4]).sum(1) + 0.5 * x[:, 4] + 0.3 * rng.standard_t(2.5, 1000)
    return _pair(x, scaled(y[:, None]))


@cache
def words() -> tuple[Tensor, Tensor]:
    """1,000 rows of 8 words out of 200, the n-th as frequent as 1 / n; each has a score, the class is their sum's."""
    rng = np.random.default_rng(0)
    often = 1 / np.arange(1, 201)
    found = rng.choice(200, (1000, 8), p=often / often.sum())
    total = rng.normal(size=200)[found].sum(1) + 0.3 * rng.normal(size=1000)
    return torch.as_tensor(found), torch.as_tensor(np.digitize(total, np.quantile(total, [0.25, 0.5, 0.75])))


@cache
def characters(module: ModuleType, length: int) -> tuple[Tensor, Tensor]:
    """640 pieces of a module's source, and each character's next: the 31 most frequent, and one for the others."""
    text = inspect.getsource(module)
    known = sorted(set(text), key=lambda c: (-text.count(c), c))[:31]
    codes = np.array([known.index(c) if c in known else 31 for c in text])
    starts = np.random.default_rng(0).choice(len(codes) - length, 640, replace=False)
    pieces = codes[starts[:, None] + np.arange(length + 1)]
    return torch.as_tensor(pieces[:, :-1]), torch.as_tensor(pieces[:, 1:])
