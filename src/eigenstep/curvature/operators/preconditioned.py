"""The curvature that an optimiser sees: P^-1/2 (H + wI) P^-1/2 with its live second moments."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from eigenstep.bridge import Group, rule_of, rules_told
from eigenstep.bridge.param_groups import first_moving
from eigenstep.curvature.operators.operator import Operator
from eigenstep.curvature.operators.unit import frozen
from eigenstep.errors import InvalidValue, Unsupported
from eigenstep.objective.objective import Objective
from eigenstep.objective.parameters import refuse_gradient_hook, refuse_outsiders
from eigenstep.rules import LinearRule


@dataclass(frozen=True, eq=False)
class Unit:
    """How an optimiser measures each coordinate: `scale` = sqrt((lr_i / lr) / P), decay w, what was left out, labels.

    scale, decay: (n,); coordinates with scale 0 do not move and are left out. `plain` tells that scale is 1 throughout.
    """

    scale: Tensor = field(repr=False)
    decay: Tensor = field(repr=False)
    plain: bool
    facts: Mapping[str, Any]
    notes: tuple[str, ...]


class ScaledOperator(Operator):
    """v -> D (A + W) D v on the coordinates where the diagonal D is positive; A's own where D = I and W = 0."""

    kind = "preconditioned"

    def __init__(self, inner: Operator, unit: Unit) -> None:
        self.inner, self.unit = inner, unit
        kept = unit.scale > 0
        self.kept = None if bool(kept.all()) else kept.nonzero()[:, 0]
        self.scale, self.decay = self.restrict(unit.scale), self.restrict(unit.decay)
        self.size, self.dtype, self.device = self.scale.numel(), inner.dtype, inner.device
        self.preconditioner = dict(unit.facts)
        if self.size == 0:
            raise InvalidValue(
                "measure: the optimiser moves no coordinate (every lr is 0, or every gradient is); measure without "
                "optimizer="
            )

    @property
    def provenance(self) -> Mapping[str, Any]:
        """The inner operator's."""
        return self.inner.provenance

    @property
    def surrogate(self) -> bool:  # type: ignore[override]
        """The inner operator's."""
        return self.inner.surrogate

    def notes(self) -> list[str]:
        """What the unit and the inner operator have to say."""
        return [*self.unit.notes, *self.inner.notes()]

    def restrict(self, rows: Tensor) -> Tensor:
        """Take the coordinates that are kept, along the last axis."""
        return rows if self.kept is None else rows.index_select(-1, self.kept)

    def lift(self, rows: Tensor) -> Tensor:
        """Put rows back into all coordinates, with zeros where some are left out."""
        if self.kept is None:
            return rows
        full = torch.zeros(*rows.shape[:-1], self.unit.scale.numel(), dtype=rows.dtype, device=rows.device)
        return full.index_copy(-1, self.kept, rows)

    def directions(self, rows: Tensor) -> Tensor:
        """The moves of the parameters, D u made unit length, that eigenvectors u stand for."""
        moves = self.lift(rows * self.scale)
        return moves.div_(torch.linalg.vector_norm(moves, dim=-1, keepdim=True))

    def product(self, vector: Tensor) -> Tensor:
        """Return D (A + W) D v."""
        scaled = vector * self.scale
        return (self.restrict(self.inner.matvec(self.lift(scaled))) + self.decay * scaled) * self.scale

    def error(self, vector: Tensor) -> float:
        """The inner operator's error, as D may enlarge it."""
        inner = self.inner.error(self.lift(vector * self.scale))
        return inner * float(self.scale.max()) if inner else 0.0


def unit_of(objective: Objective, optimizer: torch.optim.Optimizer) -> Unit:
    """Return the unit in which an optimizer measures each coordinate of an objective; inside a session.

    Where an adaptive optimizer has no second moment (it is fresh, or no gradient has come there), P is the unit that
    one more update with the objective's gradient would make; coordinates without that too are left out. Groups may
    differ in lr and weight decay: the lr ratios go into the scale, relative to the first group whose lr is not 0.

    Raises Unsupported for rules without a unit (sign descent, Lion) and for groups of different rules, InvalidValue
    when the optimizer does not hold all the objective's parameters.
    """
    held = stepped_by(objective, optimizer)
    if len({rule.name for _, rule in held}) > 1:
        raise Unsupported(
            f"measure: the optimizer mixes {' and '.join(sorted({r.name for _, r in held}))}; measure each group with "
            "parameters="
        )
    here = list({id(group): (group, rule) for group, rule in held}.values())
    lr = first_moving(float(rule.lr) for _, rule in here)
    found = frozen(objective, held)
    scales, decays = [], []
    for (_, rule), unit in zip(held, found.units, strict=True):
        ratio = float(rule.lr) / lr if lr > 0 else 1.0
        scales.append(torch.where(unit > 0, (ratio / unit).sqrt(), 0.0))
        decays.append(torch.full_like(unit, 0.0 if rule.decoupled else float(rule.weight_decay)))
    scale, decay = objective.join(scales), objective.join(decays)
    adaptive = here[0][1].adaptive
    plain = not adaptive and bool((scale == 1).all()) and len({float(r.weight_decay) for _, r in here}) == 1
    facts = {
        "rule": here[0][1].name,
        "rules": list(rules_told(optimizer)),
        "t": found.t,
        "coupled_decay": bool(decay.any()),
        "fresh": found.fresh,
        "early": found.early,
        "lr": lr,
        "groups": [
            {"index": g.index, "lr": float(r.lr), "t": g.t, "weight_decay": float(r.weight_decay)} for g, r in here
        ],
        "left_out": int((scale == 0).sum()),
        "second_moment_zero": sum(found.taken.values()),
        "grows": sum(found.grows.values()),
    }
    return Unit(scale, decay, plain, facts, (*found.notes, *_notes(here, lr)))


def stepped_by(objective: Objective, optimizer: torch.optim.Optimizer) -> list[tuple[Group, LinearRule]]:
    """Return, for each measured parameter, the group of the optimizer that steps it, and its rule.

    Raises Unsupported for rules without a unit (sign descent, Lion), InvalidValue when a parameter is not held, or when
    the optimizer trains others that the objective's model does not have.
    """
    home: dict[int, tuple[Group, LinearRule]] = {}
    for group in rule_of(optimizer):
        if not isinstance(group.rule, LinearRule):
            raise Unsupported(
                f"measure: {group.rule.name} has no unit in which its step is linear; measure without optimizer="
            )
        home |= {id(p): (group, group.rule) for p in group.params}
    if missing := [n for n, p in zip(objective.names, objective.params, strict=True) if id(p) not in home]:
        raise InvalidValue(
            f"measure: the optimizer does not hold {missing[0]!r} ({len(missing)} parameters in all); choose the "
            "ones that it trains with Objective(parameters=...)"
        )
    refuse_outsiders("measure", objective.model, optimizer)
    refuse_gradient_hook("measure", objective.hook)
    return [home[id(p)] for p in objective.params]


def _notes(here: list[tuple[Group, LinearRule]], lr: float) -> list[str]:
    notes = []
    if len({float(rule.lr) for _, rule in here}) > 1:
        notes.append(f"groups differ in lr: eigenvalues are per lr = {lr:g}, with the ratios kept")
    kinds = {(getattr(r, "betas", None), getattr(r, "momentum", None)) for _, r in here}
    if len(kinds) > 1:
        notes.append("groups differ in momentum or betas: no single limit is exact for them together")
    return notes
