"""From rehearsals to a `Recommendation`: the lr, its interval, its reason, or why there is none."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from eigenstep.bridge import rules_told
from eigenstep.bridge.param_groups import adapts, lrs_of, relative
from eigenstep.recommendation import words
from eigenstep.recommendation.parts import Asked, AtStart, Candidate, Rehearsals
from eigenstep.recommendation.request import Request
from eigenstep.recommendation.result import Recommendation
from eigenstep.recommendation.search import LrSearch
from eigenstep.recommendation.start import StartMeasurements
from eigenstep.rehearsal import Lane, Rehearsal
from eigenstep.rehearsal.schedule import updates
from eigenstep.stability.zero_gradient import DEAD_FROM

LITTLE, NOTHING = 0.2, 0.01  # of the loss: dead units still let it fall by LITTLE (by the last bias), then by NOTHING
# How far below and above the answer the best lr lies in 8 of 10 of the development cases of benchmarks/advice, at a
# constant lr and under a cosine; methods that do not adapt have it closer to where they diverge, farther above.
BELOW_ADAPTIVE, ABOVE_ADAPTIVE = 2.0, 2.8
BELOW, ABOVE = 1.7, 3.5
SHORT = 0.05  # of the horizon: shorter runs were not calibrated on, the benchmark's take .08 to .18 of it


def answer(
    rehearsal: Rehearsal,
    search: LrSearch | None,
    measured: StartMeasurements,
    settings: Mapping[str, float],
    asked: Request,
    seconds: float,
) -> Recommendation:
    """Return the recommendation that the rehearsals and the measurements at the start make together."""
    start, budget, schedule = rehearsal.start, rehearsal.budget, rehearsal.schedule
    winner = None if search is None else search.winner
    chosen = None if search is None else search.chosen
    reason, trains = _judged(rehearsal, search, winner, measured)
    missing = "interrupted before anything was run" if search is None else search.missing
    lr = None
    if trains and search is not None and winner is not None:
        lr = chosen.lr if chosen is not None else search.middle() or winner.lr
    verified = chosen is not None and lr is not None
    return Recommendation(
        lr=lr,
        interval=None if lr is None or search is None else _interval(search, lr),
        reason=reason,
        trains=trains,
        unchecked=tuple(words.unchecked(rehearsal, chosen, missing, asked)),
        notes=tuple(measured.notes),
        asked=Asked(
            optimizer=type(rehearsal.optimizer).__name__,
            groups=tuple(lrs_of(rehearsal.optimizer)),
            horizon=schedule.horizon,
            budget=budget.steps,
            settings=dict(settings),
            schedule=schedule.name,
            warmup=schedule.warmup,
            shape=schedule.thinned(),
            loop=asked.loop is not None,
            validation=asked.validation is not None,
            seconds_allowed=asked.seconds,
        ),
        at_start=AtStart(start, measured.limit, measured.critical, tuple(measured.later)),
        rehearsals=Rehearsals(
            candidates=() if search is None else tuple(_candidate(lane, search) for lane in search.everything),
            edge=None if search is None else search.edge,
            rehearsed=None if winner is None else winner.lr,
            loss=None if chosen is None else chosen.loss,
            verified=verified,
            verified_steps=chosen.step if chosen is not None and verified else 0,
            steps=budget.used,
            seconds=seconds,
            complete=missing is None,
            missing=missing,
        ),
        rules=tuple(_rules_at(rehearsal.optimizer, lr)),
        given=schedule,
    )


def _candidate(lane: Lane, search: LrSearch) -> Candidate:
    return Candidate(
        lane.lr, tuple(lane.points), tuple(lane.losses), lane.diverged, lane.step, words.under(lane, search)
    )


def _interval(search: LrSearch, lr: float) -> tuple[float, float]:
    """The interval around an answer, twice as wide on each side where little is known.

    That is: of an unfinished search, of very short runs, of runs whose loss stood still.
    It ends below what diverged; at a constant lr, which falls to no better one, below what raised the loss as well.
    """
    below, above = (BELOW_ADAPTIVE, ABOVE_ADAPTIVE) if adapts(search.rehearsal.optimizer) else (BELOW, ABOVE)
    short = search.chosen is None or search.chosen.step < SHORT * search.horizon
    still = search.winner is not None and _stood_still(search.winner, search.rehearsal.start)
    wider = 2.0 if short or still or search.missing is not None else 1.0
    ends = [lane.lr for lane in search.alike if lane.lr > lr and lane.diverged]
    if search.edge is not None and search.rehearsal.schedule.constant:
        ends.append(search.edge[1])
    return lr / (below * wider), min([lr * above * wider, *ends])


def _rules_at(optimizer: torch.optim.Optimizer, lr: float | None) -> Iterator[dict[str, Any]]:
    """Each param group's rule as data, at the lr of the answer, the groups' ratios kept; at its own without one."""
    for rule, ratio in zip(rules_told(optimizer), relative(lrs_of(optimizer)), strict=True):
        yield rule if lr is None else {**rule, "lr": lr * ratio}


def _judged(
    rehearsal: Rehearsal, search: LrSearch | None, winner: Lane | None, measured: StartMeasurements
) -> tuple[str, bool]:
    """The reason, and whether there is an lr to recommend."""
    start = rehearsal.start
    if not math.isfinite(start):
        return f"the loss is {start} at the start: no lr can mend that; begin from a finite one", False
    if search is None:
        return "interrupted before anything was run: call it again", False
    if (unbounded := measured.bottomless or search.unbounded) is not None:
        return unbounded, False
    if winner is None:
        return words.nothing_falls(search, start, measured), False
    stuck = _stuck(search, winner, start, measured)
    return (words.reason(search, winner, measured), True) if stuck is None else (stuck, False)


def _stuck(search: LrSearch, best: Lane, start: float, measured: StartMeasurements) -> str | None:
    """Why the best run went nowhere, under dead units; None, perhaps with a note, where it did go on."""
    if search.missing is not None or not _stood_still(best, start):
        return None
    fall = 1 - best.loss / start
    if measured.zero_gradient_share is not None and measured.zero_gradient_share >= DEAD_FROM:
        return (
            f"nothing trains here, whatever the lr, so look at the initialisation first: over {updates(best.step)} the "
            f"loss went from {start:.4g} to {best.loss:.4g} and no further; {measured.zero_gradient_share:.0%} of the "
            "parameters have no gradient, neither at the start nor there, as under dead units"
        )
    # A floor above zero, a plateau as deep networks begin on and a slow, steady fall cannot be told apart so early:
    # how much the loss could lose is not known.
    measured.notes.append(
        f"the loss fell by {fall:.2%} in {updates(best.step)}, by less than {NOTHING:.0%} in the second half of them: "
        "near its floor, on a plateau, or falling slowly; so short a run tells little about the lr then"
    )
    return None


def _stood_still(best: Lane, start: float) -> bool:
    """Whether the best run took little off the loss, and next to nothing of it in its second half."""
    return start > 0 and 1 - best.loss / start < LITTLE and (max(best.tail()) - best.loss) / start < NOTHING


def best_of(answers: list[Recommendation], number: int) -> Recommendation:
    """Return the answer whose run stood lowest after equally many updates, and a sentence on the others."""
    ranked = sorted(answers, key=lambda answer: _standing(answer, answers))
    first, rest = ranked[0], ranked[1:]
    told = "; ".join(_against(first, other) for other in rest)
    if len(answers) < number:
        told += f"; {number - len(answers)} of {number} settings were not looked at"
    all_runs = [a.rehearsals for a in answers]
    runs = replace(first.rehearsals, steps=sum(r.steps for r in all_runs), seconds=sum(r.seconds for r in all_runs))
    return replace(first, rehearsals=runs, alternatives=tuple(rest), reason=f"{first.reason} {told}.")


def _run_of(answer: Recommendation) -> Candidate | None:
    """The rehearsal that an answer rests on."""
    return (
        next((c for c in answer.candidates if c.lr == answer.rehearsals.rehearsed), None)
        if answer.lr is not None
        else None
    )


def _standing(answer: Recommendation, among: list[Recommendation]) -> float:
    """The loss of an answer's rehearsal at the last number of updates that all rehearsals share."""
    runs = [run for run in map(_run_of, among) if run is not None]
    mine = _run_of(answer)
    if mine is None:
        return math.inf
    shared = max(set.intersection(*(set(run.points) for run in runs)))
    return mine.losses[mine.points.index(shared)] if shared else mine.losses[-1]


def _against(first: Recommendation, other: Recommendation) -> str:
    """How another answer compares: the updates after which each rehearsal had reached the other's last loss."""
    mine, its = _run_of(first), _run_of(other)
    if mine is None or its is None:
        return f"beside it {other.headline} ({other.reason})"
    goal = max(min(mine.losses), min(its.losses))
    counts = [next(p for p, v in zip(c.points, c.losses, strict=True) if v <= goal) for c in (its, mine)]
    return f"beside it {other.headline}, which reached {goal:.3g} within {updates(counts[0])}, the first in {counts[1]}"
