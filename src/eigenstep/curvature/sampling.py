"""What random unit vectors tell of a trace, and how surely: the standard error and the interval of a mean of u'Bu."""

import math
from typing import NamedTuple

from scipy.special import stdtrit
from torch import Tensor

from eigenstep.errors import refuse_share


class Sampled(NamedTuple):
    """The mean of u'Bu over a number of random unit vectors, and its standard error."""

    value: float
    error: float
    probes: int

    def reach(self, level: float) -> float:
        """Return how far the interval at `level` reaches to either side of the value."""
        refuse_share("interval", "level", level)
        return float(stdtrit(self.probes, 0.5 + level / 2)) * self.error


def sampled(means: Tensor, spreads: Tensor, size: int) -> Sampled:
    """Return the mean of u'Bu, an estimate of tr B / size, from each unit vector's u'Bu and |Bu - (u'Bu) u|^2.

    For u drawn evenly from the unit sphere of `size` dimensions, Var u'Bu = 2 (tr B^2 / size - (tr B / size)^2) / (size
    + 2), a theorem; the same vectors estimate the bracket, as the mean spread plus the variance of the means. That is
    far steadier than the scatter of a few skewed values. The interval is Student's with one degree of freedom a vector:
    what the estimated variance is worth where a single eigenvalue dominates (there a 95% interval holds the truth in
    95.0 to 95.6% of all draws, for any number of vectors, one included; in two dimensions and with one vector in 93%),
    and wider than needed where many share it.
    """
    variance = 2 / (size + 2) * float(spreads.mean() + means.var(correction=0))
    return Sampled(float(means.mean()), math.sqrt(variance / len(means)), len(means))
