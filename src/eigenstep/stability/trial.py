"""A trial: what the next updates would do to the loss at a given lr, taken on copies."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eigenstep.bridge.param_groups import put_lrs
from eigenstep.objective import Objective
from eigenstep.objective.graph import derivatives
from eigenstep.stability.copies import copied, refuse_foreign, take_step

UPDATES = 50  # on the advice benchmark's development tasks the best lrs' first rise is over by then; after 20 it is not
TAIL = 10  # of these updates, the last ones' mean loss is where a trial ends


@dataclass(frozen=True)
class Trial:
    """How a trial went: by how much a batch's loss rose above its own at the start at most, and on average at the end.

    Both are inf where the loss or the weights ceased to be finite. start: the mean loss before the first update.
    """

    start: float
    highest: float
    end: float


def trial(
    objective: Objective, optimizer: torch.optim.Optimizer, lrs: Sequence[float], updates: int = UPDATES
) -> Trial:
    """Take `updates` on copies of model and optimizer, one batch of the objective each, in turn; lrs: one a group.

    Nothing of the user's changes. Raises what critical_sharpness raises.

    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> objective = Objective(model, lambda model, x: 2 * (model(x) ** 2).mean(), torch.ones(1, 1))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> trial(objective, optimizer, [0.1]).highest <= 0 < trial(objective, optimizer, [0.6]).highest
    True
    """
    refuse_foreign("trial", objective, optimizer)
    with objective.session():
        model, stepper = copied("trial", objective.model, optimizer)
        put_lrs(stepper, lrs)
        twin = objective.on(model)
        rows_only = isinstance(stepper, torch.optim.SparseAdam)  # it takes nothing else: the rows with a gradient
        batches = twin.batches.first(updates)
        with torch.no_grad():
            starts = [float(twin.batch_loss(i, batch)) for i, batch in enumerate(batches)]
        start = sum(starts) / len(starts)
        rises: list[float] = []

        def closure() -> Tensor:
            number = len(rises) % len(batches)
            with twin.place(number):
                loss = twin.batch_loss(number, batches[number])
                found = derivatives([loss], twin.params)
            for p, g in zip(twin.params, found, strict=True):
                p.grad = g.to(p.dtype).to_sparse(1) if rows_only else g.to(p.dtype)
            value = float(loss.detach()) - starts[number]
            rises.append(value if math.isfinite(value) else math.inf)
            return loss.detach()

        while len(rises) < updates:
            take_step(stepper, closure)
            if math.isinf(rises[-1]):
                return Trial(start, math.inf, math.inf)
    return Trial(start, max(rises), sum(rises[-TAIL:]) / len(rises[-TAIL:]))
