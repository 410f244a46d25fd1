"""The tasks of the advice benchmark: small, of many kinds, half for development and half held out."""

import heapq
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from benchmarks.advice import data
from benchmarks.advice.models import Attention, Bag, Recurrent, Writer, after, convolutional, mlp, times

Half = Literal["development", "held out"]
BATCH = 64
_KINDS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9}),
    "adam": (torch.optim.Adam, {}),
    "decayed momentum": (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 5e-4}),
    "adamw": (torch.optim.AdamW, {"weight_decay": 0.1}),
}
PLAIN = ("sgd", "momentum", "adam")


@dataclass(frozen=True)
class Task:
    """Data, a model and a loss; `half` says whether the task may be looked at while recommend is developed.

    optimizers: those it is trained by. also: those of them by which it is trained for 4,000 updates too, and with
    batches of 8.
    """

    name: str
    half: Half
    data: Callable[[], tuple[Tensor, Tensor]]
    build: Callable[[], nn.Module]
    prepare: Callable[[nn.Module], None] | None = None
    batch: int = BATCH
    optimizers: tuple[str, ...] = PLAIN
    also: tuple[str, ...] = ()

    def model(self, seed: int) -> nn.Module:
        """The model as it is initialised with this seed."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = self.build()
        if self.prepare is not None:
            with torch.no_grad():
                self.prepare(model)
        return model

    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy for classes, one a row or a place; the mean squared error for numbers."""
        return F.mse_loss(output, y) if y.is_floating_point() else F.cross_entropy(output.flatten(0, -2), y.flatten())


def optimizer_of(name: str, model: nn.Module, lr: float = 1e-3) -> torch.optim.Optimizer:
    """An optimizer of the benchmark, with torch's defaults but for the momentum and decay that its name says."""
    kind, settings = _KINDS[name]
    return kind(model.parameters(), lr=lr, **settings)


TASKS = (
    Task("softmax regression", "development", data.digits, lambda: nn.Linear(64, 10), also=("sgd",)),
    Task("linear regression", "held out", data.diabetes, lambda: nn.Linear(10, 1), also=("adam",)),
    Task("tanh", "development", data.digits, lambda: mlp(64, 32, 32, 10, act=nn.Tanh), also=("adam",)),
    Task("tanh, deep", "held out", data.moons, lambda: mlp(2, *[16] * 6, 2, act=nn.Tanh), also=("adam",)),
    Task("ReLU, deep", "development", data.digits, lambda: mlp(64, *[24] * 5, 10), also=("momentum",)),
    Task("GELU", "development", data.cancer, lambda: mlp(30, 32, 32, 2, act=nn.GELU)),
    Task("GELU, deep", "held out", data.some_digits, lambda: mlp(64, *[24] * 4, 10, act=nn.GELU), also=("momentum",)),
    Task("LayerNorm", "development", data.digits, lambda: mlp(64, 32, 32, 10, norm=nn.LayerNorm), also=("adam",)),
    Task("LayerNorm, raw wine", "held out", data.wine_raw, lambda: mlp(13, 32, 32, 3, act=nn.GELU, norm=nn.LayerNorm)),
    Task(
        "BatchNorm", "held out", data.some_digits, lambda: mlp(64, 32, 32, 10, norm=nn.BatchNorm1d), also=("momentum",)
    ),
    Task(
        "BatchNorm, convolution",
        "development",
        data.some_digits,
        lambda: convolutional(6, 12, norm=True),
        also=("adam",),
    ),
    Task("convolution", "held out", data.some_digits, lambda: convolutional(4, 8)),
    Task(
        "attention on tokens",
        "held out",
        data.sentences,
        lambda: Attention(8, 1, 3, tokens=10, places=6),
        also=("adam",),
    ),
    Task("regression, tanh", "development", data.friedman, lambda: mlp(8, 32, 32, 1, act=nn.Tanh), also=("adam",)),
    Task("regression, GELU", "held out", data.wave, lambda: mlp(1, 32, 32, 1, act=nn.GELU), also=("adam",)),
    Task("raw inputs, cancer", "development", data.cancer_raw, lambda: mlp(30, 24, 2)),
    Task("raw inputs, digits", "held out", data.digits_raw, lambda: mlp(64, 24, 10, act=nn.Tanh)),
    Task("initialised 4 times too large", "development", data.some_digits, lambda: mlp(64, 32, 32, 10), times(4.0)),
    Task("initialised 5 times too small", "held out", data.cancer, lambda: mlp(30, 32, 32, 2, act=nn.GELU), times(0.2)),
    Task(
        "label noise",
        "development",
        data.digits_mislabelled,
        lambda: mlp(64, 48, 10, act=nn.GELU),
        also=("momentum", "adam"),
    ),
    Task("many classes, noisy", "held out", data.crowd, lambda: mlp(12, 64, 40), also=("momentum", "adam")),
    Task(
        "character transformer",
        "development",
        partial(data.characters, heapq, 8),
        lambda: Writer(16, 8),
        batch=16,
        optimizers=("momentum", "adamw"),
        also=("adamw",),
    ),
    Task(
        "LSTM on characters",
        "held out",
        partial(data.characters, textwrap, 8),
        lambda: Recurrent(16),
        batch=16,
        optimizers=("momentum", "adam"),
        also=("adam",),
    ),
    Task(
        "BatchNorm, decay",
        "development",
        data.digits_mislabelled,
        lambda: mlp(64, 32, 32, 10, norm=nn.BatchNorm1d),
        optimizers=("decayed momentum", "adamw"),
        also=("decayed momentum",),
    ),
    Task(
        "BatchNorm, convolution, decay",
        "held out",
        data.some_digits,
        lambda: convolutional(4, 8, norm=True),
        optimizers=("decayed momentum", "adamw"),
        also=("adamw",),
    ),
    Task(
        "autoencoder",
        "development",
        data.digits_themselves,
        lambda: mlp(64, 24, 8, 24, 64, act=nn.Tanh),
        also=("adam",),
    ),
    Task("heavy tails", "held out", data.tails, lambda: mlp(8, 32, 32, 1), also=("momentum", "adam")),
    Task("embeddings, rare words", "development", data.words, lambda: Bag(200, 12, 4), also=("adam",)),
    Task("fine-tuning", "development", data.digits_high, lambda: mlp(64, 32, 32, 5), after(data.digits_low)),
    Task(
        "fine-tuning, attention",
        "held out",
        data.digits_high,
        lambda: Attention(8, 1, 5),
        after(data.digits_low),
        optimizers=("momentum", "adamw"),
    ),
)
