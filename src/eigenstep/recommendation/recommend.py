"""`recommend`: the learning rate as a number, with an interval, a reason and the check that was run."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from eigenstep.bridge.param_groups import put_momentum, replace_zero_lrs
from eigenstep.curvature.lanczos import Aim
from eigenstep.objective import Objective, world
from eigenstep.objective.objective import required
from eigenstep.progress import FORWARD, GRADIENT, PRODUCT, Task, Watch, task
from eigenstep.recommendation.answer import answer, best_of
from eigenstep.recommendation.request import Request, batches_of, check_momenta, momenta_of, others_of
from eigenstep.recommendation.result import Recommendation
from eigenstep.recommendation.search import LrSearch
from eigenstep.recommendation.start import StartMeasurements
from eigenstep.rehearsal import PROBE_BATCHES, Budget, Loop, Rehearsal, Schedule, Stream, read_schedule
from eigenstep.stability.copies import refuse_climbing, refuse_foreign

_LOSSES = 60  # evaluations of the probe, roughly: three a candidate, and the critical sharpness


@world.with_gradients()
@world.own_device()
def recommend(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    *,
    train: Any = None,
    horizon: int = 1000,
    schedule: str | Callable[..., Any] = "constant",
    warmup: float = 0,
    loop: Loop | None = None,
    validation: Any = None,
    budget: int | None = None,
    seconds: float | None = None,
    momentum: Sequence[float] | float | None = None,
    optimizers: Iterable[torch.optim.Optimizer] | None = None,
    clip: float | None = None,
    fast: bool = False,
    seed: int = 0,
    progress: Watch | bool | None = None,
) -> Recommendation:
    """Return the lr for a training run of `horizon` updates, the schedule's peak, found by training copies.

    Rehearsal: real training of copies on the mini-batches of `train` (default: the objective's), every lr on the same
    ones, judged by the loss on a fixed probe, the objective's data. Trials of a fiftieth of the budget, by factors of 4
    and 2, find the lr at which this model diverges; from there, or 4 times above the best trial, down, 6 candidates a
    factor 2 apart are run for a twenty-fifth of it; then those around the best, and one more where they point to, as
    long as the rest allows. The answer is the mean of their log lrs, each weighted by how near its mean log loss came
    to the lowest, a factor sqrt 2 lower. At last it is run itself, from the start; if it diverges, the next lower one
    of them is the answer.

    schedule: 'constant', 'cosine', 'linear', 'wsd', a function of the update (0 first) that gives the lr's factor, or a
    function of the optimizer that returns a torch scheduler; a scheduler that is attached to the optimizer is read. The
    lr is the schedule's peak. warmup: linear, before it; an int is updates, a float below 1 a share of the horizon.
    Where the budget reaches the horizon, the last candidates are run under the whole schedule; otherwise at its peak,
    held, and the answer lies above them by what a falling lr was found to allow.
    loop(model, optimizer, batch) -> loss: your own training step, from zero_grad to step(), with its arguments alone;
    the scheduler is stepped for it. clip: without it, the max_norm that your loop clips gradients to.
    validation: a loader or batches; the answer brings down the loss on these, taken in eval mode.
    budget: training steps in all (default: half the horizon, but 1,000 to 4,000). seconds: stop after so long; with
    None, the default, the answer depends on `seed` alone. fast: at most 150 steps and 20 s, a wider interval.
    momentum: values to choose among (momentum, or the first beta). optimizers: others over the same model to compare
    with; the budget is divided among all. progress: as for `measure`. Ctrl-C: the best so far.

    Nothing of the user's changes: model, optimizer, scheduler, loader, generators. Raises InvalidValue or Unsupported,
    with the remedy, for an optimizer of other parameters, a scheduler whose lr depends on the run, a loop that does not
    train its arguments, a loader that cannot be replayed, too small a budget.
    Source: Kalra et al. 2026 (arXiv 2601.16979) for the start; Jamieson and Talwalkar 2016 for comparing by stages.
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> x = torch.eye(2).repeat(8, 1)
    >>> objective = Objective(model, lambda model, x: (model(x) - 1).square().mean(), [x, x])
    >>> found = recommend(objective, torch.optim.SGD(model.parameters(), lr=1e-3), budget=100)
    >>> found.trains, found.verified, 0.3 < found.suggestion() < 2.0, found.steps <= 100
    (True, True, True, True)
    """
    required("recommend", objective)
    asked = Request(horizon, budget, seconds, clip, loop, validation, fast, seed)
    answers: list[Recommendation] = []
    with task("recommend", progress, "fast=True, seconds=, a smaller budget=, samples= on Objective") as work:
        asked.check()
        chosen, momenta = [optimizer, *others_of(optimizers)], momenta_of(momentum)
        shapes = [_shape(objective, each, schedule, warmup, horizon, momenta) for each in chosen]
        settings: list[dict[str, float]] = [{"momentum": m} for m in momenta] or [{}]
        variants = [(*pair, each) for pair in zip(chosen, shapes, strict=True) for each in settings]
        asked.check_variants(len(variants))
        objective = objective.per_update()
        stream = Stream("recommend", batches_of(objective, train), objective.memory / 4, seed)
        steps = asked.steps(len(variants))
        total = steps * len(variants)
        probe = min(len(objective.weights), PROBE_BATCHES)
        beside = probe * (PRODUCT * Aim().expected + FORWARD * _LOSSES)
        work.most = asked.allowed(1) or math.inf
        work.plan(0.0, f"{total} training steps, and what is measured beside them", total * GRADIENT + beside)
        work.tell(phase="the start", done=0, total=total, unit="training steps")
        for number, (each, shape, settled) in enumerate(variants):
            allowed = Budget(steps, asked.allowed(len(variants)), _shifted(work, number * steps))
            copies = Rehearsal(
                "recommend",
                objective,
                each,
                stream,
                allowed,
                shape,
                loop=loop,
                clip=clip,
                validation=validation,
                seed=seed,
            )
            attempt = _Attempt(copies, settled, asked)
            try:
                attempt.run()
            except KeyboardInterrupt:
                if not attempt.stopped():
                    raise
            answers.append(attempt.answer())
            if attempt.interrupted:
                break
    return answers[0] if len(answers) == 1 else best_of(answers, len(variants))


def _shape(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    schedule: str | Callable[..., Any],
    warmup: float,
    horizon: int,
    momenta: Sequence[float],
) -> Schedule:
    """The schedule of an optimizer that can be rehearsed."""
    refuse_foreign("recommend", objective, optimizer)
    refuse_climbing("recommend", optimizer)
    shape = read_schedule("recommend", optimizer, schedule, warmup, horizon)
    check_momenta(optimizer, shape, momenta)
    return shape


class _Attempt:
    """The search for one optimizer at one momentum, which an interrupt may end anywhere: what is known then is used."""

    def __init__(self, rehearsal: Rehearsal, settings: Mapping[str, float], asked: Request) -> None:
        self.rehearsal, self.settings, self.asked = rehearsal, settings, asked
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
            measured.look(rehearsal, self.asked.fast)
            guess = measured.first_guess(rehearsal.optimizer)
            self.search = LrSearch(rehearsal, guess, self.asked.fast, watch=measured.follow)
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
        return answer(self.rehearsal, self.search, self.measured, self.settings, self.asked, seconds)


def _shifted(work: Task, before: int) -> Callable[[int, int], None]:
    return lambda used, _: work.tell(phase="rehearsing", done=before + used)
