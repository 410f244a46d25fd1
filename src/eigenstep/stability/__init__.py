"""What an optimizer's lr may be here and now: its joint limit, its critical sharpness, how far they can be trusted."""

from eigenstep.stability.critical import CriticalSharpness, critical_sharpness
from eigenstep.stability.limit import limit_now
from eigenstep.stability.quadratic_range import trusted
from eigenstep.stability.result import Limit

__all__ = ["CriticalSharpness", "Limit", "critical_sharpness", "limit_now", "trusted"]
