"""`recommend`: the learning rate as a number, with an interval, a reason and the check that was run."""

import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from eigenstep.curvature.lanczos import Aim
from eigenstep.errors import InvalidValue, Unsupported
from eigenstep.objective import Objective, world
from eigenstep.objective.objective import required
from eigenstep.progress import FORWARD, GRADIENT, PRODUCT, Task, Watch, task
from eigenstep.recommendation.rehearse import PROBE_BATCHES, Budget, Lane, Rehearsal, Stream
from eigenstep.recommendation.result import Candidate, Recommendation, put_settings
from eigenstep.recommendation.search import FEWEST, LrSearch
from eigenstep.recommendation.start import StartMeasurements
from eigenstep.stability.copies import rates, refuse_foreign, replace_zero_lrs
from eigenstep.stability.zero_gradient import DEAD_FROM

FAST_STEPS, FAST_SECONDS = 150, 16.0  # what fast=True may take, so that the answer is there in 20 s
LITTLE, NOTHING = 0.2, 0.01  # of the loss: dead units still let it fall by LITTLE (by the last bias), then by NOTHING
_LOSSES = 60  # evaluations of the probe, roughly: three a candidate, and the critical sharpness


@world.with_gradients()
@world.own_device()
def recommend(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    *,
    train: Any = None,
    horizon: int = 1000,
    budget: int = 500,
    momentum: Sequence[float] | None = None,
    optimizers: Iterable[torch.optim.Optimizer] | None = None,
    clip: float | None = None,
    fast: bool = False,
    seed: int = 0,
    progress: Watch | bool | None = None,
) -> Recommendation:
    """Return the lr for a training run of `horizon` updates, found by at most `budget` training steps on copies.

    Evidence at the start: the certified stability limit, and the critical sharpness of the optimizer's own next step.
    Rehearsal: short real training of copies on the mini-batches of `train` (default: the objective's), every lr on the
    same ones. Trials of budget / 50 steps, by factors of 4 and then 2, find the lr at which this model really diverges;
    from there, or 4 times above the best trial, down, 6 candidates a factor 2 apart are compared by successive halving
    over .03, .08 and .25 of the budget. Losses are those of a fixed probe, the objective's data. A candidate counts by
    the mean of its log loss and of its worst log loss in the run's second half, and the answer stays a factor sqrt 2
    below the winner: sharpness goes on rising. Verification: a run at the answer, from the start, with the steps that
    are left; if it diverges, the next best makes way.

    momentum: values to choose among (momentum, or the first beta). optimizers: others over the same model to compare
    with. The budget is divided among all. clip: the max_norm that your loop clips gradients to. fast: at most 150
    steps and 20 s, candidates a factor 4 apart. progress: as for `measure`. Ctrl-C: the best so far.

    Nothing of the user's changes: model, optimizer, loader, generators. Raises InvalidValue or Unsupported, with the
    remedy, for an optimizer of other parameters, a scheduler in place, a loader that cannot be replayed, no budget.
    Source: Kalra et al. 2026 (arXiv 2601.16979); Jamieson and Talwalkar 2016 (successive halving).

    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> x = torch.eye(2).repeat(8, 1)
    >>> objective = Objective(model, lambda model, x: (model(x) - 1).square().mean(), [x, x])
    >>> found = recommend(objective, torch.optim.SGD(model.parameters(), lr=1e-3), budget=100)
    >>> found.trains, found.verified, 0.3 < found.suggestion() < 2.0, found.steps <= 100
    (True, True, True, True)
    """
    required("recommend", objective)
    chosen = [optimizer, *(optimizers or ())]
    variants = [(o, {} if m is None else {"momentum": float(m)}) for o in chosen for m in (momentum or (None,))]
    answers: list[Recommendation] = []
    with task("recommend", progress, "fast=True, a smaller budget=, samples= on Objective") as work:
        _refuse(objective, chosen, horizon, budget, len(variants), momentum, clip)
        objective = objective.per_update()
        steps = budget // len(variants) if not fast else min(FAST_STEPS, budget // len(variants))
        stream = Stream(_train(objective, train), objective.memory / 4, seed)
        total = steps * len(variants)
        probe = min(len(objective.weights), PROBE_BATCHES)
        beside = probe * (PRODUCT * Aim().expected + FORWARD * _LOSSES)
        work.plan(0.0, f"{total} training steps, and what is measured beside them", total * GRADIENT + beside)
        work.tell(phase="the start", done=0, total=total, unit="training steps")
        for number, (each, settings) in enumerate(variants):
            if answers and answers[-1].missing is not None and answers[-1].missing.startswith("interrupted"):
                break
            seconds = FAST_SECONDS / len(variants) if fast else None
            allowed = Budget(steps, seconds, _shifted(work, number * steps))
            answers.append(_one(objective, each, stream, allowed, settings, horizon, clip, fast, seed))
    return answers[0] if len(answers) == 1 else _best(answers, len(variants))


def _one(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    stream: Stream,
    budget: Budget,
    settings: Mapping[str, float],
    horizon: int,
    clip: float | None,
    fast: bool,
    seed: int,
) -> Recommendation:
    """The answer for one optimizer at one momentum."""
    rehearsal = Rehearsal(objective, optimizer, stream, budget, clip=clip, seed=seed)
    was_zero = replace_zero_lrs(rehearsal.optimizer)
    put_settings(rehearsal.optimizer, settings)
    measured = StartMeasurements(was_zero)
    measured.notes += filter(None, [objective.batches.intake.note()])
    search: LrSearch | None = None
    with rehearsal.session():
        try:
            measured.look(rehearsal, fast)
            search = LrSearch(
                rehearsal, measured.first_guess(rehearsal.optimizer), fast, horizon, watch=measured.follow
            )
            if measured.bottomless is None:
                search.run()
            measured.find_zero_gradient(search)
        except KeyboardInterrupt:
            measured.notes.append("interrupted while the start was being measured")
    return _answer(rehearsal, search, measured, settings, horizon, time.perf_counter() - budget.began)


def _answer(
    rehearsal: Rehearsal,
    search: LrSearch | None,
    measured: StartMeasurements,
    settings: Mapping[str, float],
    horizon: int,
    seconds: float,
) -> Recommendation:
    """Everything that is known, put together."""
    start, budget = rehearsal.start, rehearsal.budget
    best = search.order[0] if search is not None and search.order else None
    if best is None and search is not None and search.good():  # interrupted: the best trial
        best = min((search.lanes[k] for k in search.good()), key=lambda lane: lane.loss)
    if best is not None and not best.loss < start:
        best = None
    chosen = best if search is None or search.chosen is None else search.chosen
    furthest = chosen if best is not None and chosen is not None and chosen.loss < best.loss else best
    unable = _unable(search, furthest, start, measured)
    lr = None if unable is not None or chosen is None else chosen.lr
    missing = "interrupted before anything was run" if search is None else search.missing
    found = search if lr is not None else None
    interval = None if found is None or best is None or chosen is None else found.interval(best, chosen)
    if interval is not None and missing is not None:
        interval = (interval[0] / 2, min(interval[1] * 2, search.edge[1] if search and search.edge else math.inf))
    return Recommendation(
        lr=lr,
        interval=interval,
        reason=unable or _reason(search, best, measured),
        trains=unable is None,
        verified=lr is not None and search is not None and search.verified,
        verified_steps=chosen.step if chosen is not None and search is not None and search.verified else 0,
        optimizer=type(rehearsal.optimizer).__name__,
        groups=tuple(rates(rehearsal.optimizer)),
        start=start,
        loss=None if chosen is None else chosen.loss,
        rehearsed=None if best is None else best.lr,
        candidates=tuple(
            Candidate(lane.lr, tuple(lane.points), tuple(lane.losses), lane.diverged, lane.step)
            for lane in ([] if search is None else search.everything)
        ),
        edge=None if search is None else search.edge,
        limit=measured.limit,
        critical=measured.critical,
        later=tuple(measured.later),
        warmup=None if lr is None or best is None else measured.warmup(lr, best.step),
        horizon=horizon,
        budget=budget.steps,
        steps=budget.used,
        seconds=seconds,
        complete=missing is None,
        missing=missing,
        unchecked=tuple(_unchecked(rehearsal, chosen, horizon, missing)),
        notes=tuple(measured.notes),
        settings=dict(settings),
    )


def _unable(search: LrSearch | None, best: Lane | None, start: float, measured: StartMeasurements) -> str | None:
    """Why there is no lr to recommend; None if there is one."""
    if not math.isfinite(start):
        return f"the loss is {start} at the start: no lr can mend that; begin from a finite one"
    if search is None:
        return "interrupted before anything was run"
    if (unbounded := measured.bottomless or search.unbounded) is not None:
        return unbounded
    if best is None:
        if search.missing is not None and not search.lanes:
            return f"nothing can be said: {search.missing}"
        if measured.critical is not None and measured.critical.reason is not None:
            return f"nothing trains here, whatever the lr: {measured.critical.reason}"
        tried = sorted(lane.lr for lane in search.lanes.values())
        return (
            f"nothing trains here: no lr from {tried[0]:.2g} to {tried[-1]:.2g} lowered the loss from {start:.4g}; "
            "it may be as low as it gets, or the mini-batches may pull elsewhere than the objective's data"
        )
    fall = 1 - best.loss / start if start > 0 else math.inf
    stopped = start > 0 and (max(best.tail()) - best.loss) / start < NOTHING
    if search.missing is not None or fall >= LITTLE or not stopped:
        return None
    if measured.zero_gradient_share is not None and measured.zero_gradient_share >= DEAD_FROM:
        return (
            f"nothing trains here, whatever the lr: over {best.step} updates the loss went from {start:.4g} to "
            f"{best.loss:.4g} and no further; {measured.zero_gradient_share:.0%} of the parameters have no gradient, "
            "neither at the start nor there, as under dead units"
        )
    # A floor above zero, a plateau as deep networks begin on and a slow, steady fall cannot be told apart so early:
    # how much the loss could lose is not known.
    measured.notes.append(
        f"the loss fell by {fall:.2%} in {best.step} updates, by less than {NOTHING:.0%} in the second half of them: "
        "near its floor, on a plateau, or falling slowly; so short a run tells little about the lr then"
    )
    return None


def _reason(search: LrSearch | None, best: Lane | None, measured: StartMeasurements) -> str:
    """Why this lr, in a sentence."""
    assert search is not None
    assert best is not None
    edge = search.edge
    assert edge is not None  # the best one lowered the loss
    upper = (
        f"from {edge[1]:.3g} on it diverged or the loss rose" if math.isfinite(edge[1]) else "no larger lr was tried"
    )
    how = f"of {len(search.lanes)} learning rates rehearsed {best.lr:.3g} brought the loss lowest and most steadily"
    if search.missing is not None:
        how = f"{best.lr:.3g} was the best so far ({search.missing})"
    text = f"{how}: {best.loss:.4g} after {best.step} updates"
    if search.chosen is not None and search.chosen is not best:
        text += f"; the answer stays {best.lr / search.chosen.lr:.2g} times below it, since sharpness goes on rising"
    text += f"; short runs lowered the loss up to {edge[0]:.3g}, {upper}"
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


def _best(answers: list[Recommendation], number: int) -> Recommendation:
    """The answer whose run stood lowest after equally many updates, and a sentence on the others."""
    ranked = sorted(answers, key=lambda answer: _standing(answer, answers))
    first, rest = ranked[0], ranked[1:]
    told = "; ".join(_against(first, other) for other in rest)
    if len(answers) < number:
        told += f"; {number - len(answers)} of {number} settings were not looked at"
    total = {"steps": sum(a.steps for a in answers), "seconds": sum(a.seconds for a in answers)}
    return replace(first.among(tuple(rest)), reason=f"{first.reason} {told}.", **total)  # type: ignore[arg-type]


def _run_of(answer: Recommendation) -> Candidate | None:
    """The rehearsal that an answer rests on."""
    return next((c for c in answer.candidates if c.lr == answer.rehearsed), None) if answer.lr is not None else None


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


def _refuse(
    objective: Objective,
    chosen: list[torch.optim.Optimizer],
    horizon: int,
    budget: int,
    variants: int,
    momentum: Sequence[float] | None,
    clip: float | None,
) -> None:
    """Raise, before anything is done, for what cannot be recommended."""
    for name, count in (("horizon", horizon), ("budget", budget)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InvalidValue(f"recommend: {name}={count!r} must be a whole number of updates, at least 1")
    each_has = budget // variants
    if each_has < FEWEST:
        raise InvalidValue(
            f"recommend: budget={budget} leaves {each_has} training steps for each of {variants} settings; at least "
            f"{FEWEST} are needed: give budget={FEWEST * variants} or more (500 is the default)"
        )
    if clip is not None and not 0 < clip < math.inf:
        raise InvalidValue(f"recommend: clip={clip} must be a positive norm, or None")
    for each in chosen:
        refuse_foreign("recommend", objective, each)
        if hasattr(each.step, "_wrapped_by_lr_sched") or any("initial_lr" in g for g in each.param_groups):
            raise InvalidValue(
                "recommend: an lr scheduler is attached to the optimizer, and the rehearsals run at a constant lr; "
                "build the optimizer without the scheduler, ask, and give the answer to the scheduler as its peak lr"
            )
        if momentum is not None and not all("momentum" in g or "betas" in g for g in each.param_groups):
            raise Unsupported(f"recommend: {type(each).__name__} has no momentum to choose; leave out momentum=")
    for value in momentum or ():
        if not 0 <= value < 1:
            raise InvalidValue(f"recommend: momentum={value} must be at least 0 and below 1")


def _train(objective: Objective, train: Any) -> Any:
    """The mini-batches to train on; with a warning where the objective's only batch must do."""
    if train is not None:
        return train
    objective.batches.read()
    if len(objective.batches.counts) == 1:
        warnings.warn(
            "recommend: train= is not given and the objective's data are one batch: the rehearsals train on that batch "
            "alone, without the noise of mini-batches; pass train=loader, the loader that you train with",
            stacklevel=3,
        )
    return objective.batches.source


def _shifted(work: Task, before: int) -> Callable[[int, int], None]:
    return lambda used, _: work.tell(phase="rehearsing", done=before + used)
