"""`rule_of`: what a torch optimizer is doing, read as rules with their live state."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from eigenstep.bridge.optimizer import Optimizer, remembered
from eigenstep.bridge.settings import alone, plain, sgd
from eigenstep.bridge.stepping import name_hooks, refuse_other_steps
from eigenstep.errors import EigenstepError, InvalidValue, Unsupported
from eigenstep.rules import (
    AdaGrad,
    Adam,
    Adamax,
    AdamW,
    LinearRule,
    NAdam,
    Number,
    RAdam,
    RMSProp,
    Rule,
    State,
)
from eigenstep.rules.data import as_data


@dataclass(frozen=True, eq=False)
class Group:
    """Parameters that one rule has stepped equally often, as `rule_of` found them.

    `state[p]` is a copy of the buffers and scales of parameter p, `t` the updates taken (so the next is number t + 1),
    `index` the position in `optimizer.param_groups` that the group was read from.
    """

    rule: Rule
    params: tuple[Tensor, ...] = field(repr=False)
    state: Mapping[Tensor, State] = field(repr=False)
    t: int
    index: int = 0

    def unit(self, p: Tensor) -> Tensor:
        """Return P for parameter p after t updates, shaped like p: ones for a rule that does not adapt.

        Where second moments are exactly 0 it is eps, which says nothing: see `untouched` and `next_unit`.

        Raises Unsupported for a rule that is not linear even in its own unit (sign descent, Lion), InvalidValue
        while an adaptive rule has taken no update: there is no second moment then, and no P.
        """
        rule = self._linear()
        if rule.adaptive and self.t == 0:
            raise InvalidValue(
                f"fresh optimiser: {type(rule).__name__} has no second moments before its first update; take a "
                "step first, or use group.next_unit(p, grad) for the unit that a first step would have"
            )
        return _filled(rule.unit(self.state[p].scales, self.t), p)

    def next_unit(self, p: Tensor, grad: Tensor) -> Tensor:
        """Return the P that one more update with this gradient would make, at t + 1; the rule's own scale, decay too.

        Raises Unsupported for a rule that is not linear even in its own unit (sign descent, Lion).

        >>> w = torch.nn.Parameter(torch.zeros(2))
        >>> (group,) = rule_of(torch.optim.RMSprop([w], alpha=0.75, eps=0.0))
        >>> group.next_unit(w, torch.tensor([3.0, -4.0])).tolist()
        [1.5, 2.0]
        """
        rule = self._linear()
        return _filled(rule.scale(rule.couple(p.detach(), grad), self.state[p].scales, self.t + 1)[0], p)

    def untouched(self, p: Tensor) -> Tensor:
        """Return where the second moments of p are exactly 0, as no gradient but 0 leaves them; a mask shaped like p.

        Adamax's is then eps. AdaGrad's initial_accumulator_value is a second moment. Nowhere for a rule that does not
        adapt. Raises Unsupported for a rule that is not linear even in its own unit (sign descent, Lion).
        """
        rule = self._linear()
        scales = self.state[p].scales
        shape = () if rule.elementwise else p.shape  # one zero stands for all where each element is by itself
        nothing = tuple(scale.new_zeros(shape) for scale in scales)
        still = rule.accumulate(p.detach().new_zeros(shape), nothing)
        mask = torch.full_like(p, bool(scales), dtype=torch.bool, requires_grad=False)
        for scale, zero, same in zip(scales, nothing, still, strict=True):
            mask &= (scale == zero) | (scale == same)
        return mask

    def iterate(self, p: Tensor) -> Tensor:
        """Return the method's iterate for parameter p; p's values unless a look-ahead point is stored (Nesterov)."""
        return self.rule.iterate(p.detach().clone(), self.state[p])

    def _linear(self) -> LinearRule:
        if not isinstance(self.rule, LinearRule):
            raise Unsupported(f"{type(self.rule).__name__} has no unit in which it is linear: simulate it instead")
        return self.rule


def _filled(unit: Number, p: Tensor) -> Tensor:
    """The unit as a tensor shaped like p, where a rule gives one number for all coordinates."""
    return unit if isinstance(unit, Tensor) else torch.full_like(p, unit, requires_grad=False)


def rule_of(optimizer: torch.optim.Optimizer) -> tuple[Group, ...]:
    """Read a torch optimizer as rules: its hyperparameters per param group, and a copy of its live state.

    Understood: SGD (as GradientDescent, Momentum or Nesterov), Adam, AdamW, Adamax, NAdam, RAdam, RMSprop and Adagrad
    with their modes (tensor lr, capturable, foreach, fused too), and eigenstep.Optimizer. The optimizer is not changed.
    SGD with dampening but no momentum is read as plain gradient descent, which is what torch then does.

    One Group for each param group; where parameters of one param group have taken different numbers of updates (some
    had no gradient at times), one for each number, in order of first appearance, since P depends on the number: so
    every Group has one rule and one t. SGD keeps no count: t is 1 once a momentum buffer exists, else 0.

    Raises Unsupported, with what to do instead, for optimizers that are no such rule: other classes, a subclass with
    its own step, a step that has been patched (a scheduler's count of steps is none), a pre-step hook that changes
    gradients, maximize, differentiable, complex parameters. A hook that only may change the update is named in a
    warning. Raises InvalidValue for settings outside a rule's range.

    >>> w = torch.nn.Parameter(torch.zeros(3))
    >>> (group,) = rule_of(torch.optim.SGD([w], lr=0.1, momentum=0.9, nesterov=True))
    >>> group.rule.name, group.t, group.unit(w).tolist()
    ('nesterov', 0, [1.0, 1.0, 1.0])
    """
    known = _class_of(optimizer)
    name_hooks(optimizer)
    return tuple(group for i in range(len(optimizer.param_groups)) for group in _read_group(optimizer, known, i))


def rules_told(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any], ...]:
    """Return each param group's rule as plain data: its name and all its hyperparameters, as `Rule.as_dict` tells them.

    A group that no rule describes (LBFGS, a step of its own) goes by its optimizer's class, with all of its settings.

    >>> w = torch.nn.Parameter(torch.zeros(3))
    >>> rules_told(torch.optim.SGD([w], lr=0.1, momentum=0.5, nesterov=True))
    ({'name': 'nesterov', 'lr': 0.1, 'weight_decay': 0, 'decoupled': False, 'momentum': 0.5},)
    """
    groups = getattr(optimizer, "param_groups", [])
    try:
        known = _class_of(optimizer)
        return tuple(_group_rule(optimizer, known, i)[0].as_dict() for i in range(len(groups)))
    except EigenstepError:
        left_out, name = ("params", "param_names", "name"), type(optimizer).__name__
        settings = [{k: as_data(plain(v)) for k, v in group.items() if k not in left_out} for group in groups]
        return tuple({"name": name, **each} for each in settings)


def _group_rule(optimizer: torch.optim.Optimizer, known: type, index: int) -> tuple[Rule, str]:
    """The rule of a param group, and words for the group; Unsupported for modes that no rule has."""
    settings = optimizer.param_groups[index]
    where = f"rule_of: param group {index} of {type(optimizer).__name__}"
    if settings.get("maximize"):
        raise Unsupported(f"{where} has maximize=True; stability is about minima: minimise the negated loss instead")
    if settings.get("differentiable"):
        raise Unsupported(
            f"{where} has differentiable=True, whose state carries a graph; set it to False to analyse it"
        )
    rule = optimizer.rules()[index] if isinstance(optimizer, Optimizer) else _rule_from(known, settings, f"{where}: ")
    return rule, where


def _read_group(optimizer: torch.optim.Optimizer, known: type, index: int) -> Iterator[Group]:
    """One Group for each number of updates found among a param group's parameters."""
    settings = optimizer.param_groups[index]
    rule, where = _group_rule(optimizer, known, index)
    found: dict[int, dict[Tensor, State]] = {}
    with torch.no_grad():
        for p in settings["params"]:
            if p.is_complex():
                raise Unsupported(f"{where} has complex parameters; train torch.view_as_real(p) to have them analysed")
            state, t = remembered(rule, p, optimizer.state.get(p, {}))
            buffers, scales = (tuple(tensor.detach().clone() for tensor in part) for part in state[:2])
            copied = State(buffers, scales, tuple(n.clone() if isinstance(n, Tensor) else n for n in state.carried))
            found.setdefault(t, {})[p] = copied
    for t, states in found.items():
        yield Group(rule, tuple(states), states, t, index)


def _rule_from(known: type, settings: Mapping[str, Any], where: str) -> Rule:
    """The rule that a param group of a known torch class describes."""
    settings = {name: plain(value) for name, value in settings.items() if name != "params"}
    if known is torch.optim.SGD:
        return alone(sgd(settings), where)
    rule = _TWINS[known]
    own = {f.name: settings[f.name] for f in fields(rule) if f.name in settings}
    if "decoupled_weight_decay" in settings:
        own["decoupled"] = settings["decoupled_weight_decay"]
    return alone(rule(**own), where)


_TWINS: dict[type, type[Rule]] = {
    torch.optim.Adam: Adam,
    torch.optim.AdamW: AdamW,
    torch.optim.Adamax: Adamax,
    torch.optim.NAdam: NAdam,
    torch.optim.RAdam: RAdam,
    torch.optim.RMSprop: RMSProp,
    torch.optim.Adagrad: AdaGrad,
}
_KNOWN: tuple[type, ...] = (torch.optim.SGD, *_TWINS, Optimizer)
_NO_RULE = {
    "LBFGS": "its step is built from pairs of past points and gradients",
    "Rprop": "its step sizes follow the signs of the gradients alone",
    "Adadelta": "its unit depends on its own past steps",
    "ASGD": "its lr decays and its answer is an average of iterates",
    "Adafactor": "its unit is factored over rows and columns, and its step clipped",
    "Muon": "its step orthogonalises whole matrices, and is not per coordinate",
    "SparseAdam": "it moves only the coordinates that had a gradient",
}
_INSTEAD = "define a Rule for it and train with eigenstep.Optimizer, or judge it by critical sharpness or by simulation"


def _class_of(optimizer: torch.optim.Optimizer) -> type:
    """The class whose step the optimizer really takes; Unsupported if no rule describes it."""
    name = type(optimizer).__name__
    if not isinstance(optimizer, torch.optim.Optimizer):
        inner = getattr(optimizer, "optimizer", None)
        hint = "; pass the one that it wraps, .optimizer" if isinstance(inner, torch.optim.Optimizer) else ""
        raise Unsupported(f"rule_of: {name} is not a torch optimizer{hint}")
    if isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        raise Unsupported(f"rule_of: {name} wraps {type(inner).__name__}; pass the one that it wraps, .optimizer")
    known = next((cls for cls in type(optimizer).__mro__ if cls in _KNOWN), None)
    if known is None:
        why = _NO_RULE.get(name, "it is not one of the classes that a rule exists for")
        if not type(optimizer).__module__.startswith("torch.optim"):
            why = "it is not one of torch's classes that a rule exists for"
        raise Unsupported(f"rule_of: {name} has no rule here: {why}; {_INSTEAD}")
    refuse_other_steps(optimizer, known, _INSTEAD)
    return known
