"""Predictions verified: the limit that the theory gives beside the one found by running, on nonlinear losses."""

from eigenstep.verify.check import (
    GOALS,
    Factors,
    LimitCheck,
    ProblemCheck,
    check_held,
    check_linear,
    check_live,
    check_problem,
)
from eigenstep.verify.limit import MeasuredLimit, TriedLr, measured_factors, measured_limit, sharpest, unit_after
from eigenstep.verify.orbit import Orbit, measured_orbit
from eigenstep.verify.race import Entry, race, race_figure

__all__ = [
    "GOALS", "Entry", "Factors", "LimitCheck", "MeasuredLimit", "Orbit", "ProblemCheck", "TriedLr", "check_held",
    "check_linear", "check_live", "check_problem", "measured_factors", "measured_limit", "measured_orbit", "race",
    "race_figure", "sharpest", "unit_after",
]  # fmt: skip
