"""What the loss's own derivatives do not show: parts that stand still, gradient hooks, parameters frozen on the way."""

import functools
from typing import Any

import dense
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import eigenstep as es


def setting() -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    return model, [(torch.randn(16, 3).double(), torch.randn(16, 1).double())]


def mse(m: nn.Module, b: Any) -> Tensor:
    return F.mse_loss(m(b[0]), b[1])


def own_target(m: nn.Module, b: Any) -> Tensor:
    y = m(b[0])
    return 3 * (y - (b[1] - 0.9 * y).detach()).square().mean()


def written_gradient(m: nn.Module, b: Any) -> Tensor:
    y = m(b[0])
    return (6 * y * (y - b[1]).detach()).mean()


def weighted_by_itself(m: nn.Module, b: Any) -> Tensor:
    e = m(b[0]) - b[1]
    with torch.no_grad():
        weights = e.abs() * 1.0
    return (weights * e.square()).mean()


def quantised(m: nn.Module, b: Any) -> Tensor:
    y = m(b[0])
    return (y + (y.round() - y).detach() - b[1]).square().mean()


def by_data(m: nn.Module, b: Any) -> Tensor:
    y = m(b[0])
    return (y / y.data.std() - b[1]).square().mean()


@pytest.mark.parametrize("loss", [own_target, written_gradient, weighted_by_itself, quantised, by_data])
def test_a_loss_that_holds_parts_of_itself_still_is_never_certified(loss: Any) -> None:
    model, data = setting()
    objective = es.Objective(model, loss, data)
    found = es.measure(objective)
    assert not found.certified and any("not the loss's own slope" in note for note in found.notes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert not es.limit_now(objective, optimizer).certified
    assert es.diagnose(objective, optimizer).sentence.startswith("Try this lr before you trust")


def logged(m: nn.Module, b: Any) -> Tensor:
    value = mse(m, b)
    logged.values.append(value.item())  # type: ignore[attr-defined]
    return value


logged.values = []  # type: ignore[attr-defined]


def constant_of_the_data(m: nn.Module, b: Any) -> Tensor:
    with torch.no_grad():
        scale = b[0].std()
    return mse(m, b) / scale


@pytest.mark.parametrize("loss", [logged, constant_of_the_data])
def test_what_leaves_the_graph_without_coming_back_does_no_harm(loss: Any) -> None:
    model, data = setting()
    truth = dense.eigenvalues(lambda: loss(model, data[0]), model.parameters())
    found = es.measure(es.Objective(model, loss, data))
    assert found.certified and found.notes == ()
    assert float(found.values[0]) == pytest.approx(float(truth[0]), rel=1e-6)


def test_a_gradient_that_is_right_where_its_derivative_is_not_is_measured_by_differences() -> None:
    model, data = setting()

    def trick(m: nn.Module, b: Any) -> Tensor:  # y^2, and its gradient; double backward says 0
        y = m(b[0])
        return (2 * y.detach() * y - y.detach().square()).mean()

    truth = dense.eigenvalues(lambda: model(data[0][0]).square().mean(), model.parameters())
    with pytest.warns(UserWarning, match="central differences"):
        found = es.measure(es.Objective(model, trick, data))
    assert float(found.values[0]) == pytest.approx(float(truth[0]), rel=1e-5)


def scale(grad: Tensor) -> Tensor:
    return 0.1 * grad


def in_place(grad: Tensor) -> None:
    grad.mul_(0.1)


def after(p: Tensor) -> None:
    p.grad = p.grad * 10


def on_module(module: nn.Module, received: Any, sent: Any) -> Any:
    return tuple(None if g is None else 5 * g for g in received)


def clipped_inside(grad: Tensor) -> None:
    helper(grad)


def helper(grad: Tensor) -> None:
    grad.clamp_(-0.01, 0.01)


class Scaling:
    """An object that may stand for a function."""

    def __call__(self, grad: Tensor) -> Tensor:
        return 0.1 * grad


HOOKS = {
    "by a function that it calls": lambda m: m[2].weight.register_hook(clipped_inside),
    "an object": lambda m: m[0].weight.register_hook(Scaling()),
    "partial": lambda m: m[0].weight.register_hook(functools.partial(torch.mul, other=0.1)),
    "scale": lambda m: m[0].weight.register_hook(scale),
    "in place": lambda m: m[2].bias.register_hook(in_place),
    "mask": lambda m: m[0].weight.register_hook(lambda g: g * torch.eye(4, 3).double()),
    "after": lambda m: m[0].weight.register_post_accumulate_grad_hook(after),
    "module": lambda m: m[2].register_full_backward_hook(on_module),
}


@pytest.mark.parametrize("kind", list(HOOKS))
def test_hooks_that_change_gradients_are_named_by_every_entry(kind: str) -> None:
    model, data = setting()
    truth = dense.eigenvalues(lambda: mse(model, data[0]), model.parameters())
    handle = HOOKS[kind](model)
    objective, optimizer = es.Objective(model, mse, data), torch.optim.SGD(model.parameters(), lr=0.1)
    found = es.measure(objective)
    assert float(found.values[0]) == pytest.approx(float(truth[0]), rel=1e-6)  # the loss's own
    assert any("is no part of the loss" in note for note in found.notes)
    for entry in (es.limit_now, es.diagnose, es.recommend, es.critical_sharpness, es.Monitor):
        with pytest.raises(es.Unsupported, match=r"gradient hook .* may change"):
            entry(objective, optimizer)
    model.zero_grad()
    mse(model, data[0]).backward()
    hooked = [p.grad.clone() for p in model.parameters()]
    handle.remove()
    model.zero_grad()
    mse(model, data[0]).backward()
    assert any(not torch.equal(a, p.grad) for a, p in zip(hooked, model.parameters(), strict=True))  # put back, and off
    assert es.limit_now(objective, optimizer).ratio == pytest.approx(0.05 * float(truth[0]), rel=1e-6)


class Watching:
    """An object that keeps a note of every call."""

    def __init__(self, seen: list[float]) -> None:
        self.seen = seen

    def __call__(self, grad: Tensor) -> None:
        self.seen.append(float(grad.norm()))


def test_a_hook_that_looks_on_is_neither_run_nor_refused() -> None:
    model, data = setting()
    seen: list[float] = []

    def look(grad: Tensor) -> None:
        seen.append(float(grad.norm()))

    model[0].weight.register_hook(look)
    model[2].weight.register_hook(lambda grad: seen.append(1.0))
    model[2].bias.register_hook(Watching(seen))
    objective, optimizer = es.Objective(model, mse, data), torch.optim.SGD(model.parameters(), lr=0.1)
    assert es.limit_now(objective, optimizer).ratio and es.diagnose(objective, optimizer).ratio and seen == []
    mse(model, data[0]).backward()
    assert len(seen) == 3


def test_parameters_frozen_and_unfrozen_on_the_way_are_followed() -> None:
    model, data = setting()
    objective, optimizer = es.Objective(model, mse, data), torch.optim.SGD(model.parameters(), lr=0.1)
    whole = es.limit_now(objective, optimizer)
    model[0].requires_grad_(False)
    held = list(model[2].parameters())
    truth = dense.eigenvalues(lambda: mse(model, data[0]), held)
    part = es.limit_now(objective, optimizer, start=whole)
    assert part.edge.dimension == 5 and part.ratio == pytest.approx(0.05 * float(truth[0]), rel=1e-6)
    assert es.trace(objective).low <= float(truth.sum()) <= es.trace(objective).high
    assert es.recommend(objective, optimizer, train=data, budget=60).trains
    model[0].requires_grad_(True)
    assert es.limit_now(objective, optimizer).ratio == pytest.approx(whole.ratio, rel=1e-6)
    named = es.Objective(model, mse, data, parameters="2.*")
    assert (
        "2 more parameters that the optimizer trains are held still, by parameters="
        in es.limit_now(named, optimizer).notes
    )


def test_a_monitor_follows_what_is_unfrozen() -> None:
    model, data = setting()
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.05)
    objective = es.Objective(model, mse, data)
    with es.Monitor(objective, optimizer, dense=20) as monitor:
        for update in range(8):
            if update == 4:
                model[0].requires_grad_(True)
                optimizer.add_param_group({"params": list(model[0].parameters()), "lr": 3.0})
            if update in (4, 7):
                fresh = es.limit_now(es.Objective(model, mse, data), optimizer).ratio
            optimizer.zero_grad()
            mse(model, data[0]).backward()
            optimizer.step()
            if update in (4, 7):
                assert monitor.measured[-1]["stability_ratio"] == pytest.approx(fresh, rel=0.02)


def test_an_optimizer_of_some_of_the_parameters_is_refused_alike() -> None:
    model, data = setting()
    objective, optimizer = es.Objective(model, mse, data), torch.optim.SGD(model[2].parameters(), lr=0.1)
    for entry in (es.limit_now, es.diagnose, es.recommend, es.critical_sharpness):
        with pytest.raises(es.InvalidValue, match=r"does not hold '0\.weight'"):
            entry(objective, optimizer)


def test_groups_in_another_order_than_the_models_are_scaled_by_the_first_that_moves() -> None:
    model, data = setting()
    objective = es.Objective(model, mse, data)
    optimizer = torch.optim.SGD(
        [{"params": model[2].parameters(), "lr": 0.01}, {"params": model[0].parameters()}], lr=0.3
    )
    limit = es.limit_now(objective, optimizer)
    assert limit.lr == 0.01 and limit.max_stable_lr == pytest.approx(0.01 / limit.ratio)
    with es.Monitor(objective, optimizer) as monitor:
        mse(model, data[0]).backward()
        optimizer.step()
    assert monitor.measured[0]["stability_ratio"] == pytest.approx(limit.ratio, rel=1e-6)
    assert monitor.measured[0]["lr"] == 0.01
