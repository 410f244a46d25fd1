"""Stability, rates, counts and best settings of a rule on a spectrum."""

from eigenstep.theory.adaptive import adam_step_bound, converging_eps, orbit_half_width
from eigenstep.theory.limits import frozen_limit, largest_stable_eigenvalue, max_stable_lr, stability_region
from eigenstep.theory.linear import is_oscillating, is_stable, iteration_matrix, radii, spectral_radius
from eigenstep.theory.prediction import Prediction, error_curve, predict
from eigenstep.theory.tuned import Tuning
from eigenstep.theory.tuning import tune

__all__ = [
    "Prediction", "Tuning", "adam_step_bound", "converging_eps", "error_curve", "frozen_limit", "is_oscillating",
    "is_stable", "iteration_matrix", "largest_stable_eigenvalue", "max_stable_lr", "orbit_half_width", "predict",
    "radii", "spectral_radius", "stability_region", "tune",
]  # fmt: skip
