"""The joint edge of an optimizer as one symmetric operator: its largest eigenvalue is the stability ratio."""

import math
from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch
from torch import Tensor

from eigenstep.bridge import Group, rules_told
from eigenstep.bridge.param_groups import begun, first_moving, lr_of
from eigenstep.curvature.operators.hessian import HessianOperator
from eigenstep.curvature.operators.preconditioned import ScaledOperator, Unit, stepped_by
from eigenstep.curvature.operators.unit import Frozen, frozen
from eigenstep.errors import Unsupported
from eigenstep.objective import Objective
from eigenstep.rules import LinearRule, RAdam
from eigenstep.theory.limits import momentum_of
from eigenstep.theory.response import Response, response

_MEMORIES = 10  # the first moment's bias correction, which fades within some memories, is looked at beyond them
_SAME = 1e-3  # coefficients this close to their late values count as late
_UNRECTIFIED = 5  # RAdam has no unit up to here


@dataclass(frozen=True, eq=False)
class ParameterInGroup:
    """A measured parameter in its optimizer: group, rule, the lr it counts with, its response to an alternation.

    moves: whether any coordinate does; none does at lr 0, nor with neither second moments nor a gradient.
    """

    name: str
    group: Group
    rule: LinearRule
    lr: float
    response: Response
    late: bool
    moves: bool


@dataclass(frozen=True, eq=False)
class Edge:
    """What the joint limit of an optimizer is made of.

    With S = lr gain / P per coordinate and W the coupled decay, plus P decay_term / gain for the decoupled one, the
    edge is reached when all lr are multiplied by 1 / s, s the largest eigenvalue of S^1/2 (H + W) S^1/2, see
    theory.response.

    - parameters: each measured one in its group.
    - operator: S^1/2 (H + W) S^1/2.
    - lr: of the first group that moves (at lr = 0 throughout, what its lr would be, or 1).
    - moving: whether any lr is positive.
    - uniform: whether S and W are the same for all coordinates.
    - frozen: P, and what there is to say about it.
    """

    parameters: tuple[ParameterInGroup, ...]
    operator: ScaledOperator = field(repr=False)
    lr: float
    moving: bool
    uniform: bool
    frozen: Frozen

    @property
    def rules(self) -> tuple[LinearRule, ...]:
        """The rules, one per group, in the optimizer's order."""
        return tuple({id(entry.group): entry.rule for entry in self.parameters}.values())

    @property
    def t(self) -> int:
        """The most updates that any group has taken."""
        return max(entry.group.t for entry in self.parameters)

    @property
    def gains(self) -> set[float]:
        """The gains of the groups that move, equal ones once; rounding aside."""
        return {float(f"{entry.response.gain:.9g}") for entry in self.parameters if entry.lr > 0}

    @property
    def adaptive(self) -> bool:
        """Whether any group adapts its unit."""
        return any(rule.adaptive for rule in self.rules)

    @property
    def fresh(self) -> bool:
        """Whether no adaptive group has taken an update yet."""
        return self.frozen.fresh

    @property
    def early(self) -> bool:
        """Whether second moments or coefficients are still far from their late form."""
        return self.frozen.early or not all(entry.late for entry in self.parameters)


def edge_of(objective: Objective, optimizer: torch.optim.Optimizer) -> Edge:
    """Return the joint edge of an optimizer on an objective; inside a session.

    Raises Unsupported for rules without a linear limit, InvalidValue for parameters that the optimizer does not hold.
    """
    held = stepped_by(objective, optimizer)
    lrs, first, moving = _lrs(optimizer, held)
    answers = {key: _response(group, rule) for key, (group, rule) in {id(g): (g, r) for g, r in held}.items()}
    unit_now = frozen(objective, held)
    scales, decays, parameters = [], [], []
    for name, (group, rule), lr, unit in zip(objective.names, held, lrs, unit_now.units, strict=True):
        answer, late = answers[id(group)]
        squared = torch.where(unit > 0, lr * answer.gain / unit, 0.0)
        decay = torch.full_like(unit, 0.0 if rule.decoupled else float(rule.weight_decay))
        if answer.decay_term and answer.gain:
            decay = torch.where(squared > 0, decay + unit * (answer.decay_term / answer.gain), decay)
        scales.append(squared.sqrt())
        decays.append(decay)
        parameters.append(ParameterInGroup(name, group, rule, lr, answer, late, bool((squared > 0).any())))
    scale, decay = objective.join(scales), objective.join(decays)
    names = sorted({rule.name for _, rule in held})
    facts = {"rule": " and ".join(names), "t": max(group.t for group, _ in held), "edge": True, "lr": first}
    facts["rules"] = list(rules_told(optimizer))
    facts["coupled_decay"] = any(bool(rule.weight_decay) and not rule.decoupled for _, rule in held)
    uniform = _constant(scale) and _constant(decay)
    unit_found = Unit(scale, decay, False, facts, ())
    operator = ScaledOperator(HessianOperator(objective), unit_found)
    return Edge(tuple(parameters), operator, first, moving, uniform, unit_now)


def rescaled(edge: Edge, objective: Objective) -> ScaledOperator:
    """The operator P^-1/2 (H + wI) P^-1/2 of the same parameters, lr ratios kept and relative to the first that moves.

    It is the edge's without gains and without decoupled decay; a new one shares the products of the old.
    """
    outer = edge.operator.unit
    factors, coupled = [], []
    for entry, p in zip(edge.parameters, objective.params, strict=True):
        scale = 1 / math.sqrt(entry.response.gain * edge.lr) if entry.response.gain else 0.0
        factors.append(torch.full(p.shape, scale))
        coupled.append(torch.full(p.shape, 0.0 if entry.rule.decoupled else float(entry.rule.weight_decay)))
    unit = replace(outer, scale=outer.scale * objective.join(factors), decay=objective.join(coupled))
    return ScaledOperator(edge.operator.inner, unit)


def _lrs(optimizer: torch.optim.Optimizer, held: list[tuple[Group, LinearRule]]) -> tuple[list[float], float, bool]:
    """The lr that each parameter counts with, that of the optimizer's first group that moves, and whether any does.

    Where all are 0: what a scheduler says they began from, or 1.
    """
    own = [float(rule.lr) for _, rule in held]
    if any(own):
        return own, lr_of(optimizer), True
    groups = sorted({group.index for group, _ in held})
    lrs = dict(zip(groups, begun([optimizer.param_groups[index] for index in groups]), strict=True))
    return [lrs[group.index] for group, _ in held], first_moving(lrs.values()), False


def _response(group: Group, rule: LinearRule) -> tuple[Response, bool]:
    """The rule's response at this stage of training, and whether that is the late one."""
    if isinstance(rule, RAdam) and group.t <= _UNRECTIFIED:
        raise Unsupported(
            "limit: RAdam has no unit in its first five updates, so that no limit of them says anything about the "
            "rest; take six updates first"
        )
    late = _late_response(rule.replace(lr=1.0))
    momentum = momentum_of(rule) or 0.0
    ahead = group.t + 1 + (math.ceil(_MEMORIES / (1 - float(momentum))) if momentum else 0)
    pairs = zip(rule.coefficients(ahead), rule.coefficients(None), strict=True)
    if all(abs(float(a) - float(b)) <= _SAME / 10 * abs(float(b)) for a, b in pairs):
        return late, True
    now = response(rule, ahead)
    same = abs(now.gain - late.gain) <= _SAME * late.gain
    return (late, True) if same else (now, False)


_late_response = lru_cache(maxsize=64)(response)  # milliseconds each; a monitor asks for the same one again and again


def _constant(values: Tensor) -> bool:
    return bool((values - values[0]).abs().max() <= 4 * torch.finfo(values.dtype).eps * values[0].abs())
