"""Hessian-vector products: exact over a kept or a fresh graph, linearised, or by checked finite differences."""

import itertools
import warnings
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from eigenstep.curvature import vectors as vec
from eigenstep.curvature.checks import announce, refuse_change
from eigenstep.curvature.graph import custom_functions, refuse_dead_ends
from eigenstep.curvature.memory import free_bytes, refuse_if_too_much
from eigenstep.curvature.objective import Objective
from eigenstep.curvature.operators import Operator
from eigenstep.errors import UnknownName, Unsupported
from eigenstep.progress import PRODUCT, over

Method = Literal["auto", "graph", "fresh", "linearize", "differences"]
MISLED = 0.02  # a product this far from the differences of gradients, and ten times their error, is wrong
DOUBLE = 3.0  # a graph for second derivatives keeps at most about this many times what a forward pass does
_NO_SECOND = (
    "double backward",
    "not implemented",
    "once_differentiable",
    "twice a function",
    "higher order",
    "does not require grad",
)


class HessianOperator(Operator):
    """v -> H v, H the Hessian of an Objective's loss, over all its batches; use inside `objective.session()`.

    method: 'graph' keeps each batch's gradient graph and differentiates it again (2 gradients a product); 'fresh'
    builds it anew each time (3.5); 'linearize' records the gradient's tangent map once (pays from some 25 products);
    'differences' takes central differences of gradients where second derivatives do not exist. 'auto': 'graph' for the
    batches that fit the objective's memory, 'fresh' for the rest, 'differences', announced by a warning, if neither
    exists. Parameters that have changed since a graph was built are noticed, and it is built again.
    """

    kind = "hessian"

    def __init__(self, objective: Objective, method: Method = "auto") -> None:
        if method not in get_args(Method):
            raise UnknownName.among("HessianOperator: method", str(method), get_args(Method))
        self.objective = objective
        self.size, self.dtype, self.device = objective.size, objective.dtype, objective.device
        self.asked: Method = method
        self.method = "graph" if method == "auto" else method
        one = DOUBLE * objective.facts.graph_bytes
        refuse_if_too_much(
            one,
            free_bytes(self.device),
            "one Hessian-vector product",
            "cut the data into smaller batches, or measure fewer parameters=",
        )
        self.keep = int(objective.memory / max(one, 1.0)) if method == "auto" else (0 if method == "fresh" else 2**62)
        self.notes: list[str] = []
        self._kept: dict[int, Any] = {}
        self._versions: list[int] = []
        self._step: float | None = None
        self._looked: set[int] = set()  # batches whose graphs have been looked into: each may take another route
        self._suspects: set[str] = set()  # custom functions, which may have no second derivative and not say so
        self._as_checked = objective.point() == objective.facts.point

    @property
    def provenance(self) -> Mapping[str, Any]:
        """How the products were computed."""
        kept = sum(1 for _ in self._kept)
        return {"products_by": self.method, "batches": len(self.objective.weights), "graphs_kept": kept}

    def matvec(self, vector: Tensor) -> Tensor:
        """Return H @ vector."""
        if self.method == "differences":
            return self._difference(vector, self._step or self._choose_step(vector))
        try:
            product = self._exact(vector)
            if self._suspects:
                self._verify(vector, product)
            return product
        except (RuntimeError, NotImplementedError) as error:
            if self.asked != "auto" or not any(words in str(error) for words in _NO_SECOND):
                raise
            reason = str(error).splitlines()[0]
            self.method = "differences"
            self._kept.clear()
            note = f"no second derivatives ({reason}): central differences of gradients were used"
            announce(f"HessianOperator: {note}")
            self.notes.append(note)
            return self.matvec(vector)

    def said(self) -> list[str]:
        """A fallback, and how the step of differences was chosen."""
        return self.notes

    def error(self, vector: Tensor) -> float:
        """Return how far H @ vector may be off: half the step's change for differences, nothing for exact products."""
        if self.method != "differences":
            return 0.0
        step = self._step or self._choose_step(vector)
        return vec.norm(self._difference(vector, step) - self._difference(vector, step / 2))

    def _exact(self, vector: Tensor) -> Tensor:
        objective = self.objective
        versions = [p._version for p in objective.params]
        if versions != self._versions:
            self._kept.clear()
            self._versions = versions
        parts = [part.to(p.dtype) for part, p in zip(objective.split(vector), objective.params, strict=True)]
        total = torch.zeros_like(vector)
        have_all = len(self._kept) == len(objective.weights)
        number = len(objective.weights)
        batches = over([None] * number, number, PRODUCT) if have_all else objective.batches.costing(PRODUCT)
        for i, batch in enumerate(batches):
            kept = i in self._kept or i < self.keep
            product = self._kept[i] if i in self._kept else self._prepare(i, batch)
            if kept:
                self._kept[i] = product
            total.add_(objective.join(product(parts, kept)), alpha=objective.weights[i])
        return total

    def _prepare(self, i: int, batch: Any) -> Any:
        """A function (parts, again) -> product of one batch's Hessian with the parts."""
        objective, params = self.objective, self.objective.params
        if self.method == "linearize":
            with warnings.catch_warnings():  # torch's own tracing warns about its own deprecations
                warnings.simplefilter("ignore")
                point = tuple(p.detach() for p in params)
                _, tangent = torch.func.linearize(lambda *x: self._grad_at(i, batch, x), *point)
            return lambda parts, again: tangent(*parts)
        loss = objective.checked_loss(i, batch)
        if self._as_checked:
            refuse_change(i, objective.facts.losses[i], float(loss.detach()), loss.dtype)
        if not loss.requires_grad:
            return lambda parts, again: [torch.zeros_like(p) for p in params]
        grads = torch.autograd.grad(loss, params, create_graph=True, materialize_grads=True)
        new = i not in self._looked
        self._looked.add(i)
        if new:
            self._suspects |= custom_functions(loss)
        live = [(g, k) for k, g in enumerate(grads) if g.requires_grad]
        if not live:
            return lambda parts, again: [torch.zeros_like(p) for p in params]
        outputs = [g for g, _ in live]
        if new:
            refuse_dead_ends(outputs)

        def product(parts: list[Tensor], again: bool) -> Any:
            return torch.autograd.grad(
                outputs, params, [parts[k] for _, k in live], retain_graph=again, materialize_grads=True
            )

        return product

    def _grad_at(self, i: int, batch: Any, point: tuple[Tensor, ...]) -> Any:
        tensors = {id(p): x for p, x in zip(self.objective.params, point, strict=True)}

        def value(*inner: Tensor) -> Tensor:
            place = dict(zip(tensors, inner, strict=True))
            return self.objective.batch_loss(i, batch, place).reshape(())

        return torch.func.grad(value, argnums=tuple(range(len(point))))(*point)

    def _difference(self, vector: Tensor, step: float) -> Tensor:
        """(g(w + h u) - g(w - h u)) |v| / 2h, u = v / |v|."""
        length = vec.norm(vector)
        if length == 0:
            return torch.zeros_like(vector)
        ahead = self.objective.gradient(self.objective.at(vector * (step / length)))
        behind = self.objective.gradient(self.objective.at(vector * (-step / length)))
        return (ahead - behind).mul_(length / (2 * step))

    def _verify(self, vector: Tensor, product: Tensor) -> None:
        """Compare a first product with differences; RuntimeError when a custom function's derivatives mislead."""
        names, self._suspects = ", ".join(sorted(self._suspects)), set()
        try:
            step = self._choose_step(vector)
        except Unsupported:
            self.notes.append(f"the second derivatives of {names} could not be checked against differences")
            return
        rough, finer = self._difference(vector, step), self._difference(vector, step / 2)
        self._step = None
        self.notes.pop()
        off = vec.norm(product - rough)
        if off > max(10 * vec.norm(rough - finer), MISLED * vec.norm(rough)):
            raise RuntimeError(
                f"double backward through {names} is wrong: its products are off by {off / vec.norm(rough):.2g}"
            )

    def _choose_step(self, vector: Tensor) -> float:
        """Pick the step at which halving changes the product least, from a ladder around (epsilon)^(1/3) |w|.

        Too small a step drowns in rounding, too large a one in the third derivative: between them is a plateau.
        """
        self._check_places()
        scale = max(vec.norm(self.objective.join(self.objective.params)), 1e-3)
        epsilon = max(torch.finfo(p.dtype).eps for p in self.objective.params)
        ladder = [scale * epsilon ** (1 / 3) * 4.0**k for k in range(1, -5, -1)]
        products = [self._difference(vector, h) for h in ladder]
        changes = [vec.norm(a - b) for a, b in itertools.pairwise(products)]
        best = min(range(len(changes)), key=changes.__getitem__)
        size = vec.norm(products[best])
        self._step = ladder[best]
        self.notes.append(
            f"difference step {self._step:.3g}, chosen; a product changes by {changes[best] / (size or 1):.2g} of "
            "itself"
        )
        if not changes[best] <= 0.5 * size and size > 0:
            raise Unsupported(
                "HessianOperator: no step gives a trustworthy difference of gradients (the loss is too rough or its "
                "precision too low); use float32 or float64 parameters, or a model with second derivatives"
            )
        return self._step

    def _check_places(self) -> None:
        """Refuse a loss that reaches parameters otherwise than through the model: moving them would not be seen."""
        direct = self.objective.gradient()
        zero = torch.zeros(self.size, dtype=self.dtype, device=self.device)
        placed = self.objective.gradient(self.objective.at(zero))
        if vec.norm(direct - placed) > 1e-3 * max(vec.norm(direct), 1e-30):
            raise Unsupported(
                "HessianOperator: the loss reaches parameters otherwise than through its `model` argument, so they "
                "cannot be moved; write loss(model, batch) in terms of `model` only"
            )
