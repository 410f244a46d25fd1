"""simulate: any rule on any problem, one run or tens of thousands of settings and starts at once."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from math import inf
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from eigenstep.errors import InvalidValue, UnknownName
from eigenstep.problems import Problem
from eigenstep.result import Result, Words, number
from eigenstep.rules import Rule, State

MISSING = -1
Count = int | None | Tensor

_KEPT = ("losses", "radii", "points")


@dataclass(frozen=True, eq=False, repr=False)
class Run(Result):
    """What `simulate` found: for one run numbers and None; for lanes of shape B int64 tensors, -1 standing for None.

    steps: first update after which the tolerance was met (0: at the start). last_above: last update after which it
    was not (-1: always met; `max_steps`: to the end, or the lane diverged), if the run was told to settle. left: the
    update after which the lane was out of bounds or no longer finite. final: the last points (B..., n), of losses
    final_loss (B...); of a lane that diverged, the last finite ones. Where kept, losses and radii are (B..., K + 1) and
    points (B..., K + 1, n), K the updates of the longest lane; a lane that ended earlier repeats its last row. Nothing
    here is nan or infinite.
    """

    kind: ClassVar[str] = "run"

    rule: Rule
    problem: str
    max_steps: int
    loss_tolerance: float | None
    radius_tolerance: float | None
    point: str
    steps: Count
    last_above: Count
    left: Count
    final: Tensor
    final_loss: float | Tensor
    losses: Tensor | None = None
    radii: Tensor | None = None
    points: Tensor | None = None

    @property
    def converged(self) -> bool | Tensor:
        """Whether the tolerance was met at some update: a bool, or a bool tensor of shape B."""
        return self.steps != MISSING if isinstance(self.steps, Tensor) else self.steps is not None

    @property
    def settled(self) -> Count:
        """Updates from which the tolerance stayed met within max_steps, last_above + 1; missing if it did not."""
        if isinstance(self.last_above, Tensor):
            return torch.where(self.last_above < self.max_steps, self.last_above + 1, MISSING)
        return None if self.last_above is None or self.last_above >= self.max_steps else self.last_above + 1

    @property
    def article_count(self) -> Count:
        """Passes of the article's loop, which tests the loss before each step and the box after it.

        steps + 1 for a lane that met the tolerance, `left` for one that diverged first; missing for the others.
        """
        if isinstance(self.steps, Tensor):
            return torch.where(self.steps != MISSING, self.steps + 1, torch.as_tensor(self.left))
        return self.left if self.steps is None else self.steps + 1

    def words(self) -> Words:
        """Return what became of each lane."""
        lanes = self.final.shape[:-1]
        table: dict[str, list[Any]] = {}
        if lanes:
            counts = {"steps": self.steps, "settled": self.settled, "left": self.left}
            columns = {name: _lanes(count, lanes) for name, count in counts.items()}
            loss = torch.as_tensor(self.final_loss).expand(lanes).flatten().tolist()
            table = {"lane": list(range(lanes.numel())), **columns, "final loss": loss}
            met, gone = (sum(c is not None for c in columns[name]) for name in ("steps", "left"))
            fate = f"{lanes.numel():,} lanes: {met:,} met the tolerance, {gone:,} left"
        else:
            counted = {"met the tolerance after": self.steps, "stays there from": self.settled, "left after": self.left}
            known = [f"{words} {count} updates" for words, count in counted.items() if count is not None]
            fate = f"{', '.join(known) or f'{self.max_steps:,} updates'}; final loss {number(float(self.final_loss))}"
        if not lanes and self.losses is not None:
            table = {"update": list(range(len(self.losses))), "loss": self.losses.tolist()}
        where = f" on {self.problem}: {fate}"
        return Words(f"{self.rule.name}{where}", f"{self.rule!r}{where}", (), table)

    def plot(self, ax: Any = None) -> Any:
        """Draw the losses where they were kept (the first six lanes), else each lane's final loss; return the axes."""
        from eigenstep import draw

        if self.losses is None:
            final = torch.as_tensor(self.final_loss).reshape(-1)
            log: Any = "y" if bool((final > 0).all()) else ""
            return draw.describe(draw.curve(final, ax=ax, look="dots"), "lane", "final loss", self.problem, log=log)
        ax = draw.panels()[1][0] if ax is None else ax
        rows = self.losses.reshape(-1, self.losses.shape[-1])
        for row, color in zip(rows, draw.PALETTE, strict=False):
            draw.curve(row, None, ax, color=color)
        return draw.describe(ax, "updates", "loss", self.problem, log="y" if bool((rows > 0).all()) else "")


def _lanes(count: Count, lanes: torch.Size) -> list[int | None]:
    """A count of each lane, flat; None where it is missing."""
    if count is None:
        return [None] * lanes.numel()
    return [None if n == MISSING else n for n in torch.as_tensor(count).expand(lanes).flatten().tolist()]


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
    lanes = _Lanes(rule, problem, points, shape, point, (loss, radius), (box, ball), kept, settle)
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


class _Lanes:
    """The lanes that still run, side by side in memory, and what is known of all lanes."""

    def __init__(
        self,
        rule: Rule,
        problem: Problem,
        start: Tensor,
        shape: torch.Size,
        point: str,
        tolerance: tuple[float | None, float | None],
        bounds: tuple[float | None, float | None],
        kept: tuple[str, ...],
        settle: bool,
    ) -> None:
        self.rule, self.problem, self.point, self.settle = rule, problem, point, settle
        self.loss, self.distance = tolerance
        self.box, self.ball = (inf if bound is None else bound for bound in bounds)
        self.tolerant = self.loss is not None or self.distance is not None
        self.measures = self.distance is not None or self.ball < inf or "radii" in kept
        # All lanes, by number.
        count = len(start)
        self.met, self.left, self.last_above = (torch.full((count,), MISSING) for _ in range(3))
        self.now = {"losses": start.new_zeros(count), "radii": start.new_zeros(count), "points": start.clone()}
        self.history: dict[str, list[Tensor]] = {name: [] for name in kept}
        # Running lanes, by position.
        self.flat = _per_lane(rule, lambda field: field.expand(shape).reshape(-1))
        self.columns = self.flat.columns(like=start)
        self.x, self.state = start, self.columns.init(start)
        self.index = torch.arange(count)
        self.running = torch.ones(count, dtype=torch.bool)
        self.arrived = torch.zeros(count, dtype=torch.bool)
        self.above = torch.full((count,), MISSING)
        self.seen: dict[str, Tensor] = {}

    def step(self, t: int) -> None:
        """Make update t of every running lane."""
        self.x, self.state = self.columns.step(self.x, self.gradient, self.state, t)

    def look(self, t: int) -> None:
        """Judge the points after update t, and take the gradient for the next."""
        point = self.columns.iterate(self.x, self.state) if self.point == "iterate" else self.x
        losses, self.gradient = self.problem.loss_and_gradient(self.x)
        if point is not self.x:
            losses = self.problem.loss(point)
        before, self.seen = self.seen, {"points": point, "losses": losses}
        if self.measures:
            self.seen["radii"] = self.problem.distance(point)
        size = point.abs().amax(-1)
        inside = (size < self.box) & (losses.abs() < inf)
        if self.measures:
            inside &= self.seen["radii"] < self.ball
        ended = torch.zeros_like(inside)
        if not bool(inside.all()):
            ended |= self.running & ~inside
            self.left[self.index[ended]] = t
            finite = torch.stack([size, *(v for name, v in self.seen.items() if name != "points")]).isfinite().all(0)
            self._write(ended & finite, self.seen)
            self._write(ended & ~finite, before)
            self.running &= inside
        if self.tolerant:
            ended |= self._judge(t)
        if self.history:
            self._write(self.running, self.seen)
            for name, rows in self.history.items():
                rows.append(self.now[name].clone())
        self.running &= ~ended

    def _judge(self, t: int) -> Tensor:
        """Note which lanes meet the tolerance; return those that need not go on."""
        below = self.running
        if self.loss is not None:
            below = below & (self.seen["losses"] <= self.loss)
        if self.distance is not None:
            below = below & (self.seen["radii"] <= self.distance)
        if bool(below.any()):
            new = below & ~self.arrived
            self.met[self.index[new]] = t
            self.arrived |= new
            if not self.settle:
                self._write(below, self.seen)
        if not self.settle:
            return below
        self.above = torch.where(below, self.above, t)
        return torch.zeros_like(below)

    def _write(self, chosen: Tensor, seen: dict[str, Tensor]) -> None:
        """Write what was seen of the chosen lanes to the record of all lanes."""
        for name, values in seen.items():
            self.now[name][self.index[chosen]] = values[chosen]

    def drop_ended(self) -> None:
        """Give up the lanes that have ended once they are a quarter of those carried, or all."""
        alive = int(self.running.sum())
        if alive > 0.75 * len(self.index):
            return
        self.last_above[self.index] = self.above
        on = self.running.nonzero().squeeze(-1)
        if alive == 0:
            self.index, self.running, self.above = self.index[on], self.running[on], self.above[on]
            self.seen = {name: values[on] for name, values in self.seen.items()}
            return
        if self.rule.lanes:
            self.flat = _per_lane(self.flat, lambda field: field[on])
            self.columns = self.flat.columns(like=self.x)
        self.x, self.gradient = _select(self.x, on), _select(self.gradient, on)
        buffers, scales = (tuple(_select(part, on) for part in parts) for parts in self.state[:2])
        carried = tuple(_select(n, on) if isinstance(n, Tensor) and n.dim() else n for n in self.state.carried)
        self.state = State(buffers, scales, carried)
        self.seen = {name: _select(values, on) for name, values in self.seen.items()}
        self.index, self.running, self.arrived, self.above = (
            part[on] for part in (self.index, self.running, self.arrived, self.above)
        )

    def result(self, steps: int, shape: torch.Size) -> Run:
        """Return what was found, in the shape of the lanes."""
        self.last_above[self.index] = self.above
        self._write(self.running, self.seen)
        last_above = torch.where(self.left >= 0, steps, self.last_above)
        final_loss = self.now["losses"].reshape(shape)
        return Run(
            rule=self.rule,
            problem=self.problem.name or type(self.problem).__name__,
            max_steps=steps,
            loss_tolerance=self.loss,
            radius_tolerance=self.distance,
            point=self.point,
            steps=_count(self.met, shape),
            last_above=_count(last_above, shape, MISSING - 1) if self.settle and self.tolerant else None,
            left=_count(self.left, shape),
            final=self.now["points"].reshape(*shape, self.problem.dimension).contiguous(),
            final_loss=final_loss if shape else final_loss.item(),
            **{
                name: torch.stack(rows, 1).reshape(*shape, len(rows), *rows[0].shape[1:])
                for name, rows in self.history.items()
            },
        )


def _count(counts: Tensor, shape: torch.Size, missing: int = MISSING) -> Count:
    """Counts in the shape of the lanes; for one run a number, None if missing."""
    if shape:
        return counts.reshape(shape)
    return None if int(counts) == missing else int(counts)


def _select(values: Tensor, on: Tensor) -> Tensor:
    """The rows `on`, in the memory layout of the whole."""
    if values.dim() == 2 and values.stride(0) == 1:
        return values.T.index_select(1, on).T
    return values.index_select(0, on)


def _per_lane(rule: Rule, change: Callable[[Tensor], Tensor]) -> Rule:
    """The rule with every field that is a tensor of lanes changed."""
    changes: dict[str, Any] = {}
    for f in fields(rule):
        value = getattr(rule, f.name)
        parts = value if isinstance(value, tuple) else (value,)
        if any(isinstance(part, Tensor) for part in parts):
            changed = tuple(change(part) if isinstance(part, Tensor) else part for part in parts)
            changes[f.name] = changed if isinstance(value, tuple) else changed[0]
    return rule.replace(**changes) if changes else rule


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
