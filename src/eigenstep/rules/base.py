"""What an update rule is: a linear filter on gradients, measured in an adaptive unit per coordinate."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from eigenstep.errors import InvalidValue, UnknownName
from eigenstep.rules.checks import RANGES, checked, looks_numeric
from eigenstep.rules.data import as_data, from_data, named, own_name

Number = float | Tensor
Coefficients = tuple[Number, ...]


class State(NamedTuple):
    """What a rule remembers: momentum-like `buffers` and second-moment-like `scales`, each shaped like x.

    `carried` are numbers that the hyperparameters of all updates so far have made, and t alone would not give once a
    schedule has changed them (NAdam's product of momenta); empty before the first update.
    """

    buffers: tuple[Tensor, ...] = ()
    scales: tuple[Tensor, ...] = ()
    carried: tuple[Number, ...] = ()


def advance(x: Tensor, direction: Tensor, step: Number, unit: Number = 1.0) -> Tensor:
    """Return x + step * direction / unit in as few passes over memory as torch allows.

    `step` is a number or a tensor of lanes, `unit` a number or a tensor shaped like x.
    """
    if isinstance(step, Tensor):
        return x + step * direction / unit
    if isinstance(unit, Tensor):
        return torch.addcdiv(x, direction, unit, value=step)
    return torch.add(x, direction, alpha=step / unit)


def fade(x: Tensor, factor: Number) -> Tensor:
    """Return factor * x, for a memory that fades; a number from .5 to 1 as x - (1 - factor) x.

    1 - factor is exact there (Sterbenz), so that both round alike to an ulp; torch multiplies by a Python number half
    as fast, on tensors of some thousand elements.
    """
    if isinstance(factor, Tensor) or not 0.5 <= factor <= 1:
        return x * factor
    return torch.sub(x, x, alpha=1 - factor)


def momentum_buffer(momentum: Number) -> tuple[str, ...]:
    """Return the names of the buffers that torch keeps at this momentum: none at 0; lanes always have one."""
    return () if not isinstance(momentum, Tensor) and momentum == 0 else ("momentum_buffer",)


@dataclass(frozen=True)
class Rule(ABC):
    """An update rule; its dataclass fields are its hyperparameters, under torch's names.

    A numeric field is a number, or a tensor of shape B: then one rule stands for B settings at once. Update
    counters `t` begin at 1 for the first update.

    Raises InvalidValue for a value out of range and UnknownName for a hyperparameter the rule does not have.
    """

    lr: Number = 1e-3

    name: ClassVar[str] = ""
    # Whether each element's step looks at that element alone and returns new tensors only, so that a large parameter
    # may be stepped piece by piece; a subclass says so anew.
    elementwise: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        """Let a subclass that does not say it is elementwise count as not: its own step may take norms."""
        super().__init_subclass__(**options)
        cls.elementwise = vars(cls).get("elementwise", False)

    def __new__(cls, *_: Any, **hyperparameters: Any) -> Self:
        """Refuse unknown hyperparameters with the nearest valid one."""
        valid = [f.name for f in fields(cls) if f.init]
        for key in hyperparameters:
            if key not in valid:
                raise UnknownName.among(f"{cls.__name__}: hyperparameter", key, valid)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        """Check every hyperparameter, and turn sequences into tensors of lanes."""
        for f in fields(self):
            value = getattr(self, f.name)
            where = f"{type(self).__name__}: {f.name}"
            if isinstance(f.default, bool):
                if not isinstance(value, bool):
                    raise InvalidValue(f"{where}={value!r} must be True or False (modes are not batched)")
            elif f.name == "betas":
                if not isinstance(value, (tuple, list)) or len(value) != 2:
                    raise InvalidValue(f"{where}={value!r} must be a pair of numbers, as (0.9, 0.999)")
                object.__setattr__(self, "betas", tuple(checked(where, "betas", b) for b in value))
            elif (f.name in RANGES and (value is not None or f.default is not None)) or looks_numeric(value):
                object.__setattr__(self, f.name, checked(where, f.name, value))

    @property
    def buffer_names(self) -> tuple[str, ...]:
        """Names of the state's buffers, torch's where torch has the method."""
        return ()

    @property
    def scale_names(self) -> tuple[str, ...]:
        """Names of the state's scales; a rule that has some is adaptive."""
        return ()

    @property
    def carried_names(self) -> tuple[str, ...]:
        """Names of the numbers that the state carries beside t, torch's."""
        return ()

    @property
    def adaptive(self) -> bool:
        """Whether the step is measured in a unit that the gradients set."""
        return bool(self.scale_names)

    @property
    def lanes(self) -> torch.Size:
        """The shape B over which the numeric fields are batched; () for one setting."""
        return torch.Size(np.broadcast_shapes(*(v.shape for v in _flat(self) if isinstance(v, Tensor))))

    def init(self, x: Tensor) -> State:
        """Return the state before the first update: zeros shaped like x."""
        return State(
            tuple(torch.zeros_like(x) for _ in self.buffer_names),
            tuple(torch.zeros_like(x) for _ in self.scale_names),
        )

    @abstractmethod
    def step(self, x: Tensor, grad: Tensor, state: State, t: int) -> tuple[Tensor, State]:
        """Return the stored point and the state after update t (1 for the first); nothing is changed in place."""

    def iterate(self, x: Tensor, state: State) -> Tensor:
        """Return the method's iterate from the stored point: x itself, unless a look-ahead point is stored."""
        return x

    def replace(self, **changes: Any) -> Self:
        """Return the rule with some hyperparameters changed, checked like new."""
        return replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """Return the rule's name and every hyperparameter as plain data, as each file of ours names a rule.

        A rule of one's own without a name goes by its class's.

        >>> class Mine(LinearRule):
        ...     def move(self, x, grad, unit, buffers, c):
        ...         return x - self.lr * grad, ()
        >>> Mine(lr=0.5).as_dict()
        {'name': 'Mine', 'lr': 0.5, 'weight_decay': 0.0, 'decoupled': False}
        """
        told = {f.name: as_data(getattr(self, f.name)) for f in fields(self) if f.init}
        return {"name": own_name(type(self)), **told}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Return the rule that `as_dict` told, of this class or of the subclass of that name: of `Rule`, any.

        What is not told takes its default; lanes come back in float64. Raises UnknownName for a name that no class
        has (your own must be defined, or imported, first) or that two have, and for a hyperparameter that the rule
        does not have; InvalidValue for a value out of range, or one that no file can hold.

        >>> from eigenstep.rules import Nesterov
        >>> Rule.from_dict(Nesterov(lr=0.1, momentum=0.5).as_dict())
        Nesterov(lr=0.1, weight_decay=0.0, decoupled=False, momentum=0.5)
        """
        kind = named(cls, content.get("name"))
        valid = {f.name: f for f in fields(kind) if f.init}
        told = {key: value for key, value in content.items() if key != "name"}
        return kind(**{k: from_data(kind.__name__, valid[k], v) if k in valid else v for k, v in told.items()})

    def columns(self, like: Tensor) -> Self:
        """Return the rule with fields of shape B as (B, 1) in the dtype of `like`, to broadcast against (B, n)."""
        copied = copy.copy(self)
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, tuple):
                object.__setattr__(copied, f.name, tuple(_column(v, like) for v in value))
            else:
                object.__setattr__(copied, f.name, _column(value, like))
        return copied


@dataclass(frozen=True)
class LinearRule(Rule):
    """A rule whose step, once its unit per coordinate is known, is linear in point, gradient and buffers.

    step: grad <- couple(x, grad); unit, scales <- scale(grad, scales, t); x, buffers <- move(...).
    A plain rule defines `buffer_names` and `move`; an adaptive one also `scale_names`, `accumulate` and `unit`; one
    whose coefficients depend on t defines `coefficients`. Analysis and simulation need nothing else.

    `weight_decay` is coupled (added to the gradient) unless `decoupled`, then x shrinks by 1 - lr * weight_decay.
    """

    weight_decay: Number = field(default=0.0, kw_only=True)
    decoupled: bool = field(default=False, kw_only=True)

    unit_only_grows: ClassVar[bool] = False  # AdaGrad: whatever the lr, the unit ends up large enough

    def step(self, x: Tensor, grad: Tensor, state: State, t: int) -> tuple[Tensor, State]:
        """Couple, then scale, then move: the one place where a linear rule's step is written."""
        if t < 1:
            raise InvalidValue(f"{type(self).__name__}: t={t} must be at least 1; the first update is number 1")
        grad = self.couple(x, grad)
        unit, scales = self.scale(grad, state.scales, t)
        coefficients, carried = self.carry(state.carried, t)
        x, buffers = self.move(x, grad, unit, state.buffers, coefficients)
        return x, State(buffers, scales, carried)

    def couple(self, x: Tensor, grad: Tensor) -> Tensor:
        """Return the gradient with coupled weight decay, grad + weight_decay * x."""
        if self.decoupled or _is_zero(self.weight_decay):
            return grad
        return advance(grad, x, self.weight_decay)

    def shrink(self, x: Tensor) -> Tensor:
        """Return the point after decoupled weight decay, x * (1 - lr * weight_decay); for use in `move`."""
        if not self.decoupled or _is_zero(self.weight_decay):
            return x
        return x * (1 - self.lr * self.weight_decay)

    def scale(self, grad: Tensor, scales: tuple[Tensor, ...], t: int) -> tuple[Number, tuple[Tensor, ...]]:
        """Return the unit per coordinate for update t, and the scales that gave it."""
        scales = self.accumulate(grad, scales)
        return self.unit(scales, t), scales

    def accumulate(self, grad: Tensor, scales: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the scales with this gradient taken in."""
        return scales

    def unit(self, scales: tuple[Tensor, ...], t: int) -> Number:
        """Return P, the unit that scales after t updates define; 1 for a rule that does not adapt."""
        return 1.0

    def coefficients(self, t: int | None) -> Coefficients:
        """Return everything in `move` that depends on t; for t=None the late limit, which must be finite.

        Once equal to the late limit, the coefficients are taken to stay there.
        """
        return ()

    def carry(self, carried: tuple[Number, ...], t: int) -> tuple[Coefficients, tuple[Number, ...]]:
        """Return the coefficients of update t, and the numbers carried on; without `carried` those of t alone."""
        return self.coefficients(t), ()

    @abstractmethod
    def move(
        self, x: Tensor, grad: Tensor, unit: Number, buffers: tuple[Tensor, ...], c: Coefficients
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the next stored point and buffers: jointly linear in (x, grad, buffers), with c from coefficients."""


def _flat(rule: Rule) -> list[Any]:
    """The rule's field values, pairs taken apart."""
    values = [getattr(rule, f.name) for f in fields(rule)]
    return [v for value in values for v in (value if isinstance(value, tuple) else (value,))]


def _column(value: Any, like: Tensor) -> Any:
    return value.to(like.dtype).unsqueeze(-1) if isinstance(value, Tensor) else value


def _is_zero(value: Number) -> bool:
    return not isinstance(value, Tensor) and value == 0
