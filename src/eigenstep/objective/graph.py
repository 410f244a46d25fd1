"""What an autograd graph tells before it is differentiated twice: dead ends, custom functions, hidden parameters."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from eigenstep.errors import Unsupported

# What torch says, in RuntimeErrors that have no type of their own, where there is no second derivative.
_TORCH_SAYS = (
    "double backward",  # a compiled graph; a kernel whose backward is its last
    "not implemented",  # a derivative that nobody wrote, where it is not a NotImplementedError
    "once_differentiable",  # an autograd function whose author said so
    "twice a function",  # the same, from the node that torch puts in its place
    "higher order",  # a transform that has one order only
    "does not require grad",  # a gradient that was detached
)


class NoSecondDerivative(RuntimeError):
    """Found here rather than by torch: something cannot be differentiated twice, or comes out wrong."""


def derivatives(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    weights: Sequence[Tensor] | None = None,
    *,
    create_graph: bool = False,
    retain_graph: bool | None = None,
) -> tuple[Tensor, ...]:
    """torch.autograd.grad, zeros where nothing is reached, which lets function modes stand during the pass.

    Given tensors, torch takes a mode away for the whole pass; given their edges it does not. Activation checkpointing
    runs the forward pass again in there, and must find the mode that it found the first time.
    """
    ways = [get_gradient_edge(out) for out in outputs]
    ends = [get_gradient_edge(x) for x in inputs]
    starts = [torch.ones_like(out) for out in outputs] if weights is None else list(weights)
    found = torch.autograd.grad(
        ways, ends, starts, create_graph=create_graph, retain_graph=retain_graph, allow_unused=True
    )
    return tuple(torch.zeros_like(x) if d is None else d for d, x in zip(found, inputs, strict=True))


def refuse_dead_ends(outputs: Sequence[Tensor]) -> None:
    """Raise NoSecondDerivative if a graph of first derivatives holds a node that may not be differentiated again.

    torch connects such nodes (once_differentiable) to nothing: asked for chosen inputs, its engine passes them by and
    returns a Hessian without them, in silence.
    """
    if any("Error" in node.name() or "NotImplemented" in node.name() for node in graph_of(outputs)):
        raise NoSecondDerivative("trying to differentiate twice a function that was marked with @once_differentiable")


def custom_functions(loss: Tensor) -> set[str]:
    """The names of the user's own autograd functions in a loss's graph."""
    kind = torch.autograd.function.BackwardCFunction
    return {type(node).__name__.removesuffix("Backward") for node in graph_of([loss]) if isinstance(node, kind)}


@dataclass(frozen=True)
class Verified:
    """What a comparison with differences said of second derivatives: a note, if any; whether the gradient is no slope.

    surrogate: the gradient is not the loss's own slope (straight-through, or another surrogate).
    """

    note: str | None = None
    surrogate: bool = False


def graph_of(outputs: Sequence[Tensor]) -> Iterator[Any]:
    """Every node of the graph behind some tensors, once."""
    seen, left = set(), [out.grad_fn for out in outputs]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        left += [following for following, _ in node.next_functions]


def refuse_hidden_parameters(loss: Tensor) -> None:
    """Raise Unsupported for reentrant checkpoints: the parameters inside are not reached, as if they were unused."""
    if "CheckpointFunction" in custom_functions(loss):
        raise Unsupported(
            "Objective: reentrant activation checkpointing hides the parameters inside it; use use_reentrant=False, or "
            "switch checkpointing off while measuring"
        )


def leaves_of(loss: Tensor) -> list[Tensor]:
    """The leaf tensors that a loss's graph reaches: those with a gradient of it, zero included."""
    return [node.variable for node in graph_of([loss]) if hasattr(node, "variable")]


def has_no_second(error: Exception) -> bool:
    """Whether an error says that something cannot be differentiated twice: by its type, else by torch's words."""
    typed = isinstance(error, (NoSecondDerivative, NotImplementedError))
    return typed or any(words in str(error) for words in _TORCH_SAYS)


def first_line(error: Exception) -> str:
    """What an error says, in a line."""
    return (str(error).splitlines() or [type(error).__name__])[0]
