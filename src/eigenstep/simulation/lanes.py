"""Lanes side by side: settings and starts that run at once, each until it ends."""

from collections.abc import Callable
from dataclasses import fields
from math import inf
from typing import Any

import torch
from torch import Tensor

from eigenstep.problems import Problem
from eigenstep.rules import Rule, State
from eigenstep.simulation.run import MISSING, Count, Run


class Lanes:
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
