"""The dense Hessian of a loss by double backward, row by row: an oracle that shares nothing with the package."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def hessian(loss: Callable[[], Tensor], params: Iterable[Tensor]) -> Tensor:
    """Return the symmetrised Hessian (n, n) in float64; rows of parameters that the loss does not reach are zero."""
    held = list(params)
    grads = torch.autograd.grad(loss(), held, create_graph=True, materialize_grads=True)
    flat = torch.cat([grad.reshape(-1) for grad in grads])
    rows = []
    for entry in flat:
        if not entry.requires_grad:
            rows.append(torch.zeros_like(flat))
            continue
        row = torch.autograd.grad(entry, held, retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([part.reshape(-1) for part in row]))
    found = torch.stack(rows).detach().double()
    return (found + found.T) / 2


def gradient(loss: Callable[[], Tensor], params: Iterable[Tensor]) -> Tensor:
    """Return the gradient (n,) by one backward pass; zero where the loss does not reach."""
    grads = torch.autograd.grad(loss(), list(params), materialize_grads=True)
    return torch.cat([grad.reshape(-1) for grad in grads]).detach()


def eigenvalues(loss: Callable[[], Tensor], params: Iterable[Tensor]) -> Tensor:
    """Return the eigenvalues of the Hessian, the largest first."""
    return torch.linalg.eigvalsh(hessian(loss, params)).flip(0)
