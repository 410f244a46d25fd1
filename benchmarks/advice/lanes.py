"""Many learning rates and seeds of one task trained side by side: torch.func over eigenstep's own rules."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, replace_all_batch_norm_modules_, vmap

import eigenstep as es
from benchmarks.advice.tasks import BATCH, Task

STEPS = 1000
LAST = 0.05  # the share of the steps whose full-data losses are averaged
EVERY = 5  # of those steps, every fifth is evaluated


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
    if name == "adam":
        return es.Adam(lr=lr)
    return es.Momentum(lr=lr, momentum=0.9) if name == "momentum" else es.GradientDescent(lr=lr)


def batches(samples: int, steps: int, seed: int) -> np.ndarray:
    """Rows of BATCH indices (steps, BATCH): shuffled anew every epoch, what is left over at its end dropped."""
    rng, rows = np.random.default_rng(seed), []
    while len(rows) < steps:
        order = rng.permutation(samples)
        rows += [order[i : i + BATCH] for i in range(0, samples - BATCH + 1, BATCH)]
    return np.stack(rows[:steps])


def train(
    task: Task,
    optimizer: str,
    lrs: Sequence[float],
    seeds: Sequence[int],
    *,
    steps: int = STEPS,
    points: Sequence[int] = (),
) -> Curves:
    """Train the task at every lr with every seed; a lane whose loss is not finite has diverged and is dropped."""
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
    rows = torch.as_tensor(np.stack([batches(len(x), steps, s) for s in seeds]))
    gradient, value = vmap(grad(loss)), vmap(loss, in_dims=(0, None, None))
    with torch.no_grad():
        first = value(starts, x, y)
    tail = [s for s in range(steps - int(LAST * steps) + 1, steps + 1) if (steps - s) % EVERY == 0]
    seen = torch.full((len(points), len(lanes)), math.inf)
    final = torch.zeros(len(lanes), dtype=torch.float64)
    alive = lanes.clone()
    columns = rule.columns(flat)
    for t in range(1, steps + 1):
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
                state = es.State(tuple(b[good] for b in state.buffers), tuple(s[good] for s in state.scales))
                columns = rule_of_name(optimizer, lr[alive]).columns(flat)
            if not len(alive):
                break
    dead = torch.ones(len(lanes), dtype=torch.bool)
    dead[alive] = False
    final[dead] = math.inf
    shape = (len(lrs), len(seeds))
    return Curves(torch.tensor(lrs), first, final.view(shape), tuple(points), seen.view(-1, *shape))
