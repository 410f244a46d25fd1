"""Many runs side by side, one lr a lane: a rule with its unit held, or an unmodified torch optimizer."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from eigenstep.bridge import rule_of
from eigenstep.rules import LinearRule
from eigenstep.theory.linear import linear

_IDLE = 200  # .9^200 = 7e-10, what is left of the first moment's bias correction

MakeOptimizer = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]


class Motion(ABC):
    """Points (lanes, n) that move together, each lane with its own lr, and that can be dropped when decided."""

    def __init__(self, points: Tensor) -> None:
        self.points = points

    @abstractmethod
    def step(self, gradients: Tensor) -> None:
        """Move every lane by one update."""

    @abstractmethod
    def keep(self, lanes: Tensor) -> None:
        """Go on with these lanes (a mask) only."""


class RuleMotion(Motion):
    """A linear rule from rest; an adaptive one with its unit held at `unit` and its late coefficients."""

    def __init__(self, rule: LinearRule, lr: Tensor, points: Tensor, unit: Tensor | None) -> None:
        super().__init__(points)
        self._rule, self._lr, self._unit, self._t = rule, lr, unit, 0
        self._buffers = rule.init(points).buffers
        self._columns = rule.replace(lr=lr).columns(points)

    def step(self, gradients: Tensor) -> None:
        """The rule's own `couple` and `move`."""
        self._t += 1
        unit: float | Tensor = 1.0 if self._unit is None else self._unit
        coefficients = self._rule.coefficients(self._t if self._unit is None else None)
        gradients = self._columns.couple(self.points, gradients)
        self.points, self._buffers = self._columns.move(self.points, gradients, unit, self._buffers, coefficients)

    def keep(self, lanes: Tensor) -> None:
        """Drop the other lanes' points, buffers and lrs."""
        self.points, self._lr = self.points[lanes], self._lr[lanes]
        self._buffers = tuple(buffer[lanes] for buffer in self._buffers)
        self._columns = self._rule.replace(lr=self._lr).columns(self.points)


class TorchMotion(Motion):
    """A torch optimizer as it is, with one param group for each lane.

    Before the start it takes _IDLE updates on zero gradients: they leave its averages at zero, and let their bias
    corrections fade. (From a fresh start Adam's multiply an error 1e17-fold near the limit, out of any neighbourhood.)
    """

    def __init__(self, make: MakeOptimizer, lr: Tensor, points: Tensor) -> None:
        super().__init__(points)
        self._parameters = [torch.nn.Parameter(point.clone()) for point in points]
        groups = zip(self._parameters, lr.tolist(), strict=True)
        self._optimizer = make([{"params": [parameter], "lr": value} for parameter, value in groups])
        for _ in range(_IDLE):
            self.step(torch.zeros_like(points))

    def step(self, gradients: Tensor) -> None:
        """The optimizer's own `step`, on these gradients."""
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        self._optimizer.step()
        self.points = torch.stack([parameter.detach() for parameter in self._parameters])

    def keep(self, lanes: Tensor) -> None:
        """Drop the other lanes' param groups."""
        chosen = lanes.tolist()
        self.points = self.points[lanes]
        self._parameters = [p for p, kept in zip(self._parameters, chosen, strict=True) if kept]
        groups = self._optimizer.param_groups
        groups[:] = [group for group, kept in zip(groups, chosen, strict=True) if kept]


def rule_behind(make: MakeOptimizer) -> LinearRule:
    """Return the rule that a torch optimizer, made fresh, follows. Raises Unsupported where there is none."""
    (group,) = rule_of(make([{"params": [torch.zeros(1, requires_grad=True)], "lr": 1.0}]))
    return linear(group.rule)
