"""The tasks and the contestants of the comparisons with other curvature libraries; no benchmark by itself.

Three models of examples/, each with one batch that every library takes as (inputs, targets): the strongest case for
those that keep a graph for one batch only. Attention's math kernel is forced around the rivals, which fail without.
"""

import copy
import importlib.util
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse.linalg
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import eigenstep as es

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
INSTALLED = {name: importlib.util.find_spec(name) is not None for name in ("pyhessian", "hessian_eigenthings")}
INSTALLED["curvlinops"] = importlib.util.find_spec("curvlinops") is not None


@dataclass(frozen=True)
class Task:
    """A model, one batch (inputs, targets), and its loss as criterion(outputs, targets)."""

    name: str
    model: nn.Module
    inputs: Tensor
    targets: Tensor
    criterion: nn.Module = nn.CrossEntropyLoss()  # noqa: RUF009 (holds no state)

    @property
    def batch(self) -> tuple[Tensor, Tensor]:
        """What every library takes."""
        return self.inputs, self.targets

    @property
    def params(self) -> list[nn.Parameter]:
        """All of the model's parameters."""
        return list(self.model.parameters())

    @property
    def size(self) -> int:
        """Their number of entries."""
        return sum(p.numel() for p in self.params)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The batch's mean loss, as eigenstep takes it."""
        return self.criterion(model(batch[0]), batch[1])

    def gradient(self) -> tuple[Tensor, ...]:
        """What everything is measured in: one plain gradient, attention as torch chooses it."""
        return torch.autograd.grad(self.loss(self.model, self.batch), self.params)

    def objective(self) -> es.Objective:
        """A new objective, nothing of it checked yet."""
        return es.Objective(self.model, self.loss, self.batch)


class Flat(nn.Module):
    """A language model whose predictions are rows, as a criterion outside of it expects them."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, time) symbols to (batch * time, symbols) scores."""
        return self.inner(tokens).flatten(0, 1)


def tasks(passages: int = 2) -> list[Task]:
    """The MLP (17,226 parameters, 1,797 digits), the CNN (21,578, BatchNorm; 300 digits), the GPT (1.26 million)."""
    import character_gpt
    import digits_cnn
    import digits_mlp

    images, labels = digits_mlp.batches(1797)[0]
    mlp = Task("MLP", digits_mlp.objective()[0].model, images, labels)
    cnn = Task("CNN", digits_cnn.objective()[0].model, images[:300], labels[:300])
    measured = character_gpt.objective()[0]
    tokens = next(iter(measured.batches))["tokens"][:passages]
    gpt = Task("GPT", Flat(measured.model), tokens[:, :-1], tokens[:, 1:].flatten())
    return [mlp, cnn, gpt]


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of processor time (one thread: what a clock shows on a quiet machine), and what the work returned."""
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


@contextmanager
def rival_rules() -> Iterator[None]:
    """What the rivals need to run at all: attention's math kernel, and their warnings kept quiet."""
    with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def exact_top(task: Task, k: int = 5) -> np.ndarray:
    """The k largest eigenvalues by SciPy's ARPACK in float64, on products by double backward written out here."""
    model = copy.deepcopy(task.model).double()
    params = list(model.parameters())
    inputs = task.inputs.double() if task.inputs.is_floating_point() else task.inputs
    with sdpa_kernel(SDPBackend.MATH):
        grads = torch.autograd.grad(task.criterion(model(inputs), task.targets), params, create_graph=True)

    def product(v: np.ndarray) -> np.ndarray:
        parts = torch.split(torch.from_numpy(np.ascontiguousarray(v.reshape(-1))), [p.numel() for p in params])
        shaped = [part.view_as(p) for part, p in zip(parts, params, strict=True)]
        out = torch.autograd.grad(grads, params, shaped, retain_graph=True)
        return torch.cat([o.reshape(-1) for o in out]).numpy()

    operator = scipy.sparse.linalg.LinearOperator((task.size,) * 2, matvec=product, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(task.size)
    values = scipy.sparse.linalg.eigsh(operator, k, which="LA", tol=1e-6, v0=start, return_eigenvectors=False)
    return np.sort(values)[::-1]


def eigenthings(task: Task) -> Any:
    """Its Hessian of the task's batch."""
    import hessian_eigenthings as he

    return he.HessianOperator(task.model, [task.batch], he.supervised_loss(task.criterion))


def curvlinops(task: Task) -> Any:
    """Its Hessian of the task's batch, without its check for determinism (which doubles the set-up)."""
    from curvlinops import HessianLinearOperator

    return HessianLinearOperator(task.model, task.criterion, task.params, [task.batch], check_deterministic=False)


@contextmanager
def pyhessian(task: Task) -> Iterator[Any]:
    """Its object for the task's batch.

    It forces eval mode: where BatchNorm needs train mode, its loader path is used, which allows the mode to be set
    again. Its gradients and graphs are taken out of the model afterwards.
    """
    from pyhessian import hessian

    if any(isinstance(m, nn.BatchNorm2d) for m in task.model.modules()):
        made = hessian(task.model, task.criterion, dataloader=[task.batch], cuda=False)
        task.model.train()
    else:
        made = hessian(task.model, task.criterion, data=task.batch, cuda=False)
    try:
        yield made
    finally:
        made.gradsH = None
        task.model.zero_grad(set_to_none=True)
        task.model.train()


def why(error: Exception) -> str:
    """The first words of a rival's failure."""
    return f"fails: {type(error).__name__}: {' '.join(str(error).split())[:60]}"
