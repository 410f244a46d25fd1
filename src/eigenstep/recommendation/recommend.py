"""`recommend`: the learning rate as a number, with an interval, a reason and the check that was run."""

import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from eigenstep.bridge.param_groups import has_momentum, put_momentum, replace_zero_lrs, scheduled
from eigenstep.curvature.lanczos import Aim
from eigenstep.errors import InvalidValue, Unsupported
from eigenstep.objective import Objective, world
from eigenstep.objective.objective import required
from eigenstep.progress import FORWARD, GRADIENT, PRODUCT, Task, Watch, task
from eigenstep.recommendation.answer import answer, best_of
from eigenstep.recommendation.result import Recommendation
from eigenstep.recommendation.search import FEWEST, LrSearch
from eigenstep.recommendation.start import StartMeasurements
from eigenstep.rehearsal import PROBE_BATCHES, Budget, Rehearsal, Stream, read_schedule
from eigenstep.stability.copies import refuse_foreign

FAST_STEPS, FAST_SECONDS = 150, 16.0  # what fast=True may take, so that the answer is there in 20 s
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
        stream = Stream("recommend", _train(objective, train), objective.memory / 4, seed)
        total = steps * len(variants)
        probe = min(len(objective.weights), PROBE_BATCHES)
        beside = probe * (PRODUCT * Aim().expected + FORWARD * _LOSSES)
        work.plan(0.0, f"{total} training steps, and what is measured beside them", total * GRADIENT + beside)
        work.tell(phase="the start", done=0, total=total, unit="training steps")
        for number, (each, settings) in enumerate(variants):
            seconds = FAST_SECONDS / len(variants) if fast else None
            allowed = Budget(steps, seconds, _shifted(work, number * steps))
            shape = read_schedule("recommend", each, "constant", 0, horizon)
            rehearsal = Rehearsal("recommend", objective, each, stream, allowed, shape, clip=clip, seed=seed)
            attempt = _Attempt(rehearsal, settings, horizon, fast)
            try:
                attempt.run()
            except KeyboardInterrupt:
                if not attempt.stopped():
                    raise
            answers.append(attempt.answer())
            if attempt.interrupted:
                break
    return answers[0] if len(answers) == 1 else best_of(answers, len(variants))


class _Attempt:
    """The search for one optimizer at one momentum, which an interrupt may end anywhere: what is known then is used."""

    def __init__(self, rehearsal: Rehearsal, settings: Mapping[str, float], horizon: int, fast: bool) -> None:
        self.rehearsal, self.settings, self.horizon, self.fast = rehearsal, settings, horizon, fast
        self.measured = StartMeasurements(replace_zero_lrs(rehearsal.optimizer))
        put_momentum(rehearsal.optimizer, settings.get("momentum"))
        self.measured.notes += filter(None, [rehearsal.objective.batches.intake.note()])
        self.search: LrSearch | None = None
        self.interrupted = False
        self._begun = self._searching = False

    def run(self) -> None:
        """Measure the start, search, and look at the end."""
        rehearsal, measured = self.rehearsal, self.measured
        with rehearsal.session():
            self._begun = True
            measured.look(rehearsal, self.fast)
            guess = measured.first_guess(rehearsal.optimizer)
            self.search = LrSearch(rehearsal, guess, self.fast, self.horizon, watch=measured.follow)
            self._searching = True
            if measured.bottomless is None:
                self.search.run()
            self._searching = False
            measured.find_zero_gradient(self.search)

    def stopped(self) -> bool:
        """Note where an interrupt came; return whether there is anything to answer with."""
        self.interrupted = True
        if self._searching and self.search is not None:
            self.search.missing = f"interrupted, {self.search.stage}"
        else:
            what = "start was being measured" if self.search is None else "parameters without a gradient were counted"
            self.measured.notes.append(f"interrupted while the {what}")
        return self._begun

    def answer(self) -> Recommendation:
        """Everything that is known, put together."""
        seconds = time.perf_counter() - self.rehearsal.budget.began
        return answer(self.rehearsal, self.search, self.measured, self.settings, self.horizon, seconds)


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
        if hasattr(each.step, "_wrapped_by_lr_sched") or scheduled(each):
            raise InvalidValue(
                "recommend: an lr scheduler is attached to the optimizer, and the rehearsals run at a constant lr; "
                "build the optimizer without the scheduler, ask, and give the answer to the scheduler as its peak lr"
            )
        if momentum is not None and not has_momentum(each):
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
