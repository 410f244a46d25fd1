"""The curvature of real models: Objective -> measure -> Spectrum, without ever forming the Hessian."""

from eigenstep.curvature.density import Density, density
from eigenstep.curvature.direction import FiniteStep, Layers, finite_step, layers, shares
from eigenstep.curvature.ggn import GGNOperator
from eigenstep.curvature.hessian import HessianOperator
from eigenstep.curvature.measure import measure
from eigenstep.curvature.objective import Objective
from eigenstep.curvature.operators import Operator, as_operator
from eigenstep.curvature.report import Measurement
from eigenstep.curvature.total import Trace, trace
from eigenstep.progress import Progress

__all__ = [
    "Density",
    "FiniteStep",
    "GGNOperator",
    "HessianOperator",
    "Layers",
    "Measurement",
    "Objective",
    "Operator",
    "Progress",
    "Trace",
    "as_operator",
    "density",
    "finite_step",
    "layers",
    "measure",
    "shares",
    "trace",
]
