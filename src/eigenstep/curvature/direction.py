"""Beside a sharp direction: what the loss really does along it, which parameters it lies in, and layer by layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from eigenstep.curvature.lanczos import Aim
from eigenstep.curvature.measure import SHORTER, measure
from eigenstep.curvature.operators import vectors as vec
from eigenstep.curvature.result import Measurement
from eigenstep.errors import InvalidValue
from eigenstep.objective.objective import Objective, required
from eigenstep.plain import restored
from eigenstep.progress import FORWARD, PRODUCT, Watch, task
from eigenstep.result import Result, Words


@dataclass(frozen=True, repr=False)
class FiniteStep(Result):
    """The loss at w + s d and w - s d for unit d and each length s, and the curvature that the two show together.

    - lengths: the s.
    - ahead, behind: L(w + s d) and L(w - s d), by length.
    - loss: L(w).
    - curvatures: (L(w + s d) - 2 L(w) + L(w - s d)) / s^2, by length; it tends to d' H d as s falls wherever the loss
      is smooth; ReLU and max-pooling add kinks that H does not see.
    - rounding: how far each of these may be off because the losses are rounded.
    """

    kind: ClassVar[str] = "finite step"

    lengths: tuple[float, ...]
    ahead: tuple[float, ...]
    behind: tuple[float, ...]
    loss: float
    curvatures: tuple[float, ...]
    rounding: tuple[float, ...]

    def plot(self, ax: Any = None) -> Any:
        """Draw the loss along the direction; return the axes."""
        from eigenstep import draw

        ax = draw.panels()[1][0] if ax is None else ax
        points = [(s, v) for s, v in zip(self.lengths, self.ahead, strict=True)]
        points += [(0.0, self.loss)] + [(-s, v) for s, v in zip(self.lengths, self.behind, strict=True)]
        places, losses = zip(*sorted(points), strict=True)
        draw.curve(losses, places, ax)
        draw.curve(losses, places, ax, look="dots")
        return draw.describe(ax, "length of the step along the direction", "loss")

    def words(self) -> Words:
        """Return losses and curvatures by the length of the step."""
        table = {
            **{"length": self.lengths, "loss ahead": self.ahead, "loss behind": self.behind},
            **{"curvature": self.curvatures, "rounding": self.rounding},
        }
        count = f"{len(self.lengths)} length{'s' * (len(self.lengths) != 1)}"
        shown = ", ".join(f"{c:.4g}" for c in self.curvatures)
        return Words(f"{count}, curvatures {shown}", f"loss here {self.loss:.6g}; steps of {count}", (), table)


def finite_step(
    objective: Objective, direction: Tensor, lengths: Sequence[float], *, progress: Watch | bool | None = None
) -> FiniteStep:
    """Return what the loss does along a direction (n,) over steps of the given lengths, in parameter units.

    Two evaluations of the loss a length. Give the lengths that an update covers: lr times the gradient's part along d.
    Raises InvalidValue for a direction of the wrong size, zero or not finite, and lengths that are not positive.

    >>> model = torch.nn.Linear(1, 1, bias=False).double()
    >>> objective = Objective(model, lambda model, x: (3 * model(x) ** 2).mean(), torch.ones(1, 1, dtype=torch.float64))
    >>> round(finite_step(objective, torch.ones(1), [0.1]).curvatures[0], 6)
    6.0
    """
    required("finite_step", objective)
    if not lengths or not all(0 < s < float("inf") for s in lengths):
        raise InvalidValue(f"finite_step: lengths={list(lengths)} must be positive and finite")
    with task("finite_step", progress) as work, objective.session():
        work.plan(FORWARD * (2 * len(lengths) + 1), f"{2 * len(lengths) + 1} evaluations of the loss")
        unit = _unit(objective, direction)
        here = objective.value()
        ahead = [objective.value(objective.at(unit * s)) for s in lengths]
        behind = [objective.value(objective.at(unit * -s)) for s in lengths]
    second = [(a - 2 * here + b) / s / s for a, b, s in zip(ahead, behind, lengths, strict=True)]
    number = torch.finfo(objective.params[0].dtype)
    both = zip(ahead, behind, lengths, strict=True)
    rounding = [max(4 * number.eps * max(abs(here), abs(a), abs(b)), number.tiny) / s / s for a, b, s in both]
    return FiniteStep(tuple(lengths), tuple(ahead), tuple(behind), here, tuple(second), tuple(rounding))


def shares(objective: Objective, direction: Tensor, *, progress: Watch | bool | None = None) -> dict[str, float]:
    """Return the share of a direction (n,) in each named parameter: its squared norm there, of 1 in all.

    >>> model = torch.nn.Linear(1, 1)
    >>> objective = Objective(model, lambda model, x: (model(x) ** 2).mean(), torch.ones(1, 1))
    >>> {name: round(share, 6) for name, share in shares(objective, torch.tensor([3.0, 4.0])).items()}
    {'weight': 0.36, 'bias': 0.64}
    """
    required("shares", objective)
    with task("shares", progress) as work:
        work.tell(phase="the objective")
        return {name: vec.norm(part) ** 2 for name, part in objective.named(_unit(objective, direction)).items()}


class Layers(Result, dict[str, Measurement]):
    """Measurements of blocks of parameters, by the block's name."""

    kind: ClassVar[str] = "layers"

    def as_dict(self) -> dict[str, Any]:
        """Return the blocks' measurements as plain data, under 'layers'."""
        return {"layers": {name: block.as_dict() for name, block in self.items()}}

    @classmethod
    def from_plain(cls, content: Mapping[str, Any], where: str = "") -> Self:
        """Return the blocks from their plain data. Raises InvalidValue for a field that is wrong, by name."""
        return cls(restored(dict[str, Measurement], content.get("layers"), f"{where}layers"))

    def plot(self, ax: Any = None) -> Any:
        """Draw the blocks' eigenvalues side by side, with their bounds; return the axes."""
        from eigenstep import draw

        ax = draw.panels(width=7.0)[1][0] if ax is None else ax
        for place, result in enumerate(self.values()):
            spread = (torch.arange(len(result)) - (len(result) - 1) / 2) * min(0.08, 0.6 / len(result))
            draw.stems((place + spread).tolist(), result.values, result.bounds, ax)
        ax.set_xticks(range(len(self)), [name or "(model)" for name in self], rotation=30, ha="right")
        draw.line_at(0.0, ax, across="y")
        return draw.describe(ax, "block of parameters", "eigenvalues of the block")

    def words(self) -> Words:
        """Return each block's eigenvalues, the blocks in order."""
        rows = [
            (name or "(model)", value, bound, block.certified)
            for name, block in self.items()
            for value, bound in zip(block.values.tolist(), block.bounds.tolist(), strict=True)
        ]
        table = dict(zip(("block", "eigenvalue", "± bound", "certified"), zip(*rows, strict=True), strict=False))
        notes = [f"{name}: {note}" for name, block in self.items() for note in block.notes]
        count = f"{len(self)} block{'s' * (len(self) != 1)}"
        return Words(f"{count}: {', '.join(self)}", f"eigenvalues of {count}", (), table, notes)


def layers(
    objective: Objective,
    top: int = 1,
    blocks: Sequence[str] | None = None,
    *,
    progress: Watch | bool | None = None,
    **options: Any,
) -> Layers:
    """Return the eigenvalues of each block's own part of the Hessian, by name; options as for `measure`.

    blocks: glob patterns, one block each; by default each module's own parameters. Raises UnknownName for a pattern
    that matches no parameter.

    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Tanh(), torch.nn.Linear(2, 1))
    >>> objective = Objective(model, lambda model, x: (model(x) ** 2).mean(), torch.eye(2))
    >>> list(layers(objective)), list(layers(objective, blocks=["*.weight", "2.*"]))
    (['0', '2'], ['*.weight', '2.*'])
    """
    required("layers", objective)
    chosen: dict[str, list[str]] = {pattern: [pattern] for pattern in blocks or ()}
    found = Layers()
    with task("layers", progress, f"fewer blocks=, {SHORTER}") as work:
        if blocks is None:
            for name in objective.names:
                chosen.setdefault(name.rpartition(".")[0], []).append(name)
        each = Aim(top).expected
        work.plan(PRODUCT * each * len(chosen), f"{len(chosen)} blocks, some {each} products each assumed")
        for number, (block, names) in enumerate(chosen.items()):
            work.part(number, len(chosen), block or "(model)")
            part = objective.subset(names)
            found[block] = measure(part, min(top, part.size), **options)
    return found


def _unit(objective: Objective, direction: Tensor) -> Tensor:
    vector = direction.detach().to(objective.device, objective.dtype)
    if vector.shape != (objective.size,) or not bool(vector.isfinite().all()) or vec.norm(vector) == 0:
        raise InvalidValue(f"direction: a finite vector of shape ({objective.size},), not zero, is needed")
    return vector / vec.norm(vector)
