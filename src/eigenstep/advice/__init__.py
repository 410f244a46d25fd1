"""Advice: what an optimizer will do on a model, as numbers with intervals, reasons and the checks that were run."""

from eigenstep.advice.critical import CriticalSharpness, critical_sharpness
from eigenstep.advice.diagnose import diagnose
from eigenstep.advice.diagnosis import Diagnosis
from eigenstep.advice.limit import Limit, limit_now
from eigenstep.advice.recommend import recommend
from eigenstep.advice.recommendation import Recommendation
from eigenstep.advice.trust import trusted
from eigenstep.curvature import Objective  # handed on: training imports advice alone

__all__ = [
    "CriticalSharpness",
    "Diagnosis",
    "Limit",
    "Objective",
    "Recommendation",
    "critical_sharpness",
    "diagnose",
    "limit_now",
    "recommend",
    "trusted",
]
