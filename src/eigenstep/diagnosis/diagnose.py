"""`diagnose`: what this optimizer will do on this model, in a sentence, with everything that the sentence rests on."""

import math
import time
from typing import Any

import torch
from torch import Tensor

from eigenstep.bridge import rules_told
from eigenstep.diagnosis.conclude import conclude
from eigenstep.diagnosis.measurements import STAGES, DiagnosisMeasurements
from eigenstep.diagnosis.minibatches import first_batches
from eigenstep.diagnosis.result import Diagnosis
from eigenstep.errors import InvalidValue
from eigenstep.objective import Objective
from eigenstep.objective.objective import required
from eigenstep.progress import FORWARD, PRODUCT, Watch, task
from eigenstep.stability.copies import refuse_foreign

_PRODUCTS = 200  # of a diagnosis: the limit, the lowest eigenvalue, two probes of 40, layers and mini-batches


def diagnose(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    *,
    train: Any = None,
    clip: float | None = None,
    horizon: int = 1000,
    batches: int = 8,
    quick: bool = False,
    tol: float = 0.01,
    seed: int = 0,
    progress: Watch | bool | None = None,
) -> Diagnosis:
    """Return what an optimizer, as it stands, will do on an objective, as it stands; nothing is changed.

    The stability ratio with its interval, where its direction lies and why, how slow the slow directions are within
    `horizon` updates, negative curvature, the spread over `batches` mini-batches of `train` (a loader; by default the
    objective's own batches), what a change would do, and a verdict in words. clip: the max_norm of
    torch.nn.utils.clip_grad_norm_, if you clip. quick: eigenvalues by residual only. An optimizer without a linear
    limit (Lion, Muon, your own) is judged by one real step instead, see `critical_sharpness`. progress: as for
    `measure`.

    Local, quasi-static, on all the objective's data; a preconditioner is frozen. Raises InvalidValue for an optimizer
    that does not hold the objective's parameters, and for a loader that cannot be replayed.

    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> objective = Objective(model, lambda model, x: (model(x) ** 2).mean(), torch.eye(2))
    >>> found = diagnose(objective, torch.optim.SGD(model.parameters(), lr=6.0))
    >>> found.verdict, round(found.ratio, 3)
    ('unstable', 3.0)
    """
    required("diagnose", objective)
    if clip is not None and not (isinstance(clip, (int, float)) and math.isfinite(clip) and clip > 0):
        raise InvalidValue(f"diagnose: clip={clip!r} must be positive and finite, the max_norm of clip_grad_norm_")
    if not isinstance(horizon, int) or horizon < 1:
        raise InvalidValue(f"diagnose: horizon={horizon!r} must be a whole number of updates, at least 1")
    if not isinstance(batches, int) or batches < 0:
        raise InvalidValue(f"diagnose: batches={batches!r} must be a whole number of mini-batches, 0 for none")
    if not isinstance(seed, int):
        raise InvalidValue(f"diagnose: seed={seed!r} must be a whole number")
    if train is not None and not (callable(train) or any(hasattr(train, name) for name in ("__iter__", "__getitem__"))):
        raise InvalidValue(
            f"diagnose: train= is {type(train).__name__}, which yields no batches; give your loader of mini-batches"
        )
    began = time.perf_counter()
    with task("diagnose", progress, "samples= on Objective, quick=True") as work, objective.session():
        work.plan(PRODUCT * _PRODUCTS, f"some {_PRODUCTS} products assumed")
        work.part(0, len(STAGES), STAGES[0])
        minis = _mini_batches(objective, train, batches)
        if (loss := _not_finite(objective)) is not None:
            return Diagnosis.diverged(loss, rules_told(optimizer), seconds=time.perf_counter() - began)
        refuse_foreign("diagnose", objective, optimizer)
        objective = objective.per_update()
        measured = DiagnosisMeasurements(objective, optimizer, clip, horizon, quick, tol, seed, minis, work.part)
        return conclude(measured.measure(), began)


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
