"""Hessian-vector products by central differences of gradients, and whether a gradient is the loss's own."""

import itertools

import torch
from torch import Tensor

from eigenstep.curvature.operators import vectors as vec
from eigenstep.errors import Unsupported
from eigenstep.objective.objective import Objective

_MATCH = 0.02  # of a slope: a smooth loss's differences come far closer at most steps of the ladder


class Differences:
    """(g(w + h u) - g(w - h u)) |v| / 2h, u = v / |v|, at a step h chosen once."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.step: float | None = None

    def product(self, vector: Tensor, step: float) -> Tensor:
        """The product with a vector, at a step."""
        length = vec.norm(vector)
        if length == 0:
            return torch.zeros_like(vector)
        ahead = self.objective.gradient(self.objective.at(vector * (step / length)))
        behind = self.objective.gradient(self.objective.at(vector * (-step / length)))
        return (ahead - behind).mul_(length / (2 * step))

    def choose(self, vector: Tensor, custom: str = "") -> tuple[float, str]:
        """Pick the step at which halving changes the product least, from the ladder; return it, with a note.

        Too small a step drowns in rounding, too large a one in the third derivative: between them is a plateau.
        custom: the user's own autograd functions, by name. Raises Unsupported where no step will do.
        """
        self._check_places()
        ladder = self._ladder()
        products = [self.product(vector, h) for h in ladder]
        changes = [vec.norm(a - b) for a, b in itertools.pairwise(products)]
        best = min(range(len(changes)), key=changes.__getitem__)
        size = vec.norm(products[best])
        rough = not changes[best] <= 0.5 * size and size > 0
        if (rough or size == 0 or custom) and self.surrogate():
            raise Unsupported(
                f"HessianOperator: the gradient{custom and ' through '}{custom} is not the loss's own slope "
                "(straight-through, detach() or another surrogate), and differences of it mean nothing; write it from "
                "differentiable functions, without once_differentiable: then its own derivative is taken"
            )
        if rough:
            raise Unsupported(
                "HessianOperator: no step gives a trustworthy difference of gradients (the loss is too rough or its "
                "precision too low); use float32 or float64 parameters, or a model with second derivatives"
            )
        self.step = step = ladder[best]
        change = changes[best] / (size or 1)
        return step, f"difference step {step:.3g}, chosen; a product changes by {change:.2g} of itself"

    def surrogate(self) -> bool:
        """Whether the gradient is not the slope of the loss: most differences of losses along it contradict it."""
        objective = self.objective
        gradient = objective.gradient()
        slope, here = vec.norm(gradient), abs(objective.value())
        if slope == 0:
            return False
        epsilon = max(torch.finfo(p.dtype).eps for p in objective.params)
        judged = []
        for h in self._ladder():
            if 4 * epsilon * here / h > _MATCH * slope:
                continue  # the losses' rounding says nothing at such a step
            ahead, behind = (objective.value(objective.at(gradient * (s * h / slope))) for s in (1, -1))
            judged.append(abs((ahead - behind) / (2 * h) - slope) > _MATCH * slope)
        return 2 * sum(judged) > len(judged)

    def _ladder(self) -> list[float]:
        """Steps around (epsilon)^(1/3) |w|, where rounding and the third derivative balance."""
        scale = max(vec.norm(self.objective.join(self.objective.params)), 1e-3)
        epsilon = max(torch.finfo(p.dtype).eps for p in self.objective.params)
        return [scale * epsilon ** (1 / 3) * 4.0**k for k in range(1, -5, -1)]

    def _check_places(self) -> None:
        """Refuse a loss that reaches parameters otherwise than through the model: moving them would not be seen."""
        direct = self.objective.gradient()
        zero = torch.zeros(self.objective.size, dtype=self.objective.dtype, device=self.objective.device)
        placed = self.objective.gradient(self.objective.at(zero))
        if vec.norm(direct - placed) > 1e-3 * max(vec.norm(direct), 1e-30):
            raise Unsupported(
                "HessianOperator: the loss reaches parameters otherwise than through its `model` argument, so they "
                "cannot be moved; write loss(model, batch) in terms of `model` only"
            )
