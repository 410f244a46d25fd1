"""How slow the slow directions are: the density of what the optimizer sees, and where the gradient lies in it."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from eigenstep.curvature import Density, density
from eigenstep.curvature.krylov import Krylov
from eigenstep.curvature.operators import vectors as vec
from eigenstep.objective import Objective
from eigenstep.rules import LinearRule
from eigenstep.stability.joint_limit import Edge
from eigenstep.theory import radii

_FLAT = 1e-12  # relative to the largest; below it a node is flat
_NEARLY_FLAT = 1e-8  # relative to the largest; small enough that the loss falls steadily there for any horizon in use
_STILL = 0.9  # an error that keeps nine tenths has not moved
_EXACT = 1e6  # updates that are told one by one; a factor is known to 2e-16, so that 1e12 are known to 1e-4
_SAME_PULL = 1e-3  # lr * decay differences up to here do not keep groups from being judged by one rule


@dataclass(frozen=True, eq=False)
class Along:
    """How the gradient lies in the spectrum, and what of the loss goes with it in the local quadratic, P frozen.

    - horizon: updates.
    - gradient_stuck: shares of the gradient's squared length, least and most; what keeps more than nine tenths of its
      error for the horizon, flat directions, in which it moves steadily, not among them.
    - progress: a part of the loss, at most 1; the least that the local quadratic loses within the horizon (directions
      that curve downwards counted as flat; quadrature from the gradient sees the flattest directions last).
    - possible: the same at half the largest stable lr.
    - steady: parts of the loss; of both, what goes where nothing curves upwards if it falls on as steeply as here.
    - decayed: a part of the loss; the most that weight decay may cost.
    - gradient_norm: the gradient's length, decay included.
    - gradient_values, gradient_weights: (nodes,) of the gradient's own spectral measure; weights sum to 1.
    - products: Hessian-vector products taken.
    """

    horizon: int
    gradient_stuck: tuple[float, float]
    progress: float
    possible: float
    steady: tuple[float, float]
    decayed: float
    gradient_norm: float
    gradient_values: Tensor = field(repr=False)
    gradient_weights: Tensor = field(repr=False)
    products: int

    def certain(self, half: bool = False) -> float:
        """The least part of the loss that goes within the horizon (half: at half the limit), below 0 if none is known.

        What decay may cost, 1/2 sum w x^2 of the weights as they are, is subtracted: what falls is the loss with it.
        """
        return (self.possible if half else self.progress) - self.steady[half] - self.decayed

    @property
    def middle(self) -> float | None:
        """The eigenvalue at the gradient's median: half of its squared length lies in flatter directions."""
        up = self.gradient_values > 0
        if not bool(up.any()):
            return None
        values, weights = self.gradient_values[up], self.gradient_weights[up]
        order = values.argsort()
        reached = weights[order].cumsum(0) >= 0.5 * weights.sum()
        return float(values[order][int(reached.long().argmax())])


@dataclass(frozen=True, eq=False)
class Slowness(Along):
    """How fast the error shrinks over the measured spectrum, with the preconditioner frozen, in the local quadratic.

    - tenfold: updates after which the error has shrunk tenfold, by quantile of the directions that curve upwards and
      are told from zero.
    - unresolved: a share of all directions; those that are not told from zero.
    - flattest: updates; these directions need as many or more.
    - stuck: a share of all directions; those whose error keeps more than nine tenths for the horizon, from the least
      (of those that are resolved) to the most, at 95% over the random vectors.
    - negative: a share of directions; those that curve downwards, as the nodes stand.
    - density: of the edge's operator.
    """

    tenfold: dict[str, float]
    unresolved: float
    flattest: float | None
    stuck: tuple[float, float]
    negative: float
    density: Density = field(repr=False)


@dataclass(frozen=True)
class Scale:
    """How an edge's eigenvalues e translate into the one rule's own a: a = (e - shift) / per.

    - rule: the one that all groups share.
    - per: the lr times the gain.
    - shift: what decay adds to e.
    - coupled: the largest coupled decay, which is inside a; the rule itself has none then.
    """

    rule: LinearRule
    per: float
    shift: float
    coupled: float

    def own(self, e: Tensor) -> Tensor:
        """Eigenvalues as the rule's matrix takes them."""
        return (e - self.shift) / self.per

    def radii(self, e: Tensor, times: float = 1.0) -> Tensor:
        """Factors per update at eigenvalues e of the edge, with all lr multiplied."""
        return radii(self.rule.replace(lr=float(self.rule.lr) * times), self.own(e))


def one_rule(edge: Edge) -> Scale | None:
    """Return the rule that all moving groups share, lr and weak decay aside; None where there is none."""
    moving = [entry for entry in edge.parameters if entry.lr > 0]
    rule = moving[0].rule
    alike = {type(entry.rule).__name__ + repr(entry.rule.replace(lr=1.0, weight_decay=0.0)) for entry in moving}
    shifts = [entry.lr * entry.response.decay_term for entry in moving]
    if len(alike) > 1 or max(shifts) - min(shifts) > _SAME_PULL:
        return None
    per = moving[0].response.gain * edge.lr
    middle = (max(shifts) + min(shifts)) / 2
    decay = (
        middle / edge.lr / moving[0].response.decay_term * float(rule.weight_decay)
        if moving[0].response.decay_term
        else 0.0
    )
    coupled = max(0.0 if entry.rule.decoupled else float(entry.rule.weight_decay) for entry in moving)
    return Scale(rule.replace(lr=edge.lr, weight_decay=decay), per, middle, coupled)


def along_of(
    objective: Objective,
    edge: Edge,
    scale: Scale,
    gradient: Tensor,
    *,
    horizon: int,
    loss: float,
    top: float,
    steps: int,
    seed: int,
) -> Along:
    """Return how the gradient lies in the edge's spectrum; inside a session. top: the edge's largest eigenvalue."""
    decay, penalty = decay_of(objective, edge)
    gradient = gradient + decay
    values, bounds, weights, length, products = along_gradient(edge, gradient, steps, seed)
    flat = _flat(values)
    stuck = [min(float(weights[where & ~flat].sum()), 1.0) for where in _still(scale, horizon, values, bounds)]

    def decrease(times: float, where: Tensor) -> float:
        return _decrease(scale, times, values=values, weights=weights * where, length=length, horizon=horizon)

    rates = (1.0, 0.5 / top if top > 0 else 1.0)
    now, best = (_part(decrease(times, torch.ones_like(values)), loss) for times in rates)
    slow_now, slow_best = (_part(decrease(times, flat), loss) for times in rates)
    return Along(
        horizon=horizon,
        gradient_stuck=(stuck[0], stuck[1]),
        progress=now,
        possible=best,
        steady=(slow_now, slow_best),
        decayed=penalty / abs(loss) if loss else 0.0,
        gradient_norm=vec.norm(gradient),
        gradient_values=values,
        gradient_weights=weights,
        products=products,
    )


def slowness(edge: Edge, scale: Scale, along: Along, *, top: float, probes: int, steps: int, seed: int) -> Slowness:
    """Return how slow the slow directions are; inside a session. top: the edge's largest eigenvalue."""
    seen = density(edge.operator, probes, steps, seed=seed)
    surely, perhaps = _still(scale, along.horizon, seen.values, seen.bounds)
    told = seen.bounds <= seen.values.abs() / 2
    upwards = told & (seen.values > _FLAT * abs(top))
    shrink = _tenfold(scale.radii(seen.values[upwards]))
    return Slowness(
        **{**vars(along), "products": along.products + int(seen.provenance["products"])},
        tenfold=_quantiles(shrink, seen.weights[upwards]),
        unresolved=float(seen.weights[~told].sum()),
        flattest=float(shrink[seen.values[upwards].argmin()]) if len(shrink) else None,
        stuck=(max(seen.interval(lambda _: surely)[0], 0.0), min(seen.interval(lambda _: perhaps)[1], 1.0)),
        negative=seen.mass_below(-_FLAT * abs(top))[0],
        density=seen,
    )


def _still(scale: Scale, horizon: int, values: Tensor, blur: Tensor) -> tuple[Tensor, Tensor]:
    """Where an error keeps nine tenths for the horizon: surely, and perhaps, where a value may be 0."""
    r = scale.radii(values)
    surely = (r <= 1) & (r**horizon > _STILL)
    return surely, surely | (blur > values.abs() / 2)


def decay_of(objective: Objective, edge: Edge) -> tuple[Tensor, float]:
    """What coupled decay adds to the gradient (n,), and the penalty 1/2 sum w x^2 at most, decoupled decay's too.

    The edge's W is what an alternation feels of decoupled decay, P decay_term / gain: more than a slow error does.
    """
    x = objective.join([p.detach() for p in objective.params])
    coupled = [
        torch.full_like(p, 0.0 if entry.rule.decoupled else float(entry.rule.weight_decay), requires_grad=False)
        for p, entry in zip(objective.params, edge.parameters, strict=True)
    ]
    return objective.join(coupled) * x, float((edge.operator.unit.decay * x * x).nan_to_num(posinf=0.0).sum()) / 2


def along_gradient(edge: Edge, gradient: Tensor, steps: int, seed: int) -> tuple[Tensor, Tensor, Tensor, float, int]:
    """Nodes, bounds and weights (sum 1) of the gradient's own spectral measure, its length there, and the products.

    In the edge's coordinates the gradient is S^1/2 g; Lanczos from it is Gauss quadrature for sum_j (u_j' S^1/2 g)^2.
    """
    operator = edge.operator
    start = operator.restrict(gradient) * operator.scale
    length = vec.norm(start)
    krylov = Krylov(operator, min(steps, operator.size), torch.Generator().manual_seed(seed))
    if length == 0 or not krylov.add(start):
        nothing = torch.zeros(1, dtype=torch.float64)
        return nothing, nothing, nothing + 1, 0.0, 0
    while krylov.m < krylov.capacity and krylov.pending:
        krylov.expand(0, krylov.product(0))
    ritz = krylov.ritz()
    return ritz.values, ritz.residuals, ritz.mix[0].square(), length, krylov.products


def _flat(values: Tensor) -> Tensor:
    """Where a node of the gradient's measure does not curve upwards, as far as is told."""
    return values <= _NEARLY_FLAT * float(values.abs().max())


def _decrease(scale: Scale, times: float, *, values: Tensor, weights: Tensor, length: float, horizon: int) -> float:
    """What the local quadratic loses within the horizon: 1/2 sum g_j^2 (1 - r_j^(2 horizon)) / e_j.

    Directions that do not curve upwards count as flat ones, along which the loss falls steadily; those beyond the lr's
    limit lose nothing.
    """
    values = values.clamp(min=_NEARLY_FLAT * float(values.abs().max()) or _NEARLY_FLAT)  # 1 is the edge
    r = scale.radii(values, times)
    per_node = torch.where(r < 1, (1 - r ** (2 * horizon)) / values, 0.0)
    return 0.5 * length**2 * float((weights * per_node).sum())


def _part(decrease: float, loss: float) -> float:
    """The decrease as a part of the loss, between 0 and 1."""
    return min(decrease / abs(loss), 1.0) if loss else (0.0 if decrease == 0 else 1.0)


def updates_told(count: float) -> str:
    """A number of updates in words, rounded up: fewer would not do. Beyond a million its digits are not known.

    >>> updates_told(5.35), updates_told(1.0), updates_told(3.2e8), updates_told(1e15)
    ('6 updates', '1 update', '3.2e+08 updates', 'over 1e+12 updates')
    """
    if count > _EXACT**2:
        return f"over {_EXACT**2:.0e} updates"
    if count > _EXACT:
        return f"{count:.3g} updates"
    whole = math.ceil(count * (1 - 1e-9))
    return f"{whole:,} update{'s' * (whole != 1)}"


def _tenfold(factors: Tensor) -> Tensor:
    """Updates to a tenfold shrink at each factor per update."""
    return torch.where(factors < 1, -math.log(10) / factors.clamp(min=1e-300).log(), math.inf)


def _quantiles(steps: Tensor, weights: Tensor) -> dict[str, float]:
    """The fastest tenth, the median and the slowest tenth of the directions."""
    if not len(steps):
        return {}
    order = steps.argsort()
    mass = weights[order].cumsum(0) / weights.sum()
    places = {name: int((mass < q).sum()) for name, q in (("10%", 0.1), ("50%", 0.5), ("90%", 0.9))}
    return {name: float(steps[order][min(place, len(steps) - 1)]) for name, place in places.items()}
