"""Hessian-vector products: exact over a kept or a fresh graph, linearised, or by checked finite differences."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from eigenstep.curvature.operators import vectors as vec
from eigenstep.curvature.operators.differences import Differences
from eigenstep.curvature.operators.operator import Operator
from eigenstep.curvature.operators.tangent import tangent_of
from eigenstep.errors import UnknownName, Unsupported
from eigenstep.objective.checks import announce, refuse_change
from eigenstep.objective.graph import (
    NoSecondDerivative,
    Verified,
    custom_functions,
    derivatives,
    first_line,
    has_no_second,
    refuse_dead_ends,
)
from eigenstep.objective.memory import free_bytes, refuse_if_too_much
from eigenstep.objective.objective import Objective
from eigenstep.progress import PRODUCT, over

Method = Literal["auto", "graph", "fresh", "linearize", "differences"]
MISLED = 0.02  # a product this far from the differences of gradients, and ten times their error, is wrong
STOPPED = "detach() or no_grad()"
DOUBLE = 3.0  # a graph for second derivatives keeps at most about this many times what a forward pass does


class HessianOperator(Operator):
    """v -> H v, H the Hessian of an Objective's loss, over all its batches; use inside `objective.session()`.

    method: 'graph' keeps each batch's gradient graph and differentiates it again (2 gradients per product); 'fresh'
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
        one = DOUBLE * objective.checked.graph_bytes
        refuse_if_too_much(
            one,
            free_bytes(self.device),
            "one Hessian-vector product",
            "cut the data into smaller batches, or measure fewer parameters=",
        )
        self.keep = int(objective.memory / max(one, 1.0)) if method == "auto" else (0 if method == "fresh" else 2**62)
        self._notes: list[str] = []
        self._kept: dict[int, Any] = {}
        self._versions: list[int] = []
        self._differences = Differences(objective)
        self._looked: set[int] = set()  # batches whose graphs have been looked into: each may take another route
        self._custom: set[str] = set()  # the user's own autograd functions, by name, and what stands still
        self._suspects: set[str] = set()  # those unchecked: they may have no second derivative and not say so
        if objective.checked.stopped:
            self._custom, self._suspects = {STOPPED}, {STOPPED}
        self._as_checked = objective.point() == objective.checked.point

    @property
    def provenance(self) -> Mapping[str, Any]:
        """How the products were computed."""
        kept = sum(1 for _ in self._kept)
        return {"products_by": self.method, "batches": len(self.objective.weights), "graphs_kept": kept}

    def product(self, vector: Tensor) -> Tensor:
        """Return H @ vector."""
        if self.method == "differences":
            return self._differences.product(vector, self._step(vector))
        try:
            product = self._exact(vector)
            if self._suspects:
                self._verify(vector, product)
            return product
        except (RuntimeError, NotImplementedError) as error:
            if not has_no_second(error):
                raise
            reason = first_line(error)
            if self.asked != "auto":
                raise Unsupported(
                    f"HessianOperator: method={self.asked!r}: no second derivatives ({reason}); use "
                    "method='differences', or leave method out"
                ) from error
        self.method = "differences"
        self._kept.clear()
        note = f"no second derivatives ({reason}): central differences of gradients were used"
        announce(f"HessianOperator: {note}")
        self._notes.append(note)
        return self.product(vector)

    def notes(self) -> list[str]:
        """A fallback, and how the step of differences was chosen."""
        return self._notes

    def error(self, vector: Tensor) -> float:
        """Return how far H @ vector may be off: half the step's change for differences, nothing for exact products."""
        if self.method != "differences":
            return 0.0
        step, product = self._step(vector), self._differences.product
        return vec.norm(product(vector, step) - product(vector, step / 2))

    def _step(self, vector: Tensor) -> float:
        """The step of differences, chosen along the first vector."""
        step = self._differences.step
        if step is None:
            step, note = self._differences.choose(vector, ", ".join(sorted(self._custom)))
            self._notes.append(note)
        return step

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
        first = (
            objective.batches if self.method == "linearize" else objective.batches.costing(PRODUCT)
        )  # it records first
        batches = over([None] * number, number, PRODUCT) if have_all else first
        for i, batch in enumerate(batches):
            kept = i in self._kept or i < self.keep
            product = self._kept[i] if i in self._kept else self._prepare(i, batch)
            if kept:
                self._kept[i] = product
            total.add_(objective.join(product(parts, kept)), alpha=objective.weights[i])
        return total

    def _prepare(self, i: int, batch: Any) -> Any:
        """A function (parts, again) -> product of one batch's Hessian with the parts."""
        objective = self.objective
        if self.method == "linearize":
            tangent = tangent_of(objective, i, batch, lambda parts: self._graph(i, batch)(parts, False))
            return lambda parts, again: tangent(parts)
        return self._graph(i, batch)

    def _graph(self, i: int, batch: Any) -> Any:
        """The same, over the graph of a gradient."""
        with self.objective.place(i):
            return self._built(i, batch)

    def _built(self, i: int, batch: Any) -> Any:
        objective, params = self.objective, self.objective.params
        loss = objective.checked_loss(i, batch)
        if self._as_checked:
            refuse_change(i, objective.checked.losses[i], float(loss.detach()), loss.dtype)
        if not loss.requires_grad:
            return lambda parts, again: [torch.zeros_like(p) for p in params]
        grads = derivatives([loss], params, create_graph=True)
        new = i not in self._looked
        self._looked.add(i)
        if new:
            self._custom |= (found := custom_functions(loss))
            self._suspects |= found
            if found:  # their forward passes leave the graph by themselves
                self._custom, self._suspects = self._custom - {STOPPED}, self._suspects - {STOPPED}
        live = [(g, k) for k, g in enumerate(grads) if g.requires_grad]
        if not live:
            return lambda parts, again: [torch.zeros_like(p) for p in params]
        outputs = [g for g, _ in live]
        if new:
            refuse_dead_ends(outputs)

        def product(parts: list[Tensor], again: bool) -> Any:
            with objective.place(i):
                return derivatives(outputs, params, [parts[k] for _, k in live], retain_graph=again)

        return product

    def _verify(self, vector: Tensor, product: Tensor) -> None:
        """Compare a first product with differences; NoSecondDerivative when a custom function's derivatives mislead."""
        names, self._suspects = ", ".join(sorted(self._suspects)), set()
        known = self.objective.verified
        if names not in known:
            known[names] = self._compared(vector, product, names)
        self._notes += [note] if (note := known[names].note) is not None else []
        self.surrogate = self.surrogate or known[names].surrogate

    def _compared(self, vector: Tensor, product: Tensor, names: str) -> Verified:
        """What a comparison with differences says of a product."""
        differences = Differences(self.objective)
        try:
            differences.choose(vector)
        except Unsupported:
            if not differences.surrogate():
                return Verified(f"the second derivatives of {names} could not be checked against differences")
        step = differences.step
        if step is not None:
            rough, finer = differences.product(vector, step), differences.product(vector, step / 2)
            off = vec.norm(product - rough)
            if off <= max(10 * vec.norm(rough - finer), MISLED * vec.norm(rough)):
                return Verified()
            if not differences.surrogate():
                size = max(vec.norm(rough), vec.norm(product))
                raise NoSecondDerivative(
                    f"double backward through {names} is wrong: its products are off by {off / size:.2g}"
                )
        note = (
            f"a surrogate, not certified: the gradient through {names} is not the loss's own slope (straight-through, "
            "or another surrogate): the curvature is the derivative of that gradient, what stands still held, which "
            "steps larger than its jumps meet, not the loss's own"
        )
        return Verified(note, surrogate=True)
