"""From a model's Hessian to what your optimiser will do: measure, predict, recommend, verify.

The public names, each loaded when first used, so that importing eigenstep stays fast.
"""

import importlib
from typing import Any

_HOME = {
    "advice": (
        *("CriticalSharpness", "Diagnosis", "Limit", "Recommendation"),
        *("critical_sharpness", "diagnose", "limit_now", "recommend"),
    ),
    "bridge": ("Group", "Optimizer", "rule_of"),
    "curvature": ("Objective", "density", "finite_step", "layers", "measure", "shares", "trace"),
    "errors": ("BadFile", "EigenstepError", "InvalidValue", "UnknownName", "Unsupported"),
    "problems": ("Himmelblau", "DoubleWell", "Problem", "Quadratic", "RealLoss", "Rosenbrock"),
    "rules": (
        *("RULES", "Rule", "LinearRule", "State", "advance", "rule_named"),
        *("GradientDescent", "HeavyBall", "Momentum", "EMAMomentum", "Nesterov", "SignDescent", "Lion"),
        *("AdaGrad", "RMSProp", "Adam", "AdamW", "Adamax", "NAdam", "RAdam"),
    ),
    "simulation": ("Run", "simulate"),
    "spectrum": ("Spectrum",),
    "training": ("Monitor", "StabilityLR", "read_log"),
    "theory": ("max_stable_lr", "predict", "tune"),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_MODULE)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load a public name from its module (PEP 562)."""
    if name not in _MODULE:
        raise AttributeError(f"module 'eigenstep' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"eigenstep.{_MODULE[name]}"), name)
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return [*__all__, "__version__"]
