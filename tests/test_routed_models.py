"""Models in which each batch takes its own route: what any batch reaches counts, in whatever order they come."""

import copy
import itertools
from typing import Any

import dense
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import eigenstep as es


class Experts(nn.Module):
    """Three experts; a batch is sent to the one that its first entry names."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(4, 3)
        self.experts = nn.ModuleList([nn.Linear(3, 1), nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1))])
        self.experts.append(nn.Linear(3, 1, bias=False))
        self.never = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Any:
        return self.experts[int(x[0, 0])](torch.tanh(self.body(x)))


def loss(model: nn.Module, batch: Any) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[1])


def batches(*routes: int, sizes: tuple[int, ...] = (5, 12, 3)) -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(1)
    found = []
    for route, size in zip(routes, sizes, strict=False):
        x = torch.randn(size, 4, generator=g).double() * (1 + 2 * route)
        x[:, 0] = route
        found.append((x, torch.randn(size, 1, generator=g).double()))
    return found


def total(model: nn.Module, data: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The loss by samples, by hand."""
    return sum(len(b[0]) * loss(model, b) for b in data) / sum(len(b[0]) for b in data)


def reached(model: Experts) -> list[Tensor]:
    return [p for name, p in model.named_parameters() if "never" not in name]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("method", ["graph", "fresh", "differences"])
def test_every_expert_counts_in_any_order(order: tuple[int, ...], method: Any) -> None:
    model = Experts().double()
    data = [batches(0, 1, 2)[i] for i in order]
    objective = es.Objective(model, loss, data)
    truth = dense.eigenvalues(lambda: total(model, data), reached(model))
    found = es.measure(objective, top=2, method=method)
    assert found.dimension == len(truth) and found.certified
    assert ((found.values - truth[:2]).abs() <= found.bounds + 1e-9).all()
    assert any("never.weight, never.bias" in note for note in objective.notes)
    assert not any("weight=" in note for note in objective.notes)


def test_a_linearised_route_counts_too() -> None:
    model = Experts().double()
    data = batches(0, 1, 2)
    routed = [(*batch, route) for route, batch in enumerate(data)]  # tracing takes no route from a tensor's value

    def direct(model: nn.Module, batch: Any) -> Tensor:
        return (model.experts[batch[2]](torch.tanh(model.body(batch[0]))) - batch[1]).square().mean()

    truth = dense.eigenvalues(lambda: total(model, data), reached(model))
    found = es.measure(es.Objective(model, direct, routed), method="linearize")
    assert float(found.values[0]) == pytest.approx(float(truth[0]), rel=1e-6)


def test_what_rests_on_the_hessian_sees_every_expert() -> None:
    model = Experts().double()
    data = batches(0, 1, 2)
    objective = es.Objective(model, loss, data)
    truth = dense.eigenvalues(lambda: total(model, data), reached(model))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    trace = es.trace(objective)
    assert trace.low <= float(truth.sum()) <= trace.high
    limit = es.limit_now(objective, optimizer)
    assert limit.ratio == pytest.approx(0.05 / 2 * float(truth[0]), rel=1e-6)
    assert es.density(objective, probes=2, steps=30).dimension == len(truth)
    found = es.diagnose(objective, optimizer)
    assert found.ratio == pytest.approx(limit.ratio, rel=1e-6)
    assert len(found.spread.ratios) == 3  # one mini-batch at a time, each reaching one expert
    for k, (batch, ratio) in enumerate(zip(data, found.spread.ratios, strict=True)):
        alone = dense.eigenvalues(lambda batch=batch: loss(model, batch), reached(model))
        assert ratio == pytest.approx(0.05 / 2 * float(alone[0]), rel=0.05), k
    with es.Monitor(objective, optimizer) as monitor:
        optimizer.zero_grad()
        total(model, data).backward()
        optimizer.step()
    assert monitor.measured[0]["stability_ratio"] == pytest.approx(limit.ratio, rel=1e-6)
    ggn = es.measure(objective, curvature="ggn", top=2)
    assert ggn.certified and ggn.dimension == len(truth)


def test_the_limit_is_where_the_run_turns() -> None:
    model = Experts().double()
    model.body.requires_grad_(False)
    model.experts[1].requires_grad_(False)  # what is left is quadratic
    data = batches(0, 1, 2)
    top = es.limit_now(es.Objective(model, loss, data), torch.optim.SGD(model.parameters(), lr=1.0)).max_stable_lr
    for factor, blows in ((0.95, False), (1.2, True)):
        twin = copy.deepcopy(model)
        optimizer = torch.optim.SGD(twin.parameters(), lr=factor * top)
        losses = []
        for _ in range(40):
            optimizer.zero_grad()
            value = total(twin, data)
            value.backward()
            optimizer.step()
            losses.append(float(value.detach()))
        assert (max(losses) > losses[0]) is blows


@pytest.mark.parametrize("pattern", ["experts.0.*", "experts.2.weight", ["experts.1.*", "body.bias"]])
def test_parameters_that_only_a_later_batch_reaches_can_be_named(pattern: Any) -> None:
    model = Experts().double()
    data = [*batches(1, 2), *batches(0)]
    objective = es.Objective(model, loss, data, parameters=pattern)
    assert objective.notes == () and objective.subset(objective.names).names == objective.names
    truth = dense.eigenvalues(lambda: total(model, data), [dict(model.named_parameters())[n] for n in objective.names])
    assert float(es.measure(objective).values[0]) == pytest.approx(float(truth[0]), rel=1e-6)


def test_a_batch_of_frozen_experts_counts_as_constant() -> None:
    model = Experts().double()
    model.body.requires_grad_(False)
    model.experts[1].requires_grad_(False)
    data = batches(1, 0, 2)
    objective = es.Objective(model, loss, data)
    assert "batches that reach no parameter, and count as constant: 1" in objective.notes
    held = [p for p in reached(model) if p.requires_grad]
    truth = dense.eigenvalues(lambda: total(model, data), held)
    for kind in ("hessian", "ggn"):
        found = es.measure(objective, curvature=kind)
        assert float(found.values[0]) == pytest.approx(float(truth[0]), rel=1e-6), kind
    with pytest.raises(es.InvalidValue, match="does not depend on the trainable parameters on any batch"):
        es.measure(es.Objective(model, loss, data[:1]))


class Once(torch.autograd.Function):
    """A square whose gradient may not be differentiated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * grad


class Misled(torch.autograd.Function):
    """A square whose second derivative is lost in silence."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x.detach() * grad.detach()


@pytest.mark.parametrize("function", [Once, Misled])
def test_an_odd_function_on_a_later_route_is_noticed(function: Any) -> None:
    class Odd(Experts):
        def forward(self, x: Tensor) -> Any:
            out = super().forward(x)
            return function.apply(out) if int(x[0, 0]) == 1 else out * out

    model, data = Odd().double(), batches(0, 1, 2)
    plain = copy.deepcopy(model)
    plain.forward = lambda x: Experts.forward(plain, x) ** 2
    truth = dense.eigenvalues(lambda: total(plain, data), reached(plain))
    with pytest.warns(UserWarning, match="central differences"):
        found = es.measure(es.Objective(model, loss, data))
    assert float(found.values[0]) == pytest.approx(float(truth[0]), rel=1e-4)


def test_heads_by_task_in_recommend() -> None:
    model = Experts().double()
    data = [*batches(0, 1, 2), *batches(2, 1, 0)] * 3
    objective = es.Objective(model, loss, data)
    found = es.recommend(objective, torch.optim.SGD(model.parameters(), lr=1e-3), train=data, budget=100)
    assert found.trains and found.limit is not None and found.limit.edge.dimension == objective.size
