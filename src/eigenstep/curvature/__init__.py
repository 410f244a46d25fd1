"""The curvature of real models: from an Objective to a Spectrum, without ever forming the Hessian."""

from eigenstep.curvature.density import Density, density
from eigenstep.curvature.direction import FiniteStep, Layers, finite_step, layers, shares
from eigenstep.curvature.measure import measure
from eigenstep.curvature.operators.ggn import GGNOperator
from eigenstep.curvature.operators.hessian import HessianOperator
from eigenstep.curvature.operators.operator import Operator, as_operator
from eigenstep.curvature.result import Measurement
from eigenstep.curvature.trace import Trace, trace
from eigenstep.progress import Progress

__all__ = [
    "Density",
    "FiniteStep",
    "GGNOperator",
    "HessianOperator",
    "Layers",
    "Measurement",
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
