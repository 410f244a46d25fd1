"""The grid of final losses that advice is scored against: python -m benchmarks.advice.grid rebuilds grid.json."""

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.advice.lanes import Curves, train
from benchmarks.advice.tasks import OPTIMIZERS, TASKS, Half, Task

FILE = Path(__file__).with_name("grid.json")
POINTS, SEEDS = 36, (0, 1)
RATIO = 1.4  # of neighbours, for the plain optimizers; their grid ends 4 times above where a coarse scan survives
_LIVES = 10.0  # times the first loss: what a coarse run of 60 steps may end at
SCORED = 0.8  # a case counts if the best lr brings the loss below this share of its start


@dataclass(frozen=True)
class Case:
    """A task under an optimizer: its first loss L0, the lrs, their final losses (mean over seeds; inf: diverged)."""

    task: Task
    optimizer: str
    start: float
    lrs: tuple[float, ...]
    finals: tuple[float, ...]

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.task.name}, {self.optimizer}"

    @property
    def best(self) -> float:
        """The lowest final loss of the grid."""
        return min(self.finals)

    @property
    def scored(self) -> bool:
        """Whether the loss stays positive and the best lr brings it below .8 L0."""
        return 0 < self.best < SCORED * self.start

    def score(self, final: float) -> float:
        """(log L0 - log L) / (log L0 - log L_best), clipped at -1; -1 for a run that diverged."""
        if self.diverged(final):
            return -1.0
        return max(-1.0, math.log(self.start / max(final, 1e-30)) / math.log(self.start / self.best))

    def diverged(self, final: float) -> bool:
        """Whether a final loss is not finite, or above where the run began (by 1%: a run that stood still did not)."""
        return not math.isfinite(final) or final > 1.01 * self.start


def lrs_for(task: Task, optimizer: str) -> list[float]:
    """36 lrs: for Adam from 1e-5 to 1, for the others downwards from where a coarse scan of 60 steps says."""
    if optimizer == "adam":
        return [10 ** (-5 + i / 7) for i in range(POINTS)]
    coarse = [10 ** (-8 + i / 2) for i in range(23)]
    curves = train(task, optimizer, coarse, SEEDS, steps=60)
    alive = (curves.final.isfinite() & (curves.final < _LIVES * curves.start)).all(1)
    top = 4 * max(lr for lr, lives in zip(coarse, alive.tolist(), strict=True) if lives)
    return [top * RATIO ** (i + 1 - POINTS) for i in range(POINTS)]


def entry(curves: Curves) -> dict[str, list[float]]:
    """A case as JSON: four digits; a diverged run is -1, which no loss is."""
    lrs, start = curves.lrs.tolist(), curves.start.tolist()
    finals = [v if math.isfinite(v) else -1.0 for v in curves.final.flatten().tolist()]
    return {key: [float(f"{v:.4g}") for v in values] for key, values in {"lr": lrs, "L0": start, "L": finals}.items()}


def load(half: Half | None = None) -> Iterator[Case]:
    """Yield the cases of a half, or all, in the tasks' order."""
    stored = json.loads(FILE.read_text(encoding="utf-8"))
    for task in TASKS:
        for optimizer in OPTIMIZERS:
            if half in (None, task.half):
                found = stored[f"{task.name}, {optimizer}"]
                losses = torch.tensor(found["L"], dtype=torch.float64).view(-1, len(SEEDS))
                losses[losses == -1] = math.inf
                start = sum(found["L0"]) / len(SEEDS)
                yield Case(task, optimizer, start, tuple(found["lr"]), tuple(losses.mean(1).tolist()))


def write(entries: dict[str, dict[str, list[float]]]) -> None:
    """Write grid.json, a line a case."""
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in entries.items())
    FILE.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def main(names: list[str]) -> None:
    """Train every case anew, or those of the tasks named; the others are kept."""
    torch.set_num_threads(1)
    entries = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    for task in TASKS:
        for optimizer in OPTIMIZERS:
            if not names or task.name in names:
                entries[f"{task.name}, {optimizer}"] = entry(train(task, optimizer, lrs_for(task, optimizer), SEEDS))
                print(task.name, optimizer, flush=True)
                write(entries)


if __name__ == "__main__":
    main(sys.argv[1:])
