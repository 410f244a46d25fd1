"""The trace of an operator with a confidence interval: a Krylov space taken exactly, the rest by random vectors."""

import time
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from eigenstep.curvature.krylov import NOISE_FLOOR, Krylov
from eigenstep.curvature.measure import notes_of, operator_of, working
from eigenstep.curvature.operators import vectors as vec
from eigenstep.curvature.operators.operator import Operator
from eigenstep.curvature.sampling import sampled
from eigenstep.errors import refuse_count, refuse_seed, refuse_share
from eigenstep.objective.memory import free_bytes, refuse_if_too_much
from eigenstep.progress import PRODUCT, Watch, task
from eigenstep.result import Result, Words

_FEWEST = 6  # three random vectors: with fewer, Student's quantile at 95% is above 4 and the interval says little


@dataclass(frozen=True, repr=False)
class Trace(Result):
    """A trace with a confidence interval.

    - value: the estimate.
    - error: its standard error.
    - low, high: the interval, rounding and the products' own error included.
    - level: at what probability it holds the trace.
    - products, seconds: the cost.
    - notes: what the reader should know.
    """

    kind: ClassVar[str] = "trace"

    value: float
    error: float
    low: float
    high: float
    level: float
    products: int
    seconds: float
    notes: tuple[str, ...] = ()

    def words(self) -> Words:
        """Return the value with its interval."""
        interval = f"{self.level:.0%} interval {self.low:.6g} to {self.high:.6g}"
        cost = f"standard error {self.error:.2g}; {self.products} products, {self.seconds:.2g} s"
        sentence = f"trace {self.value:.6g}, {interval} ({cost})"
        return Words(f"{self.value:.6g}, {interval}", sentence, notes=self.notes)

    def plot(self, ax: Any = None) -> Any:
        """Draw the value on its interval; return the axes."""
        from eigenstep import draw

        ax = draw.ranges({"trace": (self.value, self.low, self.high)}, ax)
        return draw.describe(ax, f"trace, {self.level:.0%} interval", "")


def trace(
    source: Any,
    products: int = 40,
    *,
    level: float = 0.95,
    seed: int = 0,
    optimizer: torch.optim.Optimizer | None = None,
    progress: Watch | bool | None = None,
) -> Trace:
    """Return the trace of an Objective's Hessian, or any operator, with a confidence interval.

    Half the products build a Krylov space Q of k dimensions from a random start, whose share is exact: tr Q'AQ. The
    others go to random unit vectors u outside it, independent of Q and of each other: tr A = tr Q'AQ + (n - k) E u'Au.
    So the value is unbiased, the error follows from the variance of u'Au, a theorem (see `sampling`), and the interval
    is Student's, with a degree of freedom for each u, and what rounding and the products' own method may add.
    Exact where products >= n, and where fewer than products / 2 eigenvalues are not 0, all different. An eigenvalue
    that is repeated enters Q about once: then the interval is wider, not wrong.

    progress: as for `measure`. Raises InvalidValue for fewer than 6 products or a level outside (0, 1).
    Source: Meyer et al. 2021 (Hutch++, arXiv 2010.09649); Chen and Hallman 2023 (Krylov-aware, arXiv 2205.01736).

    >>> result = trace(torch.diag(torch.tensor([5.0, 2.0] + [0.0] * 98, dtype=torch.float64)), products=12)
    >>> round(result.value, 9)
    7.0
    """
    refuse_seed("trace", seed)
    refuse_count("trace", "products", products, _FEWEST)
    refuse_share("trace", "level", level)
    began = time.perf_counter()
    with task("trace", progress, "samples= on Objective, fewer products=") as work, working(source):
        work.plan(PRODUCT * products, f"{products} products")
        operator = operator_of(source, optimizer=optimizer)
        n, k = operator.size, products // 2
        epsilon = torch.finfo(operator.dtype).eps
        if n <= products:
            units = torch.eye(n, dtype=operator.dtype, device=operator.device)
            entries = []
            for i, unit in enumerate(units):
                entries.append(operator.matvec(unit)[i])
                work.tell(phase="products", products=i + 1)
            diagonal = torch.stack(entries).double()
            value, error = float(diagonal.sum()), 0.0
            reach = NOISE_FLOOR * epsilon * float(diagonal.abs().sum()) + n * operator.error(units[0])
        else:
            each = n * torch.finfo(operator.dtype).bits / 8
            refuse_if_too_much(
                (k + 4) * each, free_bytes(operator.device), "the trace's basis", "ask for fewer products="
            )
            generator = torch.Generator().manual_seed(seed)
            krylov = Krylov(operator, k, generator)
            while not krylov.full:
                if not krylov.pending:  # the space is closed: begin another
                    krylov.add()
                krylov.expand(0, krylov.product(0))
                work.tell(phase="products", products=krylov.products)
            outside = []
            for _ in range(products - k):
                outside.append(_outside(operator, krylov, generator))
                work.tell(phase="products", products=krylov.products + len(outside))
            means, spreads = torch.tensor(outside, dtype=torch.float64).T
            found = sampled(means, spreads, n - k)
            value, error = float(krylov.T.trace()) + (n - k) * found.value, (n - k) * found.error
            reach = (n - k) * found.reach(level) + k * (krylov.noise + operator.error(krylov.rows[0]))
        notes = (*notes_of(source), *operator.notes())
    spent, seconds = min(n, products), time.perf_counter() - began
    return Trace(value, error, value - reach, value + reach, level, spent, seconds, notes)


def _outside(operator: Operator, krylov: Krylov, generator: torch.Generator) -> tuple[float, float]:
    """u'Bu and |Bu - (u'Bu) u|^2 for B = PAP and a random unit vector u = Pu, P the projection off the Krylov space."""

    def off(vector: Tensor, rows: Tensor) -> Tensor:
        for _ in range(2):
            vec.subtract(vector, rows, vec.products(rows, vector))
        return vector

    u = off(vec.random_unit(operator.size, generator, krylov.like).clone(), krylov.rows)
    u /= vec.norm(u)
    image = off(operator.matvec(u).clone(), krylov.rows)
    mean = float(vec.products(u[None], image)[0])
    return mean, vec.norm(off(image, u[None])) ** 2
