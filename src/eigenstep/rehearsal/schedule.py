"""`Schedule`: how an lr goes over a run, as a factor for every update and param group, its peak at 1."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from eigenstep.bridge.param_groups import put_lrs

Shape = Callable[[float], float]
DECAY = 0.2  # of the updates: where 'wsd' falls, a fifth of the run as in Hägele et al. 2024 (arXiv 2405.18392)


def _cosine(part: float) -> float:
    return (1 + math.cos(math.pi * part)) / 2


def _linear(part: float) -> float:
    return 1 - part


def _wsd(part: float) -> float:
    return min(1.0, (1 - part) / DECAY)


SHAPES: dict[str, Shape] = {"constant": lambda _: 1.0, "cosine": _cosine, "linear": _linear, "wsd": _wsd}


def named_factors(name: str, horizon: int, warmup: int) -> list[float]:
    """A named shape's factor at each update: (t + 1) / (warmup + 1) while warming up, then the shape's own.

    The shape runs over the updates after the warm-up, from 1 at the first of them towards its end one past the last.

    >>> named_factors("linear", 6, 2)
    [0.3333333333333333, 0.6666666666666666, 1.0, 0.75, 0.5, 0.25]
    """
    after = horizon - warmup
    return [ramp(t, warmup) if t < warmup else SHAPES[name]((t - warmup) / after) for t in range(horizon)]


def ramp(t: int, warmup: int) -> float:
    """The factor of a linear warm-up at update t, counted from 0: 1 first after `warmup` updates."""
    return min(1.0, (t + 1) / (warmup + 1))


def updates(count: int) -> str:
    """So many updates, for a sentence.

    >>> updates(1), updates(20)
    ('1 update', '20 updates')
    """
    return f"{count} update{'' if count == 1 else 's'}"


@dataclass(frozen=True, eq=False)
class Schedule:
    """How each group's lr goes over `horizon` updates, relative to the peak of the first group that moves.

    - name: 'constant', 'cosine', 'linear', 'wsd', 'your function', or the class of a torch scheduler.
    - horizon, warmup: updates; warmup is the part that was asked for, 0 within a scheduler's own shape.
    - factors: (horizon,), tuples of one factor a group; update t's lrs are peak * factors[t], t from 0.
    - momenta: (horizon,), tuples of each group's momentum or betas, where the scheduler moves them too; else empty.
    - source: the user's function, factory or attached scheduler, which `apply` makes a torch scheduler of.
    - peak: the lr that a torch scheduler itself takes the first group that moves to; None for other shapes.
    """

    name: str
    horizon: int
    warmup: int
    factors: Sequence[tuple[float, ...]] = field(repr=False)
    momenta: Sequence[tuple[Any, ...]] = field(default=(), repr=False)
    source: Any = field(default=None, repr=False)
    peak: float | None = None

    @property
    def constant(self) -> bool:
        """Whether no update differs from the first."""
        return not self.momenta and all(each == self.factors[0] for each in self.factors)

    @property
    def words(self) -> str:
        """The shape for a sentence: 'a constant lr', 'cosine after a warm-up of 100 updates'."""
        shape = "a constant lr" if self.name == "constant" else self.name
        return f"{shape} after a warm-up of {updates(self.warmup)}" if self.warmup else shape

    def shape(self) -> list[float]:
        """The factor at each update of the group that rises highest, 1 at its peak."""
        top = max(range(len(self.factors[0])), key=lambda i: max(each[i] for each in self.factors))
        peak = max(each[top] for each in self.factors)
        return [each[top] / peak for each in self.factors]

    def thinned(self) -> tuple[float, ...]:
        """At most 100 values of the shape, evenly spread, the first and the last among them; none of a constant one."""
        if self.constant:
            return ()
        shape, number = self.shape(), min(self.horizon, 100)
        return tuple(shape[round(i * (len(shape) - 1) / max(number - 1, 1))] for i in range(number))

    def put(self, optimizer: torch.optim.Optimizer, peak: float, t: int) -> None:
        """Give every group the lr, and the momentum where it is scheduled, of update t, counted from 0.

        After the horizon the last update's stay.
        """
        t = min(t, self.horizon - 1)
        put_lrs(optimizer, [peak * factor for factor in self.factors[t]])
        if self.momenta:
            put_momenta(optimizer, self.momenta[t])

    @property
    def mean(self) -> float:
        """The mean factor over the horizon, the peak being 1."""
        return math.fsum(self.shape()) / self.horizon

    def held(self, rise: int) -> "Schedule":
        """The way up to the peak in so many updates, and the peak from there on: how a long run begins, in a short one.

        >>> held = Schedule("linear", 6, 2, [(1 / 3,), (2 / 3,), (1.0,), (0.75,), (0.5,), (0.25,)]).held(1)
        >>> held.factors
        [(0.6666666666666666,), (1.0,)]
        """
        shape = self.shape()
        top = shape.index(max(shape))
        rise = min(rise, top)
        at = [int((t + 0.5) * top / rise) for t in range(rise)] + [top]
        momenta = [self.momenta[i] for i in at] if self.momenta else ()
        return Schedule(self.name, rise + 1, rise, [self.factors[i] for i in at], momenta, self.source)

    def squeezed(self, updates: int) -> "Schedule":
        """The same shape in fewer or more updates: update t stands where it stands in its part of the run."""
        at = [min(int((t + 0.5) * self.horizon / updates), self.horizon - 1) for t in range(updates)]
        return Schedule(
            self.name,
            updates,
            round(self.warmup * updates / self.horizon),
            [self.factors[i] for i in at],
            [self.momenta[i] for i in at] if self.momenta else (),
            self.source,
        )


def momenta_of(optimizer: torch.optim.Optimizer) -> tuple[Any, ...]:
    """Each group's betas, else its momentum, else None."""
    return tuple(group.get("betas", group.get("momentum")) for group in optimizer.param_groups)


def put_momenta(optimizer: torch.optim.Optimizer, momenta: Sequence[Any]) -> None:
    """Write what `momenta_of` read."""
    for group, value in zip(optimizer.param_groups, momenta, strict=True):
        if value is not None:
            group["betas" if "betas" in group else "momentum"] = value
