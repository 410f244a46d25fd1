"""Update rules, each defined once; RULES maps the command line's names to the classes."""

from typing import Any

from eigenstep.errors import UnknownName
from eigenstep.rules.adam import Adam, Adamax, AdamW, NAdam, RAdam
from eigenstep.rules.adaptive import AdaGrad, RMSProp
from eigenstep.rules.base import Coefficients, LinearRule, Number, Rule, State, advance
from eigenstep.rules.descent import GradientDescent
from eigenstep.rules.momentum import EMAMomentum, HeavyBall, Momentum, Nesterov
from eigenstep.rules.sign import Lion, SignDescent

__all__ = [
    "RULES", "AdaGrad", "Adam", "AdamW", "Adamax", "Coefficients", "EMAMomentum", "GradientDescent", "HeavyBall",
    "LinearRule", "Lion", "Momentum", "NAdam", "Nesterov", "Number", "RAdam", "RMSProp", "Rule", "SignDescent", "State",
    "advance", "rule_named",
]  # fmt: skip

RULES: dict[str, type[Rule]] = {
    rule.name: rule
    for rule in (
        *(GradientDescent, HeavyBall, Momentum, EMAMomentum, Nesterov),
        *(AdaGrad, RMSProp, Adam, AdamW, Adamax, NAdam, RAdam),
        *(SignDescent, Lion),
    )
}


def rule_named(name: str, /, **hyperparameters: Any) -> Rule:
    """Return the rule that the command line calls `name`.

    Raises UnknownName for an unknown name or hyperparameter, InvalidValue for a value out of range.

    >>> rule_named("heavy-ball", lr=0.1)
    HeavyBall(lr=0.1, weight_decay=0.0, decoupled=False, momentum=0.9)
    """
    if name not in RULES:
        raise UnknownName.among("rule", name, RULES)
    return RULES[name](**hyperparameters)
