"""simulate: any rule on any problem, one run or tens of thousands of settings and starts at once."""

from collections.abc import Callable, Collection
from math import inf
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from eigenstep.errors import InvalidValue, UnknownName
from eigenstep.problems import Problem
from eigenstep.rules import Rule
from eigenstep.simulation.lanes import Lanes
from eigenstep.simulation.run import Kept, Run

_KEPT = get_args(Kept)


def simulate(
    rule: Rule,
    problem: Problem,
    start: Any = None,
    *,
    steps: int = 1000,
    loss: float | None = None,
    radius: float | None = None,
    box: float | None = None,
    ball: float | None = None,
    keep: Collection[str] = (),
    point: str = "iterate",
    settle: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Run:
    """Run a rule on a problem for up to `steps` updates, each lane until it meets its tolerance or diverges.

    The lanes B are the broadcast of rule.lanes and start.shape[:-1]: a grid is lr of shape (I, 1) with momentum of
    shape (J,), or starts of shape (K, n). The dtype is that of `start`, float64 unless it is a floating tensor.

    loss, radius: the tolerance, `loss` on the loss and (or) `radius` on the distance to the nearest minimum. With
    `settle` a lane goes on after meeting it, to `steps`, so that the last update above it is known. box, ball: a
    lane diverges when a coordinate is not inside (-box, box), when its distance to the nearest minimum reaches `ball`,
    or when point or loss is not finite. keep: any of 'losses', 'radii', 'points'. point: 'iterate', or 'stored' for
    the point the rule stores (Nesterov's look-ahead in torch); losses, distances and bounds refer to it.
    progress(done, total) is called about a hundred times.

    Deterministic. A lane's bits do not depend on the other lanes, nor on when these end, where the problem works
    coordinate by coordinate (up to 8 coordinates, and axis-aligned quadratics); matrix products agree to rounding.

    Raises InvalidValue for a start that is misshapen, not finite or out of bounds, and for steps, tolerances or
    bounds out of range; UnknownName for something to keep, or a point, that does not exist.

    >>> from eigenstep.problems import Quadratic
    >>> from eigenstep.rules import GradientDescent
    >>> problem = Quadratic([1.0, 100.0], [0.8, 0.6], start=[0.0, 0.0])
    >>> simulate(GradientDescent(lr=2 / 101), problem, loss=1e-6).steps
    419
    >>> simulate(GradientDescent(lr=torch.tensor([2 / 101, 2.02 / 100])), problem, loss=1e-6, box=5.0).left.tolist()
    [-1, 101]
    """
    if not isinstance(rule, Rule) or not isinstance(problem, Problem):
        raise InvalidValue(
            f"simulate: a rule and a problem are needed, such as eigenstep.Adam() and eigenstep.Rosenbrock(), not "
            f"{type(rule).__name__} and {type(problem).__name__}"
        )
    kept = _checked(steps, point, keep, {"loss": loss, "radius": radius, "box": box, "ball": ball})
    points, shape = _points(rule, problem, start)
    lanes = Lanes(rule, problem, points, shape, point, (loss, radius), (box, ball), kept, settle)
    lanes.look(0)
    if bool((lanes.left == 0).any()):
        raise InvalidValue(
            f"simulate: {int((lanes.left == 0).sum())} of {len(points)} starts lie outside the bounds "
            f"(box={box}, ball={ball}) or have no finite loss; start inside, or widen the bounds"
        )
    for t in range(1, steps + 1):
        lanes.drop_ended()
        if len(lanes.index) == 0:
            break
        lanes.step(t)
        lanes.look(t)
        if progress is not None and t % max(1, steps // 100) == 0 and t < steps:
            progress(t, steps)
    if progress is not None:
        progress(steps, steps)
    return lanes.result(steps, shape)


def _points(rule: Rule, problem: Problem, start: Any) -> tuple[Tensor, torch.Size]:
    """The starts (lanes, n), checked and laid out for speed, and the shape of the lanes."""
    try:
        given = torch.as_tensor(problem.start if start is None else start).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidValue(f"simulate: start must be numbers ({error})") from error
    if given.dim() == 0 or given.shape[-1] != problem.dimension:
        raise InvalidValue(
            f"simulate: start has shape {tuple(given.shape)}; its last dimension must be {problem.dimension}, "
            f"the coordinates of {problem.name}"
        )
    if not (isinstance(start, Tensor) and given.is_floating_point()):
        given = torch.as_tensor(problem.start if start is None else start, dtype=torch.float64)
    if not bool(given.isfinite().all()):
        raise InvalidValue("simulate: start holds a value that is not finite")
    try:
        shape = torch.Size(np.broadcast_shapes(rule.lanes, given.shape[:-1]))
    except ValueError as error:
        raise InvalidValue(
            f"simulate: the rule's lanes {tuple(rule.lanes)} and the starts {tuple(given.shape[:-1])} do not broadcast"
        ) from error
    if 0 in shape:
        raise InvalidValue("simulate: there is no lane to run; give at least one start")
    points = given.expand(*shape, problem.dimension).reshape(-1, problem.dimension)
    # The longer dimension side by side in memory: ten thousand lanes of two coordinates run five times faster so.
    return points.T.clone(memory_format=torch.contiguous_format).T if len(
        points
    ) > problem.dimension else points.clone(), shape


def _checked(steps: int, point: str, keep: Collection[str], limits: dict[str, float | None]) -> tuple[str, ...]:
    """What to keep, in order; InvalidValue or UnknownName for an argument that makes no sense."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise InvalidValue(f"simulate: steps={steps!r} must be a whole number of updates, at least 0")
    for name, value in limits.items():
        least = "above 0" if name in ("box", "ball") else "at least 0"
        if value is not None and not (0 < value < inf or (value == 0 and least == "at least 0")):
            raise InvalidValue(f"simulate: {name}={value!r} must be finite and {least}, or None")
    if point not in ("iterate", "stored"):
        raise UnknownName.among("simulate: point", point, ("iterate", "stored"))
    names = (keep,) if isinstance(keep, str) else tuple(keep)
    for name in names:
        if name not in _KEPT:
            raise UnknownName.among("simulate: keep", name, _KEPT)
    return tuple(name for name in _KEPT if name in names)
