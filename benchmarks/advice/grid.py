"""The grid of final losses that advice is scored against: python -m benchmarks.advice.grid adds what it lacks."""

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import torch

from benchmarks.advice.lanes import CONSTANT, SETTINGS, Curves, Setting, train
from benchmarks.advice.tasks import TASKS, Half, Task

FILE = Path(__file__).with_name("grid.json")
SEEDS = (0, 1)
SCORED = 0.8  # a case counts if the best lr brings the loss below this share of its start
BEYOND = 4.0  # how far a grid goes on to both sides of its best lr, unless all runs above diverge
_SCAN = Setting("a scan", steps=100)
# Of a setting's grid: the ratio of its lrs, and how many there are below and above what the scan, or the best constant
# lr times a factor, leads one to expect; more are added at an end that turns out too near. (The first tasks' constant
# grids are older and finer: 36 lrs a factor 1.4 apart.)
_GRIDS = {
    "constant": (1.8, 9, 7, 1.0),
    "cosine": (1.6, 5, 6, 2.0),
    "horizon 4000": (1.6, 5, 4, 0.8),
    "batch 8": (1.6, 6, 4, 0.6),
}
_MORE = 3


@dataclass(frozen=True)
class Case:
    """A task under an optimizer in a setting: every seed's first loss, the (peak) lrs, and every lr's final losses.

    runs: a final loss for each seed, inf where it diverged.
    """

    task: Task
    optimizer: str
    setting: Setting
    starts: tuple[float, ...]
    lrs: tuple[float, ...]
    runs: tuple[tuple[float, ...], ...]

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.task.name}, {self.optimizer}"

    @property
    def start(self) -> float:
        """The first loss L0, mean over seeds."""
        return fmean(self.starts)

    @property
    def finals(self) -> tuple[float, ...]:
        """Every lr's final loss, mean over seeds."""
        return tuple(fmean(each) for each in self.runs)

    @property
    def best(self) -> float:
        """The lowest final loss of the grid."""
        return min(self.finals)

    @property
    def best_lr(self) -> float:
        """The lr that it is reached with."""
        return self.lrs[self.finals.index(self.best)]

    @property
    def scored(self) -> bool:
        """Whether the loss stays positive and the best lr brings it below .8 L0."""
        return 0 < self.best < SCORED * self.start

    @property
    def ceiling(self) -> float:
        """What knowing the best lr of another seed scores, on average: no advice from one run can mean to do better."""
        alone = [
            replace(self, starts=(start,), runs=tuple((each[i],) for each in self.runs))
            for i, start in enumerate(self.starts)
        ]
        return fmean(
            one.score(one.finals[one.lrs.index(other.best_lr)]) for one in alone for other in alone if one is not other
        )

    def score(self, final: float) -> float:
        """(log L0 - log L) / (log L0 - log L_best), clipped to -1 and 1; -1 for a run that diverged."""
        if self.diverged(final):
            return -1.0
        share = math.log(self.start / max(final, 1e-30)) / math.log(self.start / self.best)
        return min(1.0, max(-1.0, share))

    def between(self, lr: float) -> float | None:
        """About how a run at this lr ends: interpolated, logarithms over logarithms; None outside the grid.

        Beside an lr that diverges, or a loss of 0, as the nearer of the two ends.
        """
        for (a, end), (b, other) in pairwise(zip(self.lrs, self.finals, strict=True)):
            if a <= lr <= b:
                part = math.log(lr / a) / math.log(b / a)
                if math.isfinite(end + other) and min(end, other) > 0:
                    return end ** (1 - part) * other**part
                return end if part < 0.5 else other
        return None

    def diverged(self, final: float) -> bool:
        """Whether a final loss is not finite, or above where the run began (by 1%: a run that stood still did not)."""
        return not math.isfinite(final) or final > 1.01 * self.start

    def fails(self, lr: float) -> bool | None:
        """Whether a run at this lr of the grid diverges, or ends above its start; None where the seeds disagree."""
        ends = {
            not final <= 1.01 * start for final, start in zip(self.runs[self.lrs.index(lr)], self.starts, strict=True)
        }
        return ends.pop() if len(ends) == 1 else None


def key(task: Task, optimizer: str, setting: Setting) -> str:
    """What grid.json calls a case."""
    return f"{task.name}, {optimizer}" + ("" if setting == CONSTANT else f", {setting.name}")


def planned(half: Half | None = None, setting: str | None = None) -> Iterator[tuple[Task, str, Setting]]:
    """Yield the cases that there are to be: a half's, a setting's, or all, those for development first."""
    for each in ("development", "held out"):
        for name in SETTINGS:
            for task in TASKS:
                if task.half != each or half not in (None, each) or setting not in (None, name):
                    continue
                for optimizer in task.optimizers if name in ("constant", "cosine") else task.also:
                    yield task, optimizer, SETTINGS[name]


def load(half: Half | None = None, setting: str = CONSTANT.name) -> Iterator[Case]:
    """Yield the cases of a half, or all, in a setting."""
    stored = read()
    for task, optimizer, chosen in planned(half, setting):
        found = stored.get(key(task, optimizer, chosen))
        if found is not None:
            losses = [math.inf if v == -1 else v for v in found["L"]]
            runs = tuple(zip(*(losses[i :: len(SEEDS)] for i in range(len(SEEDS))), strict=True))
            yield Case(task, optimizer, chosen, tuple(found["L0"]), tuple(found["lr"]), runs)


def expected(task: Task, optimizer: str, stored: dict[str, dict[str, list[float]]]) -> float:
    """About where the best constant lr is: as the grid has it, or as a scan of 100 updates says."""
    found = stored.get(key(task, optimizer, CONSTANT))
    if found is not None:
        return next(c.best_lr for c in load(task.half) if (c.task, c.optimizer) == (task, optimizer))
    coarse = [10 ** (-6 + i / 2) for i in range(19)]
    ends = train(task, optimizer, coarse, SEEDS, setting=_SCAN).final.mean(1)
    return coarse[int(ends.nan_to_num(math.inf).argmin())]


def measured(task: Task, optimizer: str, setting: Setting, stored: dict[str, dict[str, list[float]]]) -> Curves:
    """Train a case on a grid that reaches far enough beyond its best lr."""
    ratio, below, above, times = _GRIDS[setting.name]
    middle = times * expected(task, optimizer, stored)
    ends = train(task, optimizer, [middle * ratio**i for i in range(-below, above + 1)], SEEDS, setting=setting)
    while True:
        finals = ends.final.mean(1)
        lrs, best = ends.lrs.tolist(), int(finals.argmin())
        if lrs[best] < BEYOND * lrs[0]:
            lrs = [lrs[0] * ratio**i for i in range(-_MORE, 0)]
        elif lrs[-1] < BEYOND * lrs[best] and math.isfinite(float(finals[-1])):
            lrs = [lrs[-1] * ratio**i for i in range(1, _MORE + 1)]
        else:
            return ends
        more = train(task, optimizer, lrs, SEEDS, setting=setting)
        order = torch.cat([ends.lrs, more.lrs]).argsort()
        ends = replace(
            ends,
            lrs=torch.cat([ends.lrs, more.lrs])[order],
            final=torch.cat([ends.final, more.final])[order],
        )


def entry(curves: Curves) -> dict[str, list[float]]:
    """A case as JSON: four digits; a diverged run is -1, which no loss is."""
    lrs, start = curves.lrs.tolist(), curves.start.tolist()
    finals = [v if math.isfinite(v) else -1.0 for v in curves.final.flatten().tolist()]
    return {key: [float(f"{v:.4g}") for v in values] for key, values in {"lr": lrs, "L0": start, "L": finals}.items()}


def read() -> dict[str, dict[str, list[float]]]:
    """What grid.json holds."""
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}


def write(entries: dict[str, dict[str, list[float]]]) -> None:
    """Write grid.json, a line a case, whole or not at all."""
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in entries.items())
    unfinished = FILE.with_suffix(".part")
    unfinished.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    unfinished.replace(FILE)


def main(names: list[str]) -> None:
    """Train every case that the grid lacks, and anew those of the tasks named; one after the other is written."""
    torch.set_num_threads(1)
    for task, optimizer, setting in planned():
        stored = read()
        name = key(task, optimizer, setting)
        if name not in stored or task.name in names:
            found = entry(measured(task, optimizer, setting, stored))
            write({**read(), name: found})
            print(name, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
