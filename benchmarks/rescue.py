"""StabilityLR: what a good run loses by it, and what it makes of a bad one: python -m benchmarks.rescue development.

A half in some six minutes: there each task is rescued under one of its optimizers, the next one for the next task;
--all rescues under all. While StabilityLR is being developed the half is 'development'.
"""

import argparse
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

import eigenstep as es
from benchmarks.advice import HALVES
from benchmarks.advice.grid import Case, load
from benchmarks.advice.lanes import EVERY, LAST, batches
from benchmarks.advice.tasks import TASKS, Half, optimizer_of

TITLE = "StabilityLR, 1,000 updates: good runs beside the same without it, and from ten times the lr that diverges"
HEADER = ["half", "run", "optimizer", "cases", "score alone", "with it", "worst", "lost, mean", "lost, worst"]
HEADER += ["left as it was", "diverged", "seconds alone", "with it"]
BATCHES = 4  # of the run's own size, which the monitor's probe is made of
SEED, FACTOR = 0, 10.0
RUNS = ("best constant lr", "best cosine peak", "10 times diverging", "the same, total_steps=1000")


@dataclass(frozen=True)
class Ending:
    """How a run ended: its final loss as the grid has it (inf: diverged), the lrs it used, how long it took."""

    final: float
    lrs: tuple[float, ...]
    seconds: float


@dataclass(frozen=True)
class Pair:
    """A case's run without StabilityLR and with it."""

    case: Case
    run: str
    alone: Ending
    kept: Ending

    @property
    def scores(self) -> tuple[float, float]:
        """Of both: 1 is the best lr's, which none is above."""
        return self.case.score(self.alone.final), self.case.score(self.kept.final)

    @property
    def lost(self) -> float:
        """What StabilityLR cost of the score; what it gains counts as nothing lost."""
        alone, kept = self.scores
        return max(alone - kept, 0.0)

    @property
    def untouched(self) -> bool:
        """Whether both runs are the same, lr for lr."""
        return self.alone.lrs == self.kept.lrs


def diverging(case: Case) -> float:
    """The smallest lr of the grid from which on every run ends above its start; the largest of all if none does."""
    bad = [case.diverged(final) for final in case.finals]
    return next((lr for i, lr in enumerate(case.lrs) if all(bad[i:])), case.lrs[-1])


def ended(case: Case, lr: float, options: dict[str, Any] | None) -> Ending:
    """Train a case's run from that lr, or to that peak, under StabilityLR with these options; None: without it."""
    x, y = case.task.data()
    model = case.task.model(SEED).train()
    optimizer = optimizer_of(case.optimizer, model, lr)
    steps, size = case.setting.steps, case.setting.batch_of(case.task)

    def loss(model: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return case.task.loss(model(batch[0]), batch[1])

    began, scheduler, monitor = time.process_time(), None, None
    if case.setting.schedule != "constant":
        scheduler = LambdaLR(optimizer, lambda k: case.setting.factor(k + 1))
    if options is not None:
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(SEED))
        probe = es.Objective(model, loss, [(x[rows], y[rows]) for rows in order.split(size)[:BATCHES]])
        monitor = es.Monitor(probe, optimizer, every=steps, dense=0)  # only what StabilityLR itself asks for
        asked = {} if scheduler is None else {"schedule": scheduler}
        scheduler = es.StabilityLR(optimizer, monitor, **asked, **options)
    lrs, tail = [], []
    for k, rows in enumerate(batches(len(x), steps, SEED, size)):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.zero_grad()
        value = loss(model, (x[rows], y[rows]))
        value.backward()
        optimizer.step()
        if monitor is not None:
            monitor.step(value)
        if scheduler is not None:
            scheduler.step()
        if not math.isfinite(float(value.detach())):
            return Ending(math.inf, tuple(lrs), time.process_time() - began)
        if k >= steps * (1 - LAST) and k % EVERY == EVERY - 1:
            with torch.no_grad():
                tail.append(float(loss(model, (x, y))))
    return Ending(fmean(tail), tuple(lrs), time.process_time() - began)


def pairs(half: Half, every: bool) -> Iterator[Pair]:
    """Run a half's cases; every: rescue under every optimizer, not one a task."""
    for case in load(half, "cosine"):
        if case.scored:
            yield Pair(case, RUNS[1], ended(case, case.best_lr, None), ended(case, case.best_lr, {}))
    for case in load(half):
        if not case.scored:
            continue
        yield Pair(case, RUNS[0], ended(case, case.best_lr, None), ended(case, case.best_lr, {}))
        own = case.task.optimizers
        if every or case.optimizer == own[TASKS.index(case.task) // 2 % len(own)]:
            wild = FACTOR * diverging(case)
            alone = ended(case, wild, None)
            for run, options in zip(RUNS[2:], ({}, {"total_steps": case.setting.steps}), strict=True):
                yield Pair(case, run, alone, ended(case, wild, options))


def rows(half: str, found: Sequence[Pair]) -> list[list[str]]:
    """A row for each kind of run and optimizer, and one for all optimizers."""
    table = []
    for run in RUNS:
        some = [pair for pair in found if pair.run == run]
        for kind in (*dict.fromkeys(pair.case.optimizer for pair in some), "all"):
            part = [pair for pair in some if kind in ("all", pair.case.optimizer)]
            alone, kept = ([pair.scores[i] for pair in part] for i in (0, 1))
            table.append(
                [
                    *(half, run, kind, f"{len(part)}", f"{fmean(alone):.2f}", f"{fmean(kept):.2f}", f"{min(kept):.2f}"),
                    *(f"{fmean(p.lost for p in part):.3f}", f"{max(p.lost for p in part):.3f}"),
                    *(f"{sum(p.untouched for p in part)}", f"{sum(p.case.diverged(p.kept.final) for p in part)}"),
                    *(
                        f"{median(end.seconds for end in ends):.1f}"
                        for ends in ([p.alone for p in part], [p.kept for p in part])
                    ),
                ]
            )
    return table


def line(pair: Pair) -> str:
    """A case in a line."""
    alone, kept = pair.scores
    told = "as it was" if pair.untouched else f"lost {pair.lost:.3f}"
    return f"{pair.run:27s} {pair.case.name:42s} {alone:6.3f} {kept:6.3f}  {told:10s} {pair.kept.seconds:5.1f} s"


def run() -> tuple[list[str], list[list[str]]]:
    """Both halves, all cases, one seed."""
    return HEADER, [row for half in HALVES for row in rows(half, list(pairs(half, every=True)))]


def main() -> None:
    """Run a half, and print its cases and its table."""
    parser = argparse.ArgumentParser("python -m benchmarks.rescue", description=__doc__)
    halves: dict[str, Half] = {name.replace(" ", "-"): name for name in HALVES}
    parser.add_argument("half", choices=list(halves))
    parser.add_argument("--all", action="store_true", help="rescue under every optimizer, not one a task")
    told = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)  # the monitor's alarms
    found = []
    for pair in pairs(halves[told.half], told.all):
        found.append(pair)
        print(line(pair), flush=True)
    lines = [HEADER, *rows(told.half, found)]
    for cells in lines:
        print("  ".join(cell.ljust(max(len(c[i]) for c in lines)) for i, cell in enumerate(cells)).rstrip())


if __name__ == "__main__":
    main()
