"""What a change would do: half the lr or the limit, momentum, Nesterov, Adam, decay, each with its limit and rate."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from eigenstep.diagnosis.evidence.rates import Along, Scale, Slowness
from eigenstep.objective import Objective
from eigenstep.plain import key
from eigenstep.rules import (
    Adam,
    EMAMomentum,
    GradientDescent,
    HeavyBall,
    LinearRule,
    Momentum,
    Nesterov,
)
from eigenstep.rules.adaptive import AdaptiveRule
from eigenstep.stability.limit import limit_now
from eigenstep.stability.result import Limit
from eigenstep.theory import max_stable_lr, radii
from eigenstep.theory.limits import frozen_limit, largest_stable_eigenvalue, momentum_of, with_momentum

TRIED, RECOMMENDED = "tried on copies", "the recommended lr"
HALF = "half the limit"  # the row, and the lr: steep directions are as fast as they get, flat ones half that
_SAME = 0.05  # an lr this close to half its limit is already there
_MOMENTUM, _DECAY = 0.9, 0.01  # what people try first
_SGD = (GradientDescent, Momentum, HeavyBall, EMAMomentum, Nesterov)


@dataclass(frozen=True)
class WhatIfRow:
    """One row: the largest stable lr with the change made, where the row's lr stands to it, and the rate there.

    - name: the change.
    - lr: with the change made.
    - max_stable_lr: with the change made.
    - ratio: of the lr to it.
    - rate: the factor per update of the error in the direction of the gradient's median eigenvalue (half of its squared
      length lies in flatter ones), preconditioner frozen; above the limit that of the sharp direction, which grows;
      None where the change has another spectrum, or is not known.
    - tenfold: updates to a tenfold shrink there, at least 1; None where that direction grows.
    - largest_stable: the eigenvalue that the row's lr bears, in the rule's own units.
    - note: what else there is to know of the row.
    """

    name: str
    lr: float
    max_stable_lr: float
    ratio: float
    rate: float | None
    tenfold: float | None
    largest_stable: float | None = None
    note: str = ""


@dataclass(frozen=True, eq=False)
class Pace:
    """How fast it goes, as it is and with a change; empty where no one rule describes all groups.

    - scale: how the edge's eigenvalues are the one rule's.
    - along: how the gradient lies in the spectrum.
    - slow: the same, and how slow the slow directions are.
    - changes: the what-if table.
    """

    scale: Scale | None = None
    along: Along | None = None
    slow: Slowness | None = None
    changes: tuple[WhatIfRow, ...] = field(default=(), metadata=key("limits"))


@dataclass(frozen=True)
class Table:
    """What the rows of a table of changes are made of.

    - rule, sharp, slow: the one rule, its sharpest eigenvalue and the gradient's median one; None where not known.
    - edge, lr: the largest stable lr and the lr, of the first group that moves.
    - failed: the lr that failed on copies, from which on no rate below 1 is to be believed; None if none did.
    """

    rule: LinearRule | None
    sharp: float
    slow: float | None
    edge: float
    lr: float
    failed: float | None = None

    def at(self, name: str, lr: float) -> WhatIfRow:
        """The row of another lr."""
        if self.rule is not None:
            row = _row(name, self.rule.replace(lr=lr), self.sharp, self.slow)
        else:
            row = WhatIfRow(name, lr, self.edge, lr / self.edge if self.edge else math.inf, None, None)
        if self.failed is not None and lr >= self.failed * (1 - _SAME) and row.ratio <= 1:
            return replace(row, rate=None, tenfold=None, note="it failed on copies")
        return row


def what_if(
    objective: Objective,
    limit: Limit,
    scale: Scale | None,
    middle: float | None,
    *,
    settled: float | None = None,
    failed: float | None = None,
    instead: float | None = None,
    recommended: float | None = None,
    adam: bool = True,
    seed: int = 0,
) -> list[WhatIfRow]:
    """Return the table of changes; of lrs alone where the groups run different rules.

    middle: the gradient's median eigenvalue in the edge's units. settled: the largest stable lr once second moments
    have settled, by which rows are judged where it is known; rates are then not. failed, instead: the lr that failed on
    copies, and the one that did not. recommended: by a rehearsal. adam: whether a fresh Adam has a unit, and the time.
    """
    lr, edge = limit.lr, limit.max_stable_lr if settled is None else settled
    rule, sharp, slow = None, 0.0, None
    if scale is not None:
        top = float(limit.edge.values[0]) if settled is None else lr / settled
        rule, sharp = scale.rule, float(scale.own(torch.tensor(top, dtype=torch.float64)))
        if middle is not None and not limit.young:
            slow = float(scale.own(torch.tensor(middle, dtype=torch.float64)))
    table = Table(rule, sharp, slow, edge, lr, failed)
    rows = [table.at("as it is", lr), table.at("half the lr", lr / 2)]
    if 0 < edge < math.inf and abs(lr / edge - 0.5) > _SAME:
        rows.append(table.at(HALF, edge / 2))
    if instead is not None:
        rows.append(table.at(TRIED, instead))
    if recommended is not None:
        rows.append(table.at(RECOMMENDED, recommended))
    if scale is None:
        return rows
    if isinstance(scale.rule, _SGD):
        rows += _descent_rows(scale.rule, sharp, slow)
    elif isinstance(scale.rule, AdaptiveRule) and (beta := momentum_of(scale.rule)) is not None:
        name, new = ("momentum off", 0.0) if beta else (f"momentum {_MOMENTUM}", _MOMENTUM)
        rows.append(_row(name, with_momentum(scale.rule, new), sharp, slow))
    rows += _decay_rows(scale, sharp, slow)
    if limit.young:
        rows = [replace(row, rate=None, tenfold=None) for row in rows]
    if isinstance(scale.rule, _SGD) and adam:
        rows.append(_adam(objective, seed))
    elif scale.rule.adaptive and limit.sharpness is not None and limit.sharpness > 0:
        plain = GradientDescent(lr=1.0)
        stable = max_stable_lr(plain, limit.sharpness)
        note = "at half its limit; the rate is not known on this spectrum"
        rows.append(WhatIfRow("SGD without momentum", stable / 2, stable, 0.5, None, None, note=note))
    return rows


def _descent_rows(rule: LinearRule, sharp: float, slow: float | None) -> list[WhatIfRow]:
    """Momentum on or off, Nesterov on or off."""
    own: dict[str, Any] = {name: getattr(rule, name) for name in ("lr", "weight_decay", "decoupled")}
    momentum = momentum_of(rule) or 0.0
    rows = []
    if momentum:
        rows.append(_row("momentum off", GradientDescent(**own), sharp, slow))
    else:
        rows.append(_row(f"momentum {_MOMENTUM}", Momentum(momentum=_MOMENTUM, **own), sharp, slow))
    if isinstance(rule, Nesterov):
        rows.append(_row("nesterov off", Momentum(momentum=momentum, **own), sharp, slow))
    else:
        held = momentum or _MOMENTUM
        rows.append(_row(f"nesterov, momentum {held:g}", Nesterov(momentum=held, **own), sharp, slow))
    return rows


def _decay_rows(scale: Scale, sharp: float, slow: float | None) -> list[WhatIfRow]:
    """Weight decay off, or on. The coupled decay of an adaptive rule is inside its spectrum: then there is no row."""
    rule = scale.rule
    if scale.coupled and rule.adaptive:
        return []
    if scale.coupled:
        without = None if slow is None else slow - scale.coupled
        return [_row("decay off", rule, sharp - scale.coupled, without)]
    if float(rule.weight_decay):
        return [_row("decay off", rule.replace(weight_decay=0.0), sharp, slow)]
    if rule.adaptive and not rule.decoupled:
        return []
    return [_row(f"weight decay {_DECAY}", rule.replace(weight_decay=_DECAY), sharp, slow)]


def _adam(objective: Objective, seed: int) -> WhatIfRow:
    """A fresh Adam with its default lr in the optimizer's place."""
    fresh = torch.optim.Adam(list(objective.params))
    found = limit_now(objective, fresh, quick=True, seed=seed, sharpness=False)
    name, note = f"Adam, lr {Adam().lr:g}", "fresh: P from one gradient; early, and not certified"
    return WhatIfRow(name, found.lr, found.max_stable_lr, found.ratio or 0.0, None, None, note=note)


def _row(name: str, rule: LinearRule, sharp: float, slow: float | None) -> WhatIfRow:
    sharpness = torch.tensor(sharp, dtype=torch.float64)
    edge = float(frozen_limit(rule, sharpness)) if sharp > 0 else math.inf
    worst = sharp if edge and float(rule.lr) > edge else slow
    rate = None if worst is None else float(radii(rule, torch.tensor([worst], dtype=torch.float64))[0])
    if slow is not None and slow > 0 and rate == 1:
        tenfold: float | None = math.inf  # it shrinks, by less than the rounding of a factor
    else:
        tenfold = None if rate is None or not rate < 1 else max(-math.log(10) / math.log(max(rate, 1e-9)), 1.0)
    lr = float(rule.lr)
    return WhatIfRow(name, lr, edge, lr / edge if edge else math.inf, rate, tenfold, largest_stable_eigenvalue(rule))
