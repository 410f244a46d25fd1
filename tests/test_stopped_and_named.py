"""Ctrl-C ends the call that the user made, wherever it comes; errors are told apart by type and name what was given."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import eigenstep as es
from eigenstep.curvature.operators.hessian import HessianOperator
from eigenstep.objective.graph import NoSecondDerivative, has_no_second


def problem() -> tuple[es.Objective, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    x = torch.randn(16, 3).double()
    objective = es.Objective(model, lambda model, x: (model(x) - 1).square().mean(), [x[:8], x[8:]])
    return objective, torch.optim.SGD(model.parameters(), lr=0.05)


def stopping(monkeypatch: pytest.MonkeyPatch, after: int | None) -> list[int]:
    """Let the product after so many end in Ctrl-C; the list counts them."""
    count, exact = [0], HessianOperator.matvec

    def matvec(self: HessianOperator, vector: Tensor) -> Tensor:
        count[0] += 1
        if after is not None and count[0] == after + 1:
            raise KeyboardInterrupt
        return exact(self, vector)

    monkeypatch.setattr(HessianOperator, "matvec", matvec)
    return count


CALLS: dict[str, Callable[[], object]] = {
    "layers": lambda: es.layers(problem()[0]),
    "limit_now": lambda: es.limit_now(*problem(), alone=True),
    "diagnose": lambda: es.diagnose(*problem(), horizon=50),
}


@pytest.mark.parametrize("name", CALLS)
def test_no_inner_call_goes_on_after_an_interrupt(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """measure and density answer Ctrl-C with what they have; as parts of another call they must end it instead."""
    with monkeypatch.context() as patch:
        total = stopping(patch, None)
        CALLS[name]()
    assert total[0] > 8
    for after in {*range(3, total[0], max(1, total[0] // 5)), total[0] - 1}:
        with monkeypatch.context() as patch:
            count = stopping(patch, after)
            with pytest.raises(KeyboardInterrupt):
                CALLS[name]()
            assert count[0] == after + 1


def test_the_users_own_call_answers_with_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    for progress in (None, lambda now: None):
        with monkeypatch.context() as patch:
            stopping(patch, 3)
            assert es.measure(problem()[0], progress=progress).provenance["interrupted"]
        with monkeypatch.context() as patch:
            stopping(patch, 15)
            density = es.density(problem()[0], 4, 10, progress=progress)
            assert density.provenance["probes"] == 1 and not density.provenance["converged"]


def test_an_interrupted_recommendation_tries_no_further_optimizer() -> None:
    objective, sgd = problem()
    others = [torch.optim.SGD(objective.model.parameters(), lr=0.1, momentum=m) for m in (0.5, 0.9)]
    calls, inner = [0], objective.loss

    def loss(model: nn.Module, batch: Any) -> Tensor:
        calls[0] += 1
        if calls[0] == 250:
            raise KeyboardInterrupt
        return inner(model, batch)

    objective.loss = loss
    found = es.recommend(objective, sgd, optimizers=others, budget=600)
    assert calls[0] < 270
    assert found.missing is not None and found.missing.startswith("interrupted") and not found.alternatives


class Loop:
    """Batches beside an iterator that somebody has begun."""

    def __init__(self) -> None:
        self.live = iter([torch.zeros(1, 3)])

    def __iter__(self) -> Iterator[Tensor]:
        return iter([torch.zeros(1, 3)])


@pytest.mark.parametrize("name", ["Objective: data", "recommend: train", "diagnose: train"])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda: iter([torch.zeros(1, 3)]), " is a list_iterator, which can be read only once"),
        (lambda: torch.utils.data.TensorDataset(torch.zeros(2, 3)), " is a TensorDataset of single samples"),
        (Loop, r": the loader \(Loop\) keeps a live list_iterator in .live"),
        (lambda: lambda: [torch.zeros(1, 3)], " is a function; give what it returns"),
    ],
    ids=["iterator", "dataset", "hidden", "function"],
)
def test_what_is_refused_is_called_what_the_user_called_it(name: str, given: Callable[[], Any], said: str) -> None:
    objective, sgd = problem()
    calls: dict[str, Callable[[], object]] = {
        "Objective: data": lambda: es.measure(es.Objective(objective.model, objective.loss, given())),
        "recommend: train": lambda: es.recommend(objective, sgd, train=given(), budget=60),
        "diagnose: train": lambda: es.diagnose(objective, sgd, train=given()),
    }
    with pytest.raises((es.InvalidValue, es.Unsupported), match=f"^{name}{said}"):
        calls[name]()


@pytest.mark.parametrize(
    ("error", "second"),
    [
        (NoSecondDerivative("whatever it says"), True),
        (NotImplementedError("the derivative for 'x'"), True),
        (RuntimeError("trying to differentiate twice a function that was marked with @once_differentiable"), True),
        (RuntimeError("out of memory"), False),
        (RuntimeError("shapes (2,) and (3,) do not match"), False),
    ],
)
def test_a_missing_second_derivative_is_told_by_type_else_by_torchs_words(error: Exception, second: bool) -> None:
    assert has_no_second(error) is second


def test_torch_still_says_so() -> None:
    """The words are torch's own: of a function that its author differentiates once, and of a detached gradient."""

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x**2

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return grad * 2

    x = torch.ones(2, requires_grad=True)
    for function in (lambda x: Once.apply(x), lambda x: x * 3):
        (first,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
        with pytest.raises(RuntimeError) as raised:
            first.sum().backward()
        assert has_no_second(raised.value)
