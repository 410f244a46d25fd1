"""Every public call that takes a model leaves all that is the user's bit for bit, when it fails or is stopped too."""

import contextlib
import inspect
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from contracts.snapshot import Snapshot
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import eigenstep as es

Call = Callable[[es.Objective, torch.optim.Optimizer, Any], Any]
CALLS: dict[str, Call] = {
    "measure": lambda o, opt, train: es.measure(o, 2, vectors=True),
    "measure, ggn": lambda o, opt, train: es.measure(o, curvature="ggn"),
    "measure, differences": lambda o, opt, train: es.measure(o, tol=0.1, method="differences"),
    "measure, as the optimizer sees it": lambda o, opt, train: es.measure(o, optimizer=opt),
    "density": lambda o, opt, train: es.density(o, 2, 4),
    "trace": lambda o, opt, train: es.trace(o, 6, optimizer=opt),
    "layers": lambda o, opt, train: es.layers(o, tol=0.1),
    "shares": lambda o, opt, train: es.shares(o, torch.ones(o.size)),
    "finite_step": lambda o, opt, train: es.finite_step(o, torch.ones(o.size), [0.1, 1.0]),
    "limit_now": lambda o, opt, train: es.limit_now(o, opt, alone=True),
    "critical_sharpness": lambda o, opt, train: es.critical_sharpness(o, opt),
    "diagnose": lambda o, opt, train: es.diagnose(o, opt, train=train, batches=2),
    "check": lambda o, opt, train: es.check(o.model, o.loss, train, opt, horizon=60),
    "recommend": lambda o, opt, train: es.recommend(o, opt, train=train, budget=60),
}


class Net(nn.Module):
    """A forward pass that counts, keeps, normalises and drops."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.drop, self.last = (
            nn.Linear(4, 6),
            nn.BatchNorm1d(6),
            nn.Dropout(0.2),
            nn.Linear(6, 2),
        )
        self.calls, self.log, self.cache = 0, [1.0], {"last": torch.zeros(2)}

    def forward(self, x: Tensor) -> Tensor:
        """Two layers, and three places that remember."""
        self.calls += 1
        self.log.append(float(self.calls))
        out: Tensor = self.last(self.drop(torch.tanh(self.norm(self.first(x)))))
        self.cache["last"] = out.detach()[0]
        return out


class Users:
    """A user in the middle of a training run: all that is theirs, and a loss that can be told to fail."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.generator = torch.Generator().manual_seed(5)
        x, y = torch.randn(12, 4), torch.randn(12, 2)
        self.net = Net()
        self.data = [{"x": x[:6], "y": y[:6]}, {"x": x[6:], "y": y[6:]}]
        self.train = DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True, generator=self.generator)
        groups = [{"params": self.net.first.parameters(), "weight_decay": 0.1}, {"params": self.net.norm.parameters()}]
        self.adam = torch.optim.AdamW([*groups, {"params": self.net.last.parameters()}], lr=1e-3)
        nn.functional.mse_loss(self.net(x), y).backward()
        self.adam.step()
        self.net.drop.eval()
        self.net.last.bias.grad = None
        self.calls, self.fails = 0, (0, KeyboardInterrupt)
        self.objective = es.Objective(self.net, self.loss, self.data)

    def loss(self, net: Any, batch: Any) -> Tensor:
        """The mean squared error; at the chosen call an error, with everything in disorder."""
        self.calls += 1
        x, y = (batch.pop("x"), batch.pop("y")) if isinstance(batch, dict) else batch
        if self.calls == self.fails[0]:
            net.train()
            net(x)
            random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
            raise self.fails[1]("now")
        loss: Tensor = nn.functional.mse_loss(net(x), y)
        return loss

    def snapshot(self) -> Snapshot:
        """All of it."""
        return Snapshot(self.net, self.adam, self.generator, self.data, self.train)


def failing(name: str, at: Callable[[int], list[int]]) -> None:
    users = Users()
    before = users.snapshot()
    CALLS[name](users.objective, users.adam, users.train)
    before.check()
    total = users.calls
    for number in at(total):
        for kind in (RuntimeError, KeyboardInterrupt):
            users = Users()
            users.fails = (number, kind)
            before = users.snapshot()
            with contextlib.suppress(kind, es.EigenstepError):  # what has converged by then may be an answer
                CALLS[name](users.objective, users.adam, users.train)
            assert users.calls >= number
            before.check()


@pytest.mark.parametrize("name", CALLS)
def test_everything_is_left_as_it_was_after_an_error_and_ctrl_c_too(name: str) -> None:
    failing(name, lambda total: [total // 2 + 1])


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_whenever_it_fails_or_is_stopped(name: str) -> None:
    failing(name, lambda total: sorted({1 + (total - 1) * i // 5 for i in range(6)}))


def test_no_public_call_is_left_out() -> None:
    functions = {n: getattr(es, n) for n in es.__all__ if inspect.isfunction(getattr(es, n))}
    takes = {
        n
        for n, f in functions.items()
        if next(iter(inspect.signature(f).parameters)) in ("objective", "source", "model")
    }
    assert takes == {name.split(",")[0] for name in CALLS}


def test_a_snapshot_sees_each_kind_of_change() -> None:
    changes: dict[str, Callable[[Users], Any]] = {
        "a weight's last bit": lambda u: u.net.first.weight.data.view(torch.int32)[0, 0].bitwise_xor_(1),
        "a gradient": lambda u: u.net.first.weight.grad.mul_(2),
        "another gradient of equal value": lambda u: setattr(
            u.net.first.weight, "grad", u.net.first.weight.grad.clone()
        ),
        "a gradient made": lambda u: setattr(u.net.last.bias, "grad", torch.zeros(2)),
        "a buffer": lambda u: u.net.norm.running_mean.add_(1),
        "a mode": lambda u: u.net.drop.train(),
        "a flag": lambda u: u.net.last.bias.requires_grad_(False),
        "a count": lambda u: setattr(u.net, "calls", -1),
        "a list": lambda u: u.net.log.append(0.0),
        "a dict's tensor": lambda u: u.net.cache.update(last=torch.ones(2)),
        "an attribute": lambda u: setattr(u.net, "new", 1),
        "a hook": lambda u: u.net.register_forward_hook(lambda *_: None),
        "an lr": lambda u: u.adam.param_groups[1].update(lr=0.5),
        "a second moment": lambda u: u.adam.state[u.net.first.weight]["exp_avg_sq"].add_(1),
        "a step": lambda u: u.adam.state[u.net.first.weight].update(step=torch.tensor(7.0)),
        "a batch": lambda u: u.data[0].pop("y"),
        "the batches": lambda u: u.data.reverse(),
        "the loader's generator": lambda u: torch.rand(1, generator=u.generator),
        "torch's RNG": lambda u: torch.rand(1),
        "NumPy's RNG": lambda u: np.random.rand(),  # noqa: NPY002
        "Python's RNG": lambda u: random.random(),
    }
    for name, change in changes.items():
        users = Users()
        before = users.snapshot()
        assert before.changed() == [], name
        change(users)
        assert before.changed(), name
