"""From a model's Hessian to what your optimiser will do: measure, predict, recommend, verify.

The public names, each loaded when first used, so that importing eigenstep stays fast.
"""

import importlib
from typing import Any

_HOME = {
    "bridge": ("Group", "Optimizer", "rule_of"),
    "curvature": ("density", "finite_step", "layers", "measure", "shares", "trace"),
    "diagnosis": ("Diagnosis", "diagnose"),
    "errors": ("BadFile", "EigenstepError", "InvalidValue", "UnknownName", "Unsupported"),
    "front": ("Check", "check"),
    "objective": ("Objective",),
    "problems": ("Himmelblau", "DoubleWell", "Problem", "Quadratic", "RealLoss", "Rosenbrock"),
    "recommendation": ("Recommendation", "recommend"),
    "saved": ("load",),
    "rules": (
        *("RULES", "Rule", "LinearRule", "State", "advance", "rule_named"),
        *("GradientDescent", "HeavyBall", "Momentum", "EMAMomentum", "Nesterov", "SignDescent", "Lion"),
        *("AdaGrad", "RMSProp", "Adam", "AdamW", "Adamax", "NAdam", "RAdam"),
    ),
    "simulation": ("Run", "simulate"),
    "spectrum": ("Spectrum",),
    "stability": ("CriticalSharpness", "Limit", "critical_sharpness", "limit_now"),
    "training": ("Monitor", "StabilityLR", "read_log"),
    "theory": ("max_stable_lr", "predict", "tune"),
}
_HELPERS = {"LinearRule", "RULES", "Rule", "State", "advance", "rule_named"}  # not listed by dir(): for own rules
_MEASURE = "es.measure(es.Objective(model, loss, data))"
_INSTEAD = {  # what is looked for first, and the line that gives it
    **dict.fromkeys(("sharpness", "lambda_max", "max_eigenvalue", "largest_eigenvalue"), f"{_MEASURE}.largest"),
    **dict.fromkeys(("hessian", "eigenvalues", "eigs", "eigsh", "top_eigenvalues"), f"{_MEASURE}.eigenvalues"),
    **dict.fromkeys(("spectral_density", "esd", "slq"), "es.density(es.Objective(model, loss, data))"),
    **dict.fromkeys(("hessian_trace", "hutchinson"), "es.trace(es.Objective(model, loss, data))"),
    **dict.fromkeys(("lr_finder", "find_lr", "suggest_lr", "best_lr"), "es.recommend(objective, optimizer).lr"),
    **dict.fromkeys(("stability_ratio", "edge_of_stability"), "es.limit_now(objective, optimizer).ratio"),
    **dict.fromkeys(("critical_lr", "max_lr"), "es.limit_now(objective, optimizer).max_stable_lr"),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_MODULE)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load a public name from its module (PEP 562)."""
    if name not in _MODULE:
        raise AttributeError(_unknown(name))
    value = globals()[name] = getattr(importlib.import_module(f"eigenstep.{_MODULE[name]}"), name)
    return value


def _unknown(name: str) -> str:
    """What to write instead of a name that does not exist."""
    if name.startswith("_"):
        return f"module 'eigenstep' has no attribute {name!r}"
    from eigenstep.errors import nearest

    close = nearest(name, _MODULE)
    hint = (
        f"write {_INSTEAD[name]}" if name in _INSTEAD else f"did you mean {close!r}?" if close else "see dir(eigenstep)"
    )
    return f"module 'eigenstep' has no attribute {name!r}; {hint}"


def __dir__() -> list[str]:
    """List the verbs, their results, the rules and the errors; what helps to write a rule is reached by its name."""
    return [*(name for name in __all__ if name not in _HELPERS), "__version__"]
