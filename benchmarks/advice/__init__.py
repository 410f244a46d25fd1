"""Advice on the learning rate, policies side by side: how much of the best lr's fall of the loss each one gets."""

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from statistics import fmean, median

import numpy as np
import torch

from benchmarks.advice.grid import SEEDS, Case, load
from benchmarks.advice.lanes import CONSTANT, SETTINGS, train
from benchmarks.advice.policies import OURS, POLICIES, Advice, ours
from benchmarks.advice.tasks import Half

TITLE = "Advice on the learning rate: share of the best lr's fall of the log loss; ceiling: another seed's best lr"
GOOD = 0.75
HALVES: tuple[Half, Half] = ("development", "held out")
HEADER = [
    *("setting", "half", "policy", "mean score", "share >= .75", "diverged", "worst", "ceiling"),
    *("best lr inside", "interval's width", "reason true", "training steps", "ours minus it, 95%"),
]


@dataclass(frozen=True)
class Outcome:
    """What a policy advised on a case, and how the runs at its lr ended."""

    case: Case
    policy: str
    advice: Advice
    final: float

    @property
    def score(self) -> float:
        """The policy's score; no advice where there was some to give counts as a run that never moved."""
        return self.case.score(self.final) if self.advice.lr is not None else 0.0

    @property
    def diverged(self) -> bool:
        """Whether a run at the lr that was advised diverged."""
        return self.advice.lr is not None and self.case.diverged(self.final)

    @property
    def inside(self) -> bool | None:
        """Whether the case's best lr lies in the interval; None without one."""
        interval = self.advice.interval
        return None if interval is None else interval[0] <= self.case.best_lr <= interval[1]

    @property
    def width(self) -> float | None:
        """The interval's width, as a factor."""
        return None if self.advice.interval is None else self.advice.interval[1] / self.advice.interval[0]


def asked(half: Half, setting: str, name: str, policy: str, quick: bool) -> tuple[Advice, float]:
    """What a policy advises on a case, and how the runs of every seed end at that lr; quick: as the grid tells it."""
    case = next(case for case in load(half, setting) if case.name == name)
    if policy == OURS:
        advice = ours(case.task, case.optimizer, case.setting)
    else:
        advice = POLICIES[policy](case.task, case.optimizer)
    if advice.lr is None or not math.isfinite(advice.lr):
        return advice, math.inf
    told = case.between(advice.lr) if quick else None
    if told is None:
        told = float(train(case.task, case.optimizer, [advice.lr], SEEDS, setting=case.setting).final.mean())
    return advice, told


def outcomes(
    cases: Sequence[Case], policies: Sequence[str] = (OURS,), *, quick: bool = False, jobs: int = 1
) -> Iterator[Outcome]:
    """Ask the policies about every case, in so many processes; the outcomes come in order."""
    pairs = [(case, policy) for case in cases for policy in policies]
    questions = [(case.task.half, case.setting.name, case.name, policy, quick) for case, policy in pairs]
    with ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        answers = pool.map(asked, *zip(*questions, strict=True)) if questions else ()
        for (case, policy), (advice, final) in zip(pairs, answers, strict=True):
            yield Outcome(case, policy, advice, final)


def interval(differences: Sequence[float], tasks: Sequence[str]) -> tuple[float, float]:
    """The 95% interval of the mean paired difference: whole tasks drawn anew 10,000 times (percentile bootstrap).

    A task's optimizers are not independent cases, so they are drawn together.
    """
    names = sorted(set(tasks))
    sums, counts = np.zeros(len(names)), np.zeros(len(names))
    for difference, task in zip(differences, tasks, strict=True):
        sums[names.index(task)] += difference
        counts[names.index(task)] += 1
    drawn = np.random.default_rng(0).integers(0, len(names), (10_000, len(names)))
    low, high = np.quantile(sums[drawn].sum(1) / counts[drawn].sum(1), [0.025, 0.975])
    return float(low), float(high)


def row(part: Sequence[Outcome], mine: Sequence[Outcome] = (), what: str | None = None) -> list[str]:
    """A table's row: a policy on the cases of one half and setting; beside our own outcomes on them, if given."""
    first, scores = part[0], [o.score for o in part]
    inside = [o.inside for o in part if o.inside is not None]
    widths = [o.width for o in part if o.width is not None]
    true = [o.advice.true for o in part if o.advice.true is not None]
    ahead = ""
    if mine:
        differences = [m.score - score for m, score in zip(mine, scores, strict=True)]
        low, high = interval(differences, [o.case.task.name for o in part])
        ahead = f"{fmean(differences):+.2f} ({low:+.2f} to {high:+.2f})"
    return [
        *(first.case.setting.name, f"{first.case.task.half} ({len(part)} cases)", what or first.policy),
        *(f"{fmean(scores):.3f}", f"{fmean(s >= GOOD for s in scores):.0%}", str(sum(o.diverged for o in part))),
        *(f"{min(scores):.2f}", f"{fmean(o.case.ceiling for o in part):.3f}"),
        *(f"{sum(inside)} of {len(inside)}" if inside else "", f"{median(widths):.1f}" if widths else ""),
        *(f"{sum(true)} of {len(true)}" if true else "", f"{fmean(o.advice.steps for o in part):.0f}", ahead),
    ]


def rows(half: Half, setting: str, *, jobs: int) -> list[list[str]]:
    """A row for each policy; the rivals advise on a constant lr alone."""
    cases = [case for case in load(half, setting) if case.scored]
    found = list(outcomes(cases, list(POLICIES) if setting == CONSTANT.name else [OURS], jobs=jobs))
    parts = {policy: [o for o in found if o.policy == policy] for policy in POLICIES}
    return [row(part, [] if name == OURS else parts[OURS]) for name, part in parts.items() if part]


def run() -> tuple[list[str], list[list[str]]]:
    """Ask the policies on every case of both halves and every setting: an hour or so on two cores."""
    jobs = len(os.sched_getaffinity(0))
    return HEADER, [line for half in HALVES for setting in SETTINGS for line in rows(half, setting, jobs=jobs)]
