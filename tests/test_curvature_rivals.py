"""The same operators by other libraries: their products are ours, and theirs are measured like any operator."""

import warnings
from typing import Any

import hessian_eigenthings.operators as eigenthings
import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from torch import Tensor, nn

import eigenstep as es
from eigenstep.curvature import GGNOperator, HessianOperator

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what it imports still uses torch.jit.script
    import curvlinops

# ... and goes on doing so at its first product.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

LOSS = nn.CrossEntropyLoss()


@pytest.fixture
def network() -> tuple[nn.Module, list[tuple[Tensor, Tensor]], es.Objective]:
    """A small network in float64, two batches of different size, and their objective.

    No LayerNorm: the derivatives that curvlinops takes are wrong through an affine one on the CPU in torch 2.13.
    """
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4)).double()
    batches = [(torch.randn(n, 6, dtype=torch.float64), torch.randint(0, 4, (n,))) for n in (23, 10)]
    return model, batches, es.Objective(model, lambda m, b: LOSS(m(b[0]), b[1]), batches)


@pytest.mark.parametrize("kind", ["hessian", "ggn"])
def test_products_are_those_of_curvlinops(network: Any, kind: str) -> None:
    theirs = {"hessian": curvlinops.HessianLinearOperator, "ggn": curvlinops.GGNLinearOperator}[kind]
    ours: Any = {"hessian": HessianOperator, "ggn": GGNOperator}[kind]
    model, batches, objective = network
    rival = theirs(model, LOSS, list(model.parameters()), batches, check_deterministic=False)
    with objective.session():
        operator = ours(objective)
        for seed in range(3):
            vector = torch.randn(objective.size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
            torch.testing.assert_close(operator.matvec(vector), rival @ vector, rtol=1e-9, atol=1e-11)


def test_an_operator_of_curvlinops_is_measured_as_ours(network: Any) -> None:
    model, batches, objective = network
    rival = curvlinops.HessianLinearOperator(model, LOSS, list(model.parameters()), batches, check_deterministic=False)
    own = es.measure(objective, top=3, tol=1e-8)
    theirs = es.measure(rival, top=3, tol=1e-8)
    assert own.certified
    assert theirs.certified
    torch.testing.assert_close(theirs.eigenvalues, own.eigenvalues, rtol=1e-7, atol=0)


def test_an_operator_of_hessian_eigenthings_is_measured_as_ours(network: Any) -> None:
    model, batches, objective = network
    rival = eigenthings.HessianOperator(model, batches[:1], lambda m, b: LOSS(m(b[0]), b[1]))
    one = es.Objective(model, objective.loss, batches[0])
    own, theirs = es.measure(one, top=2, tol=1e-8), es.measure(rival, top=2, tol=1e-8)
    torch.testing.assert_close(theirs.eigenvalues, own.eigenvalues, rtol=1e-7, atol=0)


def test_our_operator_in_scipys_solver(network: Any) -> None:
    _, _, objective = network
    found = es.measure(objective, top=3, tol=1e-8)
    with objective.session():
        operator = HessianOperator(objective)
        linear = scipy.sparse.linalg.LinearOperator(
            operator.shape, matvec=lambda v: operator.matvec(torch.as_tensor(v.ravel())).numpy(), dtype=np.float64
        )
        start = np.random.default_rng(0).standard_normal(objective.size)
        values = scipy.sparse.linalg.eigsh(linear, 3, which="LA", v0=start, return_eigenvectors=False)
    np.testing.assert_allclose(found.eigenvalues.numpy(), np.sort(values)[::-1], rtol=1e-7)
