"""Whether a diagnosis calls failing what fails: python -m benchmarks.diagnosis development."""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch.utils.data import DataLoader, TensorDataset

import eigenstep as es
from benchmarks.advice.grid import SCORED, Case, load
from benchmarks.advice.tasks import Half, optimizer_of
from eigenstep.diagnosis.allowance import Allowance
from eigenstep.diagnosis.conclude import inputs_of
from eigenstep.diagnosis.diagnose import measuring
from eigenstep.diagnosis.verdict import code_of

TITLE = "Diagnosis: verdicts beside the runs' ends, at lrs from a hundredth to ten times the best"
HEADER = ["half", "cases", "runs that fail", "called unstable", "runs that train", "not called so", "seconds (median)"]
HALVES: tuple[Half, Half] = ("development", "held out")
FROM, TO = 0.01, 10.0  # times the best lr
LOW, STRIDE = 0.5, 5  # of the lrs below half the best, where next to nothing fails, every fifth is asked
SEED, SECONDS, PROBE = 0, 60.0, 256  # samples on which losses and ratios are looked at


@dataclass(frozen=True)
class Judged:
    """A run of the grid, and what a diagnosis says of it before it is made.

    - fails: whether it diverges or ends above its start (Case.fails); False where it trains, to below SCORED of it.
    - failing: whether the verdict says so.
    """

    case: Case
    lr: float
    fails: bool
    code: str
    seconds: float

    @property
    def failing(self) -> bool:
        """Whether the verdict is failing."""
        return self.code in ("unstable", "diverged")


def asked(case: Case) -> Iterator[tuple[float, bool]]:
    """The lrs of a case that are asked for, and whether a run with it fails; those that do neither are left out."""
    low = 0
    for lr, final in zip(case.lrs, case.finals, strict=True):
        if not FROM * 0.99 <= lr / case.best_lr <= TO * 1.01:
            continue
        if lr < LOW * case.best_lr:
            low += 1
            if low % STRIDE:
                continue
        fails = case.fails(lr)
        if fails or (fails is False and final < SCORED * case.start):
            yield lr, fails


def judged(case: Case, lr: float, fails: bool) -> Judged:
    """The verdict's part of a diagnosis at the start of a run: its play and its limit."""
    x, y = case.task.data()
    model = case.task.model(SEED).train()
    loader = DataLoader(TensorDataset(x, y), batch_size=case.setting.batch_of(case.task), shuffle=True, drop_last=True)
    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(SEED))[:PROBE]
    looked = x[chosen], y[chosen]
    objective = es.Objective(model, lambda model, batch: case.task.loss(model(batch[0]), batch[1]), looked)
    began = time.process_time()
    optimizer, allowance = optimizer_of(case.optimizer, model, lr), Allowance(SECONDS)
    with objective.session(), measuring(objective, optimizer, allowance, train=loader, quick=True) as measured:
        measured.judge()
        code = code_of(inputs_of(measured))
    return Judged(case, lr, fails, code, time.process_time() - began)


def row(half: str, found: Sequence[Judged]) -> list[str]:
    """The counts of a half."""
    bad, good = [j for j in found if j.fails], [j for j in found if not j.fails]
    caught, right = sum(j.failing for j in bad), sum(not j.failing for j in good)
    return [
        *(half, str(len({j.case.name for j in found}))),
        *(str(len(bad)), f"{caught} ({caught / len(bad):.1%})" if bad else "-"),
        *(str(len(good)), f"{right} ({right / len(good):.1%})" if good else "-"),
        f"{median(j.seconds for j in found):.2f}",
    ]


def half_of(half: Half, names: Sequence[str] = (), told: bool = False) -> list[Judged]:
    """Judge a half's cases, or those whose names hold one of the parts given."""
    found = []
    for case in load(half):
        if names and not any(name in case.name for name in names):
            continue
        for lr, fails in asked(case):
            found.append(judged(case, lr, fails))
            one = found[-1]
            if told and one.failing != fails:
                what = "MISSED" if fails else "WRONGLY unstable"
                print(
                    f"{case.name:46s} lr {lr:9.3g} ({lr / case.best_lr:5.2f} of the best): {what}, {one.code}",
                    flush=True,
                )
    return found


def run(halves: Sequence[Half] = HALVES) -> tuple[list[str], list[list[str]]]:
    """Measure both halves."""
    return HEADER, [row(half, half_of(half)) for half in halves]


def main(words: list[str]) -> None:
    """Judge one half, every wrong verdict told: HALF [PART OF A NAME ...]."""
    torch.set_num_threads(1)
    names = {half.replace(" ", "-"): half for half in HALVES}
    if not words or words[0] not in names:
        raise SystemExit(f"usage: python -m benchmarks.diagnosis {' | '.join(names)} [PART OF A NAME ...]")
    half = names[words[0]]
    for name, value in zip(HEADER, row(half, half_of(half, words[1:], told=True)), strict=True):
        print(f"{name}: {value}")


if __name__ == "__main__":
    main(sys.argv[1:])
