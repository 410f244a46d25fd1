"""Advice: what an optimizer will do on a model, as numbers with intervals, reasons and the checks that were run."""

from eigenstep.advice.limit import Limit, limit_now
from eigenstep.curvature import Objective

__all__ = ["Limit", "Objective", "limit_now"]
