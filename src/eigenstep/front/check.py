"""`check`: what to write for the lr, and why, in under a minute."""

import time
from collections.abc import Callable
from typing import Any, TypedDict, Unpack

import torch

from eigenstep.bridge.param_groups import lr_of
from eigenstep.diagnosis import Diagnosis, diagnose
from eigenstep.errors import InvalidValue, refuse_positive
from eigenstep.front.code import line_of
from eigenstep.front.result import Check
from eigenstep.front.sentence import sentence_of
from eigenstep.objective import Objective
from eigenstep.progress import Watch
from eigenstep.recommendation import Recommendation, recommend
from eigenstep.rehearsal import Loop
from eigenstep.rehearsal.stream import refuse_batches

SEARCHING = 0.6  # of the time is the search's; the diagnosis, whose verdict comes early, has what is left


class Options(TypedDict, total=False):
    """What both halves of a check take alike; see `recommend`."""

    horizon: int
    schedule: str | Callable[..., Any]
    warmup: float
    loop: Loop | None
    clip: float | None
    seed: int
    progress: Watch | bool | None


def check(
    model: Any,
    loss: Any,
    data: Any,
    optimizer: torch.optim.Optimizer,
    *,
    seconds: float = 60.0,
    validation: Any = None,
    **options: Unpack[Options],
) -> Check:
    """Return what to do about the lr, in one sentence, one number and one line of code, in about `seconds`.

    model, loss, data: as for `Objective`; data is the loader that you train with. The recommendation is `recommend`'s,
    rehearsed on copies; the diagnosis is `diagnose`'s, of the optimizer as it stands. options: horizon=, schedule=,
    warmup=, loop=, clip=, seed= and progress=, as those two take them; validation= as `recommend`. Nothing of yours
    changes. Raises what those two raise.

    >>> layer = torch.nn.Linear(2, 1, bias=False)
    >>> rows = [torch.eye(2) * (1 + i / 8) for i in range(4)]
    >>> sgd = torch.optim.SGD(layer.parameters(), lr=1e-4)
    >>> found = check(layer, lambda model, x: (model(x) - 1).square().mean(), rows, sgd, horizon=100)
    >>> found.sentence.startswith("Raise the lr from 0.0001 to"), found.lr > 0.01
    (True, True)
    >>> found.code == f"optimizer = torch.optim.SGD(model.parameters(), lr={found.lr:.3g})"
    True
    """
    refuse_batches("check: data", data)
    return checked(Objective(model, loss, data), optimizer, data, seconds=seconds, validation=validation, **options)


def checked(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    train: Any,
    *,
    seconds: float = 60.0,
    validation: Any = None,
    **options: Unpack[Options],
) -> Check:
    """`check` for an objective that exists; train: the loader that is trained with, None for the objective's data."""
    refuse_positive("check", "seconds", seconds, "a positive number of seconds")
    if unknown := set(options) - set(Options.__annotations__):
        raise InvalidValue(f"check: there is no option {min(unknown)}=; it takes {', '.join(Options.__annotations__)}")
    began = time.perf_counter()
    found = recommend(objective, optimizer, train=train, validation=validation, seconds=SEARCHING * seconds, **options)
    left = max(seconds - (time.perf_counter() - began), (1 - SEARCHING) * seconds)
    told = diagnose(objective, optimizer, train=train, seconds=left, recommendation=found, **options)
    return _joined(objective, optimizer, told, found, time.perf_counter() - began)


def _joined(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    diagnosis: Diagnosis,
    recommendation: Recommendation,
    seconds: float,
) -> Check:
    lr = recommendation.lr
    code = "" if lr is None else line_of(objective.model, optimizer, lr)
    now = lr_of(optimizer) if diagnosis.play is None else diagnosis.play.lr
    return Check(sentence_of(diagnosis, recommendation, now), lr, code, diagnosis, recommendation, seconds)
