"""The grid of final losses that advice is scored against: python -m benchmarks.advice.grid adds what it lacks."""

import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import torch

from benchmarks.advice.lanes import CONSTANT, SETTINGS, Setting, train
from benchmarks.advice.tasks import TASKS, Half, Task

FILE = Path(__file__).with_name("grid.json")
SEEDS = (0, 1)
Entry = dict[str, list[float]]  # lr; L0, a seed each; L, for every lr a seed each
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
        """Whether the loss stays positive, whatever the seed and lr, and the best lr brings it below .8 L0."""
        return min(map(min, self.runs)) > 0 and self.best < SCORED * self.start

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
    for planned_case in planned(half, setting):
        found = stored.get(key(*planned_case))
        if found is not None:
            yield from_entry(*planned_case, found)


def trained(task: Task, optimizer: str, setting: Setting, lrs: Sequence[float]) -> Case:
    """Train a case at these lrs."""
    found = train(task, optimizer, lrs, SEEDS, setting=setting)
    runs = tuple(tuple(each) for each in found.final.tolist())
    return Case(task, optimizer, setting, tuple(found.start.tolist()), tuple(lrs), runs)


def begun(task: Task, optimizer: str, setting: Setting, constant: Case | None) -> Case:
    """A case on its first grid: about the best constant lr, or where a scan of 100 updates falls furthest."""
    ratio, below, above, times = _GRIDS[setting.name]
    if constant is None:
        constant = trained(task, optimizer, _SCAN, [10 ** (-6 + i / 2) for i in range(19)])
    middle = times * constant.best_lr
    return trained(task, optimizer, setting, [middle * ratio**i for i in range(-below, above + 1)])


def widened(case: Case) -> Case:
    """The case on a grid that reaches far enough beyond its best lr, itself where it does so already."""
    ratio = _GRIDS[case.setting.name][0]
    if case.best_lr < BEYOND * case.lrs[0]:
        lrs = [case.lrs[0] * ratio**i for i in range(-_MORE, 0)]
    elif case.lrs[-1] < BEYOND * case.best_lr and math.isfinite(case.finals[-1]):
        lrs = [case.lrs[-1] * ratio**i for i in range(1, _MORE + 1)]
    else:
        return case
    more = trained(case.task, case.optimizer, case.setting, lrs)
    both = sorted(zip(case.lrs + more.lrs, case.runs + more.runs, strict=True))
    return widened(replace(case, lrs=tuple(lr for lr, _ in both), runs=tuple(ends for _, ends in both)))


def entry(case: Case) -> Entry:
    """A case as JSON: four digits; a diverged run is -1, which no loss is."""
    finals = [v if math.isfinite(v) else -1.0 for each in case.runs for v in each]
    values = {"lr": case.lrs, "L0": case.starts, "L": finals}
    return {name: [float(f"{v:.4g}") for v in column] for name, column in values.items()}


def from_entry(task: Task, optimizer: str, setting: Setting, found: Entry) -> Case:
    """The case back from it."""
    losses = [math.inf if v == -1 else v for v in found["L"]]
    runs = tuple(zip(*(losses[i :: len(SEEDS)] for i in range(len(SEEDS))), strict=True))
    return Case(task, optimizer, setting, tuple(found["L0"]), tuple(found["lr"]), runs)


def read() -> dict[str, Entry]:
    """What grid.json holds."""
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}


def write(entries: dict[str, Entry]) -> None:
    """Write grid.json, a line a case, whole or not at all."""
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in entries.items())
    unfinished = FILE.with_suffix(".part")
    unfinished.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    unfinished.replace(FILE)


def main(names: list[str]) -> None:
    """Train what the grid lacks, of all cases or of those whose key has one of these parts; each is written at once."""
    torch.set_num_threads(1)
    for task, optimizer, setting in planned():
        name, stored = key(task, optimizer, setting), read()
        if names and not any(part in name for part in names):
            continue
        constant = stored.get(key(task, optimizer, CONSTANT))
        if name in stored:
            case = from_entry(task, optimizer, setting, stored[name])
        else:
            known = None if constant is None else from_entry(task, optimizer, CONSTANT, constant)
            case = begun(task, optimizer, setting, known)
        found = entry(widened(case))
        if found != stored.get(name):
            write({**read(), name: found})
            print(name, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
