"""What a param group's settings say: numbers for one-element tensors, and which rule they make."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from eigenstep.errors import InvalidValue, UnknownName, nearest
from eigenstep.rules import RULES, GradientDescent, Momentum, Nesterov, Rule

# torch's SGD is three rules here. A param group of one of them holds the settings of all, where a schedule that cycles
# the momentum finds them; these are the ones that the rule itself has no field for.
_OF_SGD: dict[type, dict[str, Any]] = {
    GradientDescent: {"momentum": 0.0, "dampening": 0.0, "nesterov": False},
    Momentum: {"nesterov": False},
    Nesterov: {"dampening": 0.0, "nesterov": True},
}
# Keys that torch's schedulers, or its own groups, put beside the hyperparameters: never taken for a misspelt one.
_FOREIGN_KEYS = {"params", "param_names", "name", "maximize", "initial_lr", "base_momentum", "max_momentum"}
_ALIASES = {"learning_rate": "lr", "wd": "weight_decay", "beta": "betas", "beta1": "betas", "beta2": "betas"}


def names_of(rule: Rule) -> tuple[str, ...]:
    """The names of the settings that a param group of this rule holds."""
    return (*(f.name for f in fields(rule) if f.init), *_OF_SGD.get(type(rule), ()))


def hyperparameters(rule: Rule) -> dict[str, Any]:
    """Those settings, as the rule has them."""
    return {f.name: plain(getattr(rule, f.name)) for f in fields(rule) if f.init} | _OF_SGD.get(type(rule), {})


def plain(value: Any) -> Any:
    """Return a tensor of one element, whatever its shape, as its number (torch's own reading); all else as it is."""
    if isinstance(value, (tuple, list)):
        return tuple(plain(v) for v in value)
    single = isinstance(value, Tensor) and value.numel() == 1 and value.dtype != torch.bool and not value.is_complex()
    return float(value) if single else value


def completed(rule: Rule, group: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return all settings of a param group that sets some of them itself, checked."""
    own = {name: plain(group[name]) for name in names_of(rule) if name in group}
    foreign = {name: own.pop(name) for name in _OF_SGD.get(type(rule), {}) if name in own}
    settings = hyperparameters(rule.replace(**own)) | foreign
    rule_with(rule, settings, where)
    return settings


def rule_with(rule: Rule, settings: Mapping[str, Any], where: str) -> Rule:
    """Return the rule that a param group's settings make of this one; InvalidValue for a batch of settings."""
    values = {name: plain(settings[name]) for name in names_of(rule)}
    made = sgd(values, type(rule)) if type(rule) in _OF_SGD else type(rule)(**values)
    return alone(made, where)


def sgd(settings: Mapping[str, Any], kind: type = GradientDescent) -> Rule:
    """Return the one of torch's SGD's three rules that the settings describe; without momentum `kind` if it fits."""
    own = {name: settings[name] for name in ("lr", "weight_decay", "decoupled") if name in settings}
    momentum = settings["momentum"]
    if kind is GradientDescent and not isinstance(momentum, Tensor) and momentum == 0:
        return GradientDescent(**own)
    if settings["nesterov"]:
        return Nesterov(momentum=momentum, **own)
    return Momentum(momentum=momentum, dampening=settings["dampening"], **own)


def alone(rule: Rule, where: str) -> Rule:
    """Return the rule if it is one setting; refuse lanes."""
    if rule.lanes:
        raise InvalidValue(
            f"{where}{rule.name or type(rule).__name__} holds {rule.lanes.numel()} settings; a param group trains "
            "with one: give numbers, or compare settings with eigenstep.simulate"
        )
    return rule


def refuse_misspelt(rule: Rule, group: Mapping[str, Any]) -> None:
    """Refuse keys that are another rule's hyperparameters, or look like a misspelt one of this rule's."""
    valid = names_of(rule)
    elsewhere = {f.name for other in RULES.values() for f in fields(other)}
    for key in group:
        if key in valid or key in _FOREIGN_KEYS:
            continue
        close = _ALIASES.get(key.lower()) or nearest(key.lower(), valid, cutoff=0.75)
        if key in elsewhere or close in valid:
            where = f"Optimizer: param group: hyperparameter of {type(rule).__name__}"
            raise UnknownName.among(where, key, valid, close if close in valid else None)
