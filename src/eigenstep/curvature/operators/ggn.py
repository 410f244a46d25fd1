"""Gauss-Newton products: J' H_out J v, the curvature without the network's own second derivatives."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from eigenstep.curvature.operators.operator import Operator
from eigenstep.errors import Unsupported
from eigenstep.objective.graph import derivatives, first_line, has_no_second, leaves_of, refuse_dead_ends
from eigenstep.objective.objective import Objective
from eigenstep.progress import PRODUCT


class GGNOperator(Operator):
    """v -> G v, G = sum_b c_b J_b' H_b J_b; use inside `objective.session()`.

    J: the Jacobian of what model(...) returns, H: the Hessian of the loss with respect to it (Schraudolph 2002).
    Positive semidefinite where the loss is convex in the outputs. Raises Unsupported when the loss is not a function
    of the model's outputs alone (a penalty on the weights, a loss computed inside the model).
    """

    kind = "ggn"

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.size, self.dtype, self.device = objective.size, objective.dtype, objective.device

    @property
    def provenance(self) -> Mapping[str, Any]:
        """How the products were computed."""
        return {"products_by": "fresh", "batches": len(self.objective.weights), "graphs_kept": 0}

    def product(self, vector: Tensor) -> Tensor:
        """Return G @ vector."""
        objective, params = self.objective, self.objective.params
        parts = [part.to(p.dtype) for part, p in zip(objective.split(vector), params, strict=True)]
        total = torch.zeros_like(vector)
        for i, (weight, batch) in enumerate(zip(objective.weights, objective.batches.costing(PRODUCT), strict=True)):
            try:
                with objective.place(i):
                    grads = self._product(i, batch, parts)
            except (RuntimeError, NotImplementedError) as error:
                if not has_no_second(error):
                    raise
                raise Unsupported(
                    f"GGNOperator: a layer or the loss has no second derivatives ({first_line(error)}), which this "
                    "product needs; measure curvature='hessian', which falls back to differences of gradients"
                ) from error
            if grads is not None:
                total.add_(objective.join(grads), alpha=weight)
        return total

    def _product(self, i: int, batch: Any, parts: list[Tensor]) -> tuple[Tensor, ...] | None:
        """One batch's product; None where its loss reaches no parameter."""
        params = self.objective.params
        outputs, cut, loss = self._cut(i, batch, params)
        if not outputs:
            return None
        dummies = [torch.zeros_like(out, requires_grad=True) for out in outputs]
        back = derivatives(outputs, params, dummies, create_graph=True)
        if i == 0:
            refuse_dead_ends(back)
        live = [(b, part) for b, part in zip(back, parts, strict=True) if b.requires_grad]
        moved = derivatives([b for b, _ in live], dummies, [part for _, part in live], retain_graph=True)
        slopes = derivatives([loss], cut, create_graph=True)
        curved = [(s, m) for s, m in zip(slopes, moved, strict=True) if s.requires_grad]
        if not curved:
            raise Unsupported(
                "GGNOperator: the loss is linear in the model's outputs (a loss computed inside the model?), so "
                "its Gauss-Newton matrix would be zero; compute the loss outside, from the model's predictions"
            )
        pulled = derivatives([s for s, _ in curved], cut, [m for _, m in curved])
        return derivatives(outputs, params, pulled)

    def _cut(self, i: int, batch: Any, params: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """The model's outputs, the detached copies that the loss was computed from, and that loss."""
        outputs: list[Tensor] = []
        cut: list[Tensor] = []

        def sever(value: Any) -> Any:
            if isinstance(value, Tensor) and value.requires_grad:
                outputs.append(value)
                cut.append(value.detach().requires_grad_())
                return cut[-1]
            if isinstance(value, Mapping) and type(value) is not dict:
                severed = {key: sever(v) for key, v in value.items()}
                return type(value)(**severed)
            if isinstance(value, dict):
                return {key: sever(v) for key, v in value.items()}
            if isinstance(value, tuple) and hasattr(value, "_fields"):
                return type(value)(*(sever(v) for v in value))
            if isinstance(value, (list, tuple)):
                return type(value)(sever(v) for v in value)
            return value

        handle = self.objective.model.register_forward_hook(lambda module, args, out: sever(out))
        try:
            loss = self.objective.checked_loss(i, batch)
        finally:
            handle.remove()
        if not outputs and not loss.requires_grad:
            return outputs, cut, loss
        own = {id(p) for p in params}
        stray = any(id(leaf) in own for leaf in leaves_of(loss))
        if not outputs and not loss.requires_grad:
            return outputs, cut, loss
        stray = loss.requires_grad and any(
            g is not None for g in torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True)
        )
        if not outputs or not loss.requires_grad or stray:
            raise Unsupported(
                "GGNOperator: the loss is not a function of the model's outputs alone (it uses the parameters, or "
                "parts of the "
                "model, directly); compute it from what model(...) returns, or measure curvature='hessian'"
            )
        return outputs, cut, loss
