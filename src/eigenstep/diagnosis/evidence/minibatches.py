"""How the stability ratio, and the gradient, differ from one mini-batch to the next, with the optimizer held still."""

import itertools
import statistics
from dataclasses import dataclass
from typing import Any

from eigenstep.curvature import measure
from eigenstep.curvature.operators import vectors as vec
from eigenstep.curvature.operators.hessian import HessianOperator
from eigenstep.curvature.operators.preconditioned import ScaledOperator
from eigenstep.objective import Objective
from eigenstep.objective.data.batches import is_one_batch
from eigenstep.objective.data.loader import refuse_one_shot, same_hidden_state, seed_own
from eigenstep.objective.data.stream import readable
from eigenstep.objective.restore import same_random_state, seed_all
from eigenstep.stability.joint_limit import Edge
from eigenstep.stability.result import Limit

_NAMED = "diagnose: train"  # as the user gave them
_PRODUCTS = 30  # a mini-batch's eigenvalue begins from the whole data's eigenvector, and needs few


@dataclass(frozen=True)
class Spread:
    """The stability ratio on single mini-batches, P as it is. A spread, not a limit: quick, residuals only.

    - ratios: by mini-batch.
    - gradient_norms: by mini-batch; the length of its gradient, which is what clipping looks at.
    - samples: by mini-batch, samples in it.
    - products: Hessian-vector products taken.
    """

    ratios: tuple[float, ...]
    gradient_norms: tuple[float, ...]
    samples: tuple[float, ...]
    products: int

    @property
    def low(self) -> float:
        """The smallest ratio."""
        return min(self.ratios)

    @property
    def high(self) -> float:
        """The largest ratio."""
        return max(self.ratios)

    @property
    def times(self) -> float:
        """The largest over the smallest ratio; infinite where a mini-batch has none."""
        return self.high / self.low if self.low > 0 else float("inf")

    @property
    def gradient_norm(self) -> float:
        """The median length of a mini-batch's gradient."""
        return statistics.median(self.gradient_norms)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            **{name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()},
            "low": self.low,
            "high": self.high,
        }


def first_batches(data: Any, count: int) -> list[Any]:
    """Return the first mini-batches of a loader, a list or another re-iterable; no generator is consumed.

    Raises InvalidValue for what can be read only once.
    """
    data = readable(data, _NAMED)
    if is_one_batch(data):
        return [data]
    if isinstance(data, (list, tuple)):
        return list(data[:count])
    refuse_one_shot(data, _NAMED)
    with same_random_state(), same_hidden_state(data, [], _NAMED):
        seed_all(0)
        seed_own(data)
        return list(itertools.islice(data, count))


def spread_of(objective: Objective, edge: Edge, batches: list[Any], limit: Limit, *, tol: float, seed: int) -> Spread:
    """Return the ratio on each of some mini-batches; inside a session. limit: the whole data's."""
    ratios, norms, sizes, products = [], [], [], 0
    for batch in batches:
        part = objective.over([batch])
        norms.append(vec.norm(part.gradient()))
        operator = ScaledOperator(HessianOperator(part), edge.operator.unit)
        found = measure(operator, quick=True, start=limit.edge.vectors, tol=tol, seed=seed, max_products=_PRODUCTS)
        ratios.append(max(float(found.values[0]), 0.0))
        sizes.append(part.batches.counts[0])
        products += int(found.provenance["products"])
    return Spread(tuple(ratios), tuple(norms), tuple(sizes), products)
