"""From rehearsals to a `Recommendation`: the lr, its interval, its reason, or why there is none."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from eigenstep.bridge import rules_told
from eigenstep.bridge.param_groups import lrs_of, relative
from eigenstep.recommendation.parts import Asked, AtStart, Candidate, Rehearsals
from eigenstep.recommendation.result import Recommendation
from eigenstep.recommendation.search import LrSearch
from eigenstep.recommendation.start import StartMeasurements
from eigenstep.rehearsal import Lane, Rehearsal
from eigenstep.stability.zero_gradient import DEAD_FROM

LITTLE, NOTHING = 0.2, 0.01  # of the loss: dead units still let it fall by LITTLE (by the last bias), then by NOTHING


def answer(
    rehearsal: Rehearsal,
    search: LrSearch | None,
    measured: StartMeasurements,
    settings: Mapping[str, float],
    horizon: int,
    seconds: float,
) -> Recommendation:
    """Return the recommendation that the rehearsals and the measurements at the start make together."""
    start, budget = rehearsal.start, rehearsal.budget
    best = search.order[0] if search is not None and search.order else None
    if best is None and search is not None and search.good():  # interrupted: the best trial
        best = min((search.lanes[k] for k in search.good()), key=lambda lane: lane.loss)
    if best is not None and not best.loss < start:
        best = None
    chosen = best if search is None or search.chosen is None else search.chosen
    furthest = chosen if best is not None and chosen is not None and chosen.loss < best.loss else best
    reason, trains = _judged(search, furthest, best, start, measured)
    lr = chosen.lr if trains and chosen is not None else None
    missing = "interrupted before anything was run" if search is None else search.missing
    verified = lr is not None and search is not None and search.verified
    return Recommendation(
        lr=lr,
        interval=None if lr is None else _interval(search, best, chosen),
        reason=reason,
        trains=trains,
        warmup=None if lr is None or best is None else measured.warmup(lr, best.step),
        unchecked=tuple(_unchecked(rehearsal, chosen, horizon, missing)),
        notes=tuple(measured.notes),
        asked=Asked(
            optimizer=type(rehearsal.optimizer).__name__,
            groups=tuple(lrs_of(rehearsal.optimizer)),
            horizon=horizon,
            budget=budget.steps,
            settings=dict(settings),
        ),
        at_start=AtStart(start, measured.limit, measured.critical, tuple(measured.later)),
        rehearsals=Rehearsals(
            candidates=tuple(
                Candidate(lane.lr, tuple(lane.points), tuple(lane.losses), lane.diverged, lane.step)
                for lane in ([] if search is None else search.everything)
            ),
            edge=None if search is None else search.edge,
            rehearsed=None if best is None else best.lr,
            loss=None if chosen is None else chosen.loss,
            verified=verified,
            verified_steps=chosen.step if chosen is not None and search is not None and search.verified else 0,
            steps=budget.used,
            seconds=seconds,
            complete=missing is None,
            missing=missing,
        ),
        rules=tuple(_rules_at(rehearsal.optimizer, lr)),
    )


def _interval(search: LrSearch | None, best: Lane | None, chosen: Lane | None) -> tuple[float, float] | None:
    """The interval of an answer, twice as wide on each side where the search was not finished."""
    if search is None or best is None or chosen is None:
        return None
    low, high = search.interval(best, chosen)
    if search.missing is None:
        return low, high
    return low / 2, min(high * 2, math.inf if search.edge is None else search.edge[1])


def _rules_at(optimizer: torch.optim.Optimizer, lr: float | None) -> Iterator[dict[str, Any]]:
    """Each param group's rule as data, at the lr of the answer, the groups' ratios kept; at its own without one."""
    for rule, ratio in zip(rules_told(optimizer), relative(lrs_of(optimizer)), strict=True):
        yield rule if lr is None else {**rule, "lr": lr * ratio}


def _judged(
    search: LrSearch | None, furthest: Lane | None, best: Lane | None, start: float, measured: StartMeasurements
) -> tuple[str, bool]:
    """The reason, and whether there is an lr to recommend."""
    if not math.isfinite(start):
        return f"the loss is {start} at the start: no lr can mend that; begin from a finite one", False
    if search is None:
        return "interrupted before anything was run: call it again", False
    if (unbounded := measured.bottomless or search.unbounded) is not None:
        return unbounded, False
    if furthest is None or best is None:
        return _nothing_falls(search, start, measured), False
    stuck = _stuck(search, furthest, start, measured)
    return (_reason(search, best, measured), True) if stuck is None else (stuck, False)


def _nothing_falls(search: LrSearch, start: float, measured: StartMeasurements) -> str:
    """Why no run lowered the loss."""
    if search.missing is not None and not search.lanes:
        return f"too little was run, so give a larger budget: {search.missing}"
    if measured.critical is not None and measured.critical.reason is not None:
        return f"nothing trains here, whatever the lr, so look at the model first: {measured.critical.reason}"
    tried = sorted(lane.lr for lane in search.lanes.values())
    return (
        f"nothing trains here, so look at the loss and the data first: no lr from {tried[0]:.2g} to "
        f"{tried[-1]:.2g} lowered the loss from {start:.4g}; it may be as low as it gets, or the mini-batches may "
        "lead elsewhere than the objective's data"
    )


def _stuck(search: LrSearch, best: Lane, start: float, measured: StartMeasurements) -> str | None:
    """Why the best run went nowhere, under dead units; None, perhaps with a note, where it did go on."""
    fall = 1 - best.loss / start if start > 0 else math.inf
    stopped = start > 0 and (max(best.tail()) - best.loss) / start < NOTHING
    if search.missing is not None or fall >= LITTLE or not stopped:
        return None
    if measured.zero_gradient_share is not None and measured.zero_gradient_share >= DEAD_FROM:
        return (
            f"nothing trains here, whatever the lr, so look at the initialisation first: over {best.step} updates the "
            f"loss went from {start:.4g} to {best.loss:.4g} and no further; {measured.zero_gradient_share:.0%} of the "
            "parameters have no gradient, neither at the start nor there, as under dead units"
        )
    # A floor above zero, a plateau as deep networks begin on and a slow, steady fall cannot be told apart so early:
    # how much the loss could lose is not known.
    measured.notes.append(
        f"the loss fell by {fall:.2%} in {best.step} updates, by less than {NOTHING:.0%} in the second half of them: "
        "near its floor, on a plateau, or falling slowly; so short a run tells little about the lr then"
    )
    return None


def _reason(search: LrSearch, best: Lane, measured: StartMeasurements) -> str:
    """Why this lr, in a sentence."""
    edge = search.edge or (best.lr, math.inf)
    upper = (
        f"from {edge[1]:.3g} on it diverged or the loss rose" if math.isfinite(edge[1]) else "no larger lr was tried"
    )
    how = f"of {len(search.lanes)} learning rates rehearsed {best.lr:.3g} brought the loss lowest and most steadily"
    if search.missing is not None:
        how = f"{best.lr:.3g} was the best so far ({search.missing})"
    text = f"{how}: {best.loss:.4g} after {best.step} updates."
    if search.chosen is not None and search.chosen is not best:
        times = best.lr / search.chosen.lr
        text += f" The answer stays {times:.2g} times below it, since sharpness goes on rising."
    text += f" Short runs lowered the loss up to {edge[0]:.3g}, {upper}"
    if measured.limit is not None and math.isfinite(measured.limit.max_stable_lr):
        text += f"; the limit at the start is {measured.limit.max_stable_lr:.3g}"
    return text + "."


def _unchecked(rehearsal: Rehearsal, best: Lane | None, horizon: int, missing: str | None) -> list[str]:
    """What the answer does not cover."""
    found = [] if missing is None else [missing]
    if best is not None and best.step < horizon:
        found.append(f"updates {best.step + 1} to {horizon}: that the order of the candidates stays is a bet")
    found.append("a schedule: every run was at a constant lr")
    if rehearsal.clip is None:
        found.append("gradient clipping and accumulation, if your loop has them")
    if not rehearsal.whole:
        found.append("the objective's other batches: the probe is 16 of them")
    if rehearsal.stream.full and not rehearsal.stream.one:
        found.append(f"more than {len(rehearsal.stream.kept)} mini-batches: for memory these were gone over repeatedly")
    return found


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
    return f"beside it {other.headline}, which reached {goal:.3g} within {counts[0]} updates, the first in {counts[1]}"
