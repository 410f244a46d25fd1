"""Advice on the learning rate, policies side by side: how much of the best lr's fall of the loss each one gets."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.advice.grid import SEEDS, Case, load
from benchmarks.advice.lanes import train
from benchmarks.advice.policies import OURS, POLICIES, Advice

TITLE = "Advice on the learning rate: share of the best lr's fall of the log loss after 1,000 steps"
GOOD = 0.75
HEADER = ["half", "policy", "mean score", "share >= .75", "diverged", "worst", "training steps", "ours minus it, 95%"]


@dataclass(frozen=True)
class Outcome:
    """What the policies advised on a case, and how the runs at their lrs ended."""

    case: Case
    advice: dict[str, Advice]
    finals: dict[str, float]

    def score(self, policy: str) -> float:
        """The policy's score; no advice where there was some to give counts as a run that never moved."""
        return self.case.score(self.finals[policy]) if self.advice[policy].lr is not None else 0.0


def outcome(case: Case) -> Outcome:
    """Ask every policy, then train with its lr, both seeds, 1,000 steps."""
    advice = {name: policy(case.task, case.optimizer) for name, policy in POLICIES.items()}
    lrs = {name: a.lr for name, a in advice.items() if a.lr is not None and math.isfinite(a.lr)}
    runs = train(case.task, case.optimizer, list(lrs.values()), SEEDS).final.mean(1).tolist() if lrs else []
    return Outcome(case, advice, {**dict.fromkeys(POLICIES, math.inf), **dict(zip(lrs, runs, strict=True))})


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


def rows(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """A row for each half and policy."""
    table = []
    for half in ("development", "held out"):
        part = [o for o in outcomes if o.case.task.half == half and o.case.scored]
        if not part:
            continue
        mine = [o.score(OURS) for o in part]
        for policy in POLICIES:
            scores = [o.score(policy) for o in part]
            diverged = sum(o.case.diverged(o.finals[policy]) for o in part if o.advice[policy].lr is not None)
            steps = [o.advice[policy].steps for o in part]
            names = [o.case.task.name for o in part]
            low, high = interval([a - b for a, b in zip(mine, scores, strict=True)], names)
            ahead = f"{np.mean(mine) - np.mean(scores):+.2f} ({low:+.2f} to {high:+.2f})"
            good = sum(s >= GOOD for s in scores) / len(part)
            table.append(
                [
                    *(f"{half} ({len(part)} cases)", policy, f"{np.mean(scores):.2f}", f"{good:.0%}", str(diverged)),
                    *(f"{min(scores):.2f}", f"{np.mean(steps):.0f}", "" if policy == OURS else ahead),
                ]
            )
    return table


def run() -> tuple[list[str], list[list[str]]]:
    """Ask the policies on every case of both halves: some twenty minutes."""
    return HEADER, rows([outcome(case) for case in load()])
