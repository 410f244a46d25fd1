"""What advises a learning rate: torch's default, two finders by their own rules, the initial limit / 8, recommend."""

import contextlib
import io
import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import eigenstep as es
from benchmarks.advice.lanes import CONSTANT, Setting
from benchmarks.advice.tasks import Task, optimizer_of

SEED = 0  # the seed that advice is asked on; both seeds are then trained with its lr


@dataclass(frozen=True)
class Advice:
    """A learning rate and the training steps that it cost; lr None where a policy says that nothing trains.

    interval, true, seconds: of recommend's answer; whether its reason is true.
    """

    lr: float | None
    steps: int
    interval: tuple[float, float] | None = None
    true: bool | None = None
    seconds: float = 0.0


def loader_of(task: Task, setting: Setting = CONSTANT) -> DataLoader[tuple[Tensor, ...]]:
    """The task's mini-batches, shuffled."""
    generator, batch = torch.Generator().manual_seed(SEED), setting.batch_of(task)
    return DataLoader(TensorDataset(*task.data()), batch, shuffle=True, drop_last=True, generator=generator)


def torch_default(task: Task, optimizer: str) -> Advice:
    """lr = 1e-3, for SGD and Adam alike."""
    return Advice(1e-3, 0)


def torch_lr_finder(task: Task, optimizer: str) -> Advice:
    """The package's own range test as its README has it (1e-7 to 100 in 100 steps) and its suggestion."""
    from matplotlib.figure import Figure
    from torch_lr_finder import LRFinder

    model = task.model(SEED)
    finder = LRFinder(model, optimizer_of(optimizer, model, 1e-7), task.loss)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        finder.range_test(loader_of(task), end_lr=100, num_iter=100)
        steps = len(finder.history["lr"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = finder.plot(ax=Figure().subplots(), suggest_lr=True)
    lr = found[1] if isinstance(found, tuple) else None
    return Advice(1e-3 if lr is None else float(lr), steps)


def lightning_lr_find(task: Task, optimizer: str) -> Advice:
    """Lightning's curve (1e-8 to 1 in 100 steps, smoothed by .98, stopped at 4 times its best) and its suggestion."""
    from lightning.pytorch.tuner.lr_finder import _LRFinder

    model, low, high, number = task.model(SEED), 1e-8, 1.0, 100
    stepper = optimizer_of(optimizer, model, low)
    finder = _LRFinder("exponential", low, high, number)
    finder.results = {"lr": [], "loss": []}
    average, best, loader = 0.0, math.inf, iter(())
    for i in range(number):
        batch = next(loader, None)
        if batch is None:
            loader = iter(loader_of(task))
            batch = next(loader)
        stepper.zero_grad()
        loss = task.loss(model(batch[0]), batch[1])
        loss.backward()
        for group in stepper.param_groups:
            group["lr"] = low * (high / low) ** ((i + 1) / number)
        stepper.step()
        average = 0.98 * average + 0.02 * float(loss.detach())
        smooth = average / (1 - 0.98 ** (i + 1))
        finder.results["lr"].append(stepper.param_groups[0]["lr"])
        finder.results["loss"].append(smooth)
        if i > 1 and smooth > 4 * best:
            break
        best = min(best, smooth)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        lr = finder.suggestion()
    return Advice(1e-3 if lr is None else float(lr), len(finder.results["lr"]))


def initial_limit_eighth(task: Task, optimizer: str) -> Advice:
    """An eighth of the stability limit at the start."""
    model = task.model(SEED)
    limit = es.limit_now(objective_of(task, model), optimizer_of(optimizer, model), quick=True)
    return Advice(limit.max_stable_lr / 8, 0)


def ours(task: Task, optimizer: str, setting: Setting = CONSTANT) -> Advice:
    """eigenstep.recommend as it stands, asked for the setting's horizon, schedule and mini-batches."""
    model, began = task.model(SEED), time.perf_counter()
    how: dict[str, Any] = {"train": loader_of(task, setting), "horizon": setting.steps, "progress": False}
    if setting.schedule != "constant":
        how |= {"schedule": setting.schedule, "warmup": setting.warmup}
    found = es.recommend(objective_of(task, model), optimizer_of(optimizer, model), **how)
    told = found.as_dict()
    return Advice(found.lr, told["steps"], found.interval, reason_holds(told), time.perf_counter() - began)


def reason_holds(told: Mapping[str, Any]) -> bool | None:
    """Whether the run that the reason calls the lowest is: of all that were run none stood lower; None without one."""
    ends = [(run["lr"], run["losses"][-1]) for run in told["candidates"] if not run["diverged"]]
    won = [end for lr, end in ends if lr == told["rehearsed"]]
    return min(won) <= min(end for _, end in ends) if won else None


def objective_of(task: Task, model: nn.Module) -> es.Objective:
    """The task's loss on all of its data."""
    return es.Objective(model, lambda model, batch: task.loss(model(batch[0]), batch[1]), task.data())


POLICIES: dict[str, Callable[[Task, str], Advice]] = {
    "torch's default, 1e-3": torch_default,
    "torch-lr-finder": torch_lr_finder,
    "Lightning's lr_find": lightning_lr_find,
    "initial limit / 8": initial_limit_eighth,
    "eigenstep.recommend": ours,
}
OURS = "eigenstep.recommend"
