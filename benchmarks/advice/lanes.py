"""Many learning rates and seeds of one task trained side by side: torch.func over eigenstep's own rules."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, replace_all_batch_norm_modules_, vmap

import eigenstep as es
from benchmarks.advice.tasks import BATCH, Task, optimizer_of

STEPS = 1000
LAST = 0.05  # the share of the steps whose full-data losses are averaged
EVERY = 5  # of those steps, every fifth is evaluated; in longer runs as many in all


@dataclass(frozen=True)
class Setting:
    """How a run goes: its updates, its schedule after a linear warm-up, and its batch (None: the task's own)."""

    name: str
    steps: int = STEPS
    schedule: str = "constant"
    warmup: float = 0.0
    batch: int | None = None

    def factor(self, t: int) -> float:
        """The share of the peak lr at update t, from 1: up to it in the warm-up, then constant or half a cosine."""
        warm = round(self.warmup * self.steps)
        if t <= warm:
            return t / (warm + 1)
        if self.schedule == "constant":
            return 1.0
        return (1 + math.cos(math.pi * (t - 1 - warm) / (self.steps - warm))) / 2

    def batch_of(self, task: Task) -> int:
        """The samples of a mini-batch."""
        return self.batch or task.batch


CONSTANT = Setting("constant")
SETTINGS = {
    setting.name: setting
    for setting in (
        CONSTANT,
        Setting("cosine", schedule="cosine", warmup=0.1),
        Setting("horizon 4000", steps=4000),
        Setting("batch 8", batch=8),
    )
}


@dataclass(frozen=True)
class Curves:
    """What came out: `start` (seeds,), `final` (lrs, seeds), inf where diverged, and losses (points, lrs, seeds)."""

    lrs: Tensor
    start: Tensor
    final: Tensor
    points: tuple[int, ...]
    losses: Tensor


def rule_of_name(name: str, lr: Tensor) -> es.Rule:
    """The benchmark's optimizer as a rule with one lane for each learning rate."""
    return replace(es.rule_of(optimizer_of(name, nn.Linear(1, 1)))[0].rule, lr=lr)


def batches(samples: int, steps: int, seed: int, batch: int = BATCH) -> np.ndarray:
    """Rows of indices (steps, batch): shuffled anew every epoch, what is left over at its end dropped."""
    rng, rows = np.random.default_rng(seed), []
    while len(rows) < steps:
        order = rng.permutation(samples)
        rows += [order[i : i + batch] for i in range(0, samples - batch + 1, batch)]
    return np.stack(rows[:steps])


def train(
    task: Task,
    optimizer: str,
    lrs: Sequence[float],
    seeds: Sequence[int],
    *,
    setting: Setting = CONSTANT,
    points: Sequence[int] = (),
) -> Curves:
    """Train the task at every (peak) lr with every seed; a lane whose loss is not finite diverged and is dropped."""
    steps = setting.steps
    x, y = task.data()
    models = [task.model(seed) for seed in seeds]
    shapes = {name: p.shape for name, p in models[0].named_parameters()}
    sizes = [shape.numel() for shape in shapes.values()]
    base = replace_all_batch_norm_modules_(task.model(0)).train()
    buffers = dict(base.named_buffers())

    def loss(flat: Tensor, xb: Tensor, yb: Tensor) -> Tensor:
        parts = {n: p.view(s) for (n, s), p in zip(shapes.items(), flat.split(sizes), strict=True)}
        return task.loss(functional_call(base, {**parts, **buffers}, (xb,)), yb)

    starts = torch.stack([nn.utils.parameters_to_vector(m.parameters()).detach() for m in models])
    lanes = torch.arange(len(lrs) * len(seeds))
    lr, seed = torch.tensor(lrs).double()[lanes // len(seeds)], lanes % len(seeds)
    flat = starts[seed].clone()
    rule = rule_of_name(optimizer, lr)
    state = rule.init(flat)
    rows = torch.as_tensor(np.stack([batches(len(x), steps, s, setting.batch_of(task)) for s in seeds]))
    gradient, value = vmap(grad(loss)), vmap(loss, in_dims=(0, None, None))
    with torch.no_grad():
        first = value(starts, x, y)
    every = EVERY * max(1, steps // STEPS)
    tail = [s for s in range(steps - int(LAST * steps) + 1, steps + 1) if (steps - s) % every == 0]
    seen = torch.full((len(points), len(lanes)), math.inf)
    final = torch.zeros(len(lanes), dtype=torch.float64)
    alive = lanes.clone()
    factor, columns = 1.0, rule.columns(flat)
    for t in range(1, steps + 1):
        if factor != setting.factor(t):
            factor = setting.factor(t)
            columns = replace(rule, lr=factor * lr[alive]).columns(flat)
        idx = rows[seed[alive], t - 1]
        g = gradient(flat, x[idx], y[idx])
        flat, state = columns.step(flat, g, state, t)
        due = t in points or t in tail
        if due or t % 20 == 0:
            good = flat.isfinite().all(1)
            if due:
                with torch.no_grad():
                    now = value(flat, x, y)
                good &= now.isfinite()
                if t in points:
                    seen[points.index(t), alive[good]] = now[good]
                if t in tail:
                    final[alive] += now.double() / len(tail)
            if not good.all():
                flat, alive = flat[good], alive[good]
                if not len(alive):
                    break
                state = es.State(tuple(b[good] for b in state.buffers), tuple(s[good] for s in state.scales))
                columns = replace(rule, lr=factor * lr[alive]).columns(flat)
    dead = torch.ones(len(lanes), dtype=torch.bool)
    dead[alive] = False
    final[dead] = math.inf
    shape = (len(lrs), len(seeds))
    return Curves(torch.tensor(lrs), first, final.view(shape), tuple(points), seen.view(-1, *shape))
