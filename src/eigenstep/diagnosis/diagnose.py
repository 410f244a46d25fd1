"""`diagnose`: what this optimizer will do on this model, in a sentence, with everything that the sentence rests on."""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from eigenstep.bridge import rules_told
from eigenstep.bridge.param_groups import begun, first_moving, lr_of, lrs_of, relative, scheduled
from eigenstep.diagnosis.allowance import Allowance, refuse_seconds
from eigenstep.diagnosis.conclude import conclude
from eigenstep.diagnosis.evidence.minibatches import first_batches
from eigenstep.diagnosis.measurements import STAGES, DiagnosisMeasurements
from eigenstep.diagnosis.result import Diagnosis
from eigenstep.diagnosis.story import rehearsed_of
from eigenstep.diagnosis.trials import Trials
from eigenstep.errors import InvalidValue, Unsupported, refuse_count, refuse_positive, refuse_seed
from eigenstep.objective import Objective
from eigenstep.objective.objective import required
from eigenstep.progress import FORWARD, PRODUCT, Watch, task
from eigenstep.rehearsal import Budget, Loop, Rehearsal, Schedule, Stream, read_schedule
from eigenstep.rehearsal.loop import refuse_loop
from eigenstep.rehearsal.read_schedule import stand_in
from eigenstep.rehearsal.stream import refuse_batches
from eigenstep.stability.copies import refuse_climbing, refuse_missing, refuse_unseen

_PRODUCTS = 200  # of a diagnosis: the play's looks, the limit, the lowest eigenvalue, two probes of 40, layers and more
_PLAYED = 10**6  # training steps that a play may take as far as its budget is concerned: it stops by itself


def diagnose(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    *,
    train: Any = None,
    loop: Loop | None = None,
    schedule: str | Callable[..., Any] = "constant",
    warmup: float = 0,
    clip: float | None = None,
    horizon: int = 1000,
    batches: int = 8,
    recommendation: Any = None,
    seconds: float | None = 60,
    quick: bool = False,
    tol: float = 0.01,
    seed: int = 0,
    progress: Watch | bool | None = None,
) -> Diagnosis:
    """Return what an optimizer, as it stands, will do on an objective, as it stands; nothing is changed.

    The verdict rests on a short play on copies, 50 updates or up to 400 while it is in doubt: mini-batches of `train`
    (a loader; by default the objective's own batches), your own `loop(model, optimizer, batch) -> loss` (by default
    the plain one), and the optimizer's lr as the peak of `schedule` after `warmup`, as for `recommend`; an attached
    scheduler is read. Beside it: the stability ratio with its interval, where its direction lies and why, how slow the
    slow directions are within `horizon` updates, negative curvature, the spread over `batches` mini-batches, what a
    change would do. clip: the max_norm of torch.nn.utils.clip_grad_norm_, if you clip. recommendation: what
    `recommend` returned, or anything with .lr and .interval; its lr is shown beside. seconds: parts that do not fit are
    left out whole and named in `reasons`, the verdict comes first; None for all. quick: eigenvalues by residual only.
    An optimizer without a linear limit (Lion, Muon, your own) is judged by the play and by one real step, see
    `critical_sharpness`. progress: as for `measure`.

    Local, quasi-static, on all the objective's data; a preconditioner is frozen. Raises InvalidValue for an optimizer
    that does not hold the objective's parameters, and for a loader that cannot be replayed.

    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> objective = Objective(model, lambda model, x: (model(x) ** 2).mean(), torch.eye(2))
    >>> found = diagnose(objective, torch.optim.SGD(model.parameters(), lr=6.0))
    >>> found.verdict, round(found.ratio, 3)
    ('unstable', 3.0)
    """
    required("diagnose", objective)
    _refuse(clip, horizon, batches, seed, train, loop)
    refuse_seconds("diagnose", seconds)
    rehearsed = rehearsed_of(recommendation)
    allowance = Allowance(seconds)
    with task("diagnose", progress, "seconds=, samples= on Objective, quick=True") as work, objective.session():
        work.most = allowance.seconds
        work.plan(PRODUCT * _PRODUCTS, f"some {_PRODUCTS} products assumed")
        work.part(0, len(STAGES), STAGES[0])
        refuse_unseen("diagnose", objective, optimizer)
        refuse_climbing("diagnose", optimizer)
        minis = _mini_batches(objective, train, batches)
        if (loss := _not_finite(objective)) is not None:
            return Diagnosis.diverged(loss, rules_told(optimizer), seconds=allowance.spent)
        refuse_missing("diagnose", objective, optimizer)
        play: dict[str, Any] = {"train": train, "loop": loop, "schedule": schedule, "warmup": warmup}
        asked: dict[str, Any] = {"clip": clip, "horizon": horizon, "quick": quick, "tol": tol, "seed": seed}
        with measuring(objective.per_update(), optimizer, allowance, **play, **asked) as measured:
            measured.minis, measured.tell = minis, work.part
            measured.recommended = None if rehearsed is None else rehearsed.lr
            return conclude(measured.measure(), rehearsed)


@contextmanager
def measuring(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    allowance: Allowance,
    *,
    train: Any = None,
    loop: Loop | None = None,
    schedule: str | Callable[..., Any] = "constant",
    warmup: float = 0,
    clip: float | None = None,
    horizon: int = 1000,
    quick: bool = False,
    tol: float = 0.01,
    seed: int = 0,
) -> Iterator[DiagnosisMeasurements]:
    """What to enter around a diagnosis's work, in a session of the objective: its measurements, none made yet."""
    shape, lr, reasons = _shape(optimizer, schedule, warmup, horizon)
    standing = _at_peak(optimizer, shape)
    measured = DiagnosisMeasurements(objective, standing, allowance, clip, horizon, quick, tol, seed, lr)
    measured.reasons |= reasons
    with ExitStack() as stack:
        if lr > 0:
            stream = Stream("diagnose", _own(objective) if train is None else train, objective.memory / 4, seed)
            budget = Budget(_PLAYED, None)
            how: dict[str, Any] = {"loop": loop, "clip": clip, "seed": seed}
            try:
                rehearsal = Rehearsal("diagnose", objective, optimizer, stream, budget, shape, **how)
            except Unsupported as error:
                measured.reasons["play"] = str(error)
            else:
                stack.enter_context(rehearsal.session())
                measured.trials = Trials(rehearsal, allowance, lr, seed)
        yield measured


def _refuse(clip: Any, horizon: Any, batches: Any, seed: Any, train: Any, loop: Any) -> None:
    """Raise, before any work, for arguments that cannot be."""
    if clip is not None:
        refuse_positive("diagnose", "clip", clip, "positive and finite, the max_norm of clip_grad_norm_")
    if clip is not None and loop is not None:
        raise InvalidValue("diagnose: clip= beside loop=; clip in your loop, it is played as it is")
    refuse_loop("diagnose", loop)
    refuse_count("diagnose", "horizon", horizon)
    refuse_count("diagnose", "batches", batches, least=0)
    refuse_seed("diagnose", seed)
    if train is not None:
        refuse_batches("diagnose: train", train)


def _shape(
    optimizer: torch.optim.Optimizer, schedule: str | Callable[..., Any], warmup: float, horizon: int
) -> tuple[Schedule, float, dict[str, str]]:
    """The schedule that is played, its peak lr for the first group that moves, and why it may be another."""
    try:
        shape = read_schedule("diagnose", optimizer, schedule, warmup, horizon)
    except Unsupported as error:
        if schedule != "constant" or warmup:
            raise
        factors = [tuple(relative(lrs_of(optimizer)))] * horizon
        return Schedule("constant", horizon, 0, factors), lr_of(optimizer), {"schedule": str(error)}
    if shape.peak is not None:
        return shape, shape.peak, {}
    lr = lr_of(optimizer)
    return shape, first_moving(begun(optimizer.param_groups)) if lr == 0 and scheduled(optimizer) else lr, {}


def _at_peak(optimizer: torch.optim.Optimizer, shape: Schedule) -> torch.optim.Optimizer:
    """The optimizer as it will stand at its scheduler's peak, which the limit is of: a stand-in, or itself."""
    if shape.peak is None:
        return optimizer
    standing, factors = stand_in(optimizer), shape.shape()
    shape.put(standing, shape.peak, factors.index(max(factors)))
    return standing


def _own(objective: Objective) -> Any:
    """The objective's own batches, to be trained on one after the other."""
    objective.batches.read()
    return objective.batches.source


def _mini_batches(objective: Objective, train: Any, count: int) -> list[Any]:
    """Some mini-batches of the loader, or the objective's own where it has several; those of weight 0 left out."""
    if count < 1 or (train is None and objective.batches.one):
        return []
    if train is not None:
        return [batch for batch in first_batches(train, count) if objective.batches.counts_in(batch)]
    return objective.batches.first(count)


def _not_finite(objective: Objective) -> float | None:
    """The loss if it, or a parameter, is not finite; None otherwise. Anything else is left to the objective's check."""
    with torch.no_grad():
        for p in objective.model.parameters():
            if not bool(p.isfinite().all()):
                return math.nan
        for i, batch in enumerate(objective.batches.costing(FORWARD)):
            out = objective.batch_loss(i, batch)
            if isinstance(out, Tensor) and out.numel() == 1 and not bool(out.isfinite()):
                return float(out)
    return None
