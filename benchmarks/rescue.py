"""Rescue: from ten times the lr that diverges, what StabilityLR makes of it, beside a schedule and the best lr."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

import eigenstep as es
from benchmarks.advice.grid import Case, load
from benchmarks.advice.lanes import EVERY, LAST, STEPS, batches
from benchmarks.advice.tasks import optimizer_of

TITLE = "Rescue: 1,000 updates from ten times the lr that diverges; score as for advice, 1 = the best constant lr"
HEADER = ["optimizer", "policy", "cases", "mean score", "worst", "diverged", "seconds (median)"]
PROBE, SEED, FACTOR = 256, 0, 10.0
Make = Callable[[torch.optim.Optimizer, es.Objective], tuple[LRScheduler | None, es.Monitor | None]]


@dataclass(frozen=True)
class Ending:
    """How a run ended: its final loss as the grid has it (inf: diverged), and how long it took."""

    final: float
    seconds: float


def diverging(case: Case) -> float:
    """The smallest lr of the grid from which on every run ends above its start; the largest of all if none does."""
    bad = [case.diverged(final) for final in case.finals]
    first = next((i for i in range(len(bad)) if all(bad[i:])), len(bad) - 1)
    return case.lrs[first]


def ended(case: Case, lr: float, make: Make) -> Ending:
    """Train one run from that lr under a policy; the loss is the mean over the last twentieth, on all data."""
    x, y = case.task.data()
    model = case.task.model(SEED).train()
    optimizer = optimizer_of(case.optimizer, model, lr)

    def loss(model: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return case.task.loss(model(batch[0]), batch[1])

    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(SEED))[:PROBE]
    rows, tail = batches(len(x), STEPS, SEED, case.task.batch), []
    began = time.process_time()
    scheduler, monitor = make(optimizer, es.Objective(model, loss, (x[chosen], y[chosen])))
    for k in range(STEPS):
        optimizer.zero_grad()
        value = loss(model, (x[rows[k]], y[rows[k]]))
        value.backward()
        optimizer.step()
        if monitor is not None:
            monitor.step(value)
        if scheduler is not None:
            scheduler.step()
        if not math.isfinite(float(value.detach())):
            return Ending(math.inf, time.process_time() - began)
        if k >= STEPS * (1 - LAST) and k % EVERY == EVERY - 1:
            with torch.no_grad():
                tail.append(float(loss(model, (x, y))))
    return Ending(statistics.mean(tail), time.process_time() - began)


def alone(optimizer: torch.optim.Optimizer, probe: es.Objective) -> tuple[LRScheduler, es.Monitor]:
    """StabilityLR as it is."""
    monitor = es.Monitor(probe, optimizer)
    return es.StabilityLR(optimizer, monitor), monitor


def with_end(optimizer: torch.optim.Optimizer, probe: es.Objective) -> tuple[LRScheduler, es.Monitor]:
    """StabilityLR that knows how long the run is."""
    monitor = es.Monitor(probe, optimizer)
    return es.StabilityLR(optimizer, monitor, total_steps=STEPS), monitor


def cosine(optimizer: torch.optim.Optimizer, probe: es.Objective) -> tuple[LRScheduler, None]:
    """A linear warm-up over a tenth of the run to the lr that was given, then half a cosine to 0."""
    warm = STEPS // 10
    up = LinearLR(optimizer, start_factor=0.01, total_iters=warm)
    return SequentialLR(optimizer, [up, CosineAnnealingLR(optimizer, STEPS - warm)], [warm]), None


def nothing(optimizer: torch.optim.Optimizer, probe: es.Objective) -> tuple[None, None]:
    """A constant lr."""
    return None, None


POLICIES: dict[str, tuple[Make, float]] = {
    "constant, 10 times diverging": (nothing, FACTOR),
    "cosine with warm-up to the same": (cosine, FACTOR),
    "StabilityLR": (alone, FACTOR),
    "StabilityLR(total_steps=1000)": (with_end, FACTOR),
}


def run() -> tuple[list[str], list[list[str]]]:
    """All scored cases of the advice benchmark, one seed, policies by turns."""
    found: dict[tuple[str, str], list[tuple[float, bool, float]]] = {}
    for case in load():
        if not case.scored:
            continue
        for name, (make, factor) in POLICIES.items():
            end = ended(case, factor * diverging(case), make)
            result = case.score(end.final), case.diverged(end.final), end.seconds
            for group in (case.optimizer, "all"):
                found.setdefault((group, name), []).append(result)
    rows = []
    for (group, name), results in sorted(found.items(), key=lambda item: item[0][0] == "all"):
        scores = [score for score, _, _ in results]
        rows.append(
            [
                *(group, name, f"{len(results)}", f"{statistics.mean(scores):.2f}", f"{min(scores):.2f}"),
                *(f"{sum(d for _, d, _ in results)}", f"{statistics.median(s for _, _, s in results):.1f}"),
            ]
        )
    return HEADER, rows
