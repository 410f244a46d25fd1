"""Every rule against its torch.optim twin, read by rule_of and driven by Optimizer."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import eigenstep as es

O = torch.optim  # noqa: E741
TWINS: list[Callable[[list[dict[str, object]]], torch.optim.Optimizer]] = [
    lambda p: O.SGD(p, lr=0.1),
    lambda p: O.SGD(p, lr=0.1, momentum=0.9, dampening=0.3),
    lambda p: O.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    lambda p: O.Adagrad(p, lr=0.1, lr_decay=0.1, initial_accumulator_value=0.1),
    lambda p: O.RMSprop(p, lr=0.01),
    lambda p: O.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    lambda p: O.Adam(p, lr=0.1),
    lambda p: O.Adam(p, lr=0.1, amsgrad=True),
    lambda p: O.AdamW(p, lr=0.1),
    lambda p: O.Adamax(p, lr=0.1),
    lambda p: O.NAdam(p, lr=0.1, decoupled_weight_decay=True),
    lambda p: O.RAdam(p, lr=0.1, betas=(0.9, 0.9)),
]
H = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def groups() -> list[dict[str, object]]:
    first, second = (torch.nn.Parameter(torch.tensor(v)) for v in ([1.0, -2.0], [0.5, 3.0]))
    return [{"params": [first]}, {"params": [second], "weight_decay": 0.1}]


def step(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = H @ p.detach()
    optimizer.step()
    return [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]


@pytest.mark.parametrize("make", TWINS)
def test_the_rule_read_from_torch_trains_as_torch_does(make: Callable[..., torch.optim.Optimizer]) -> None:
    theirs = make(groups())
    rules = [group.rule for group in es.rule_of(theirs)]
    ours = [es.Optimizer([g], rule) for g, rule in zip(groups(), rules, strict=True)]
    for _ in range(20):
        expected = step(theirs)
        for optimizer, value in zip(ours, expected, strict=True):
            torch.testing.assert_close(step(optimizer)[0], value, rtol=1e-12, atol=0)
    read = es.rule_of(theirs)
    for group, optimizer in zip(read, ours, strict=True):
        (own,) = es.rule_of(optimizer)
        torch.testing.assert_close(group.unit(group.params[0]), own.unit(own.params[0]), rtol=1e-12, atol=0)


def test_a_saved_state_goes_on_where_it_was() -> None:
    one, two = (es.Optimizer(groups(), es.Adam(lr=0.1)) for _ in range(2))
    step(one)
    with torch.no_grad():
        for a, b in zip(one.param_groups, two.param_groups, strict=True):
            b["params"][0].copy_(a["params"][0])
    two.load_state_dict(one.state_dict())
    for a, b in zip(step(one), step(two), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["LBFGS", "Rprop", "Adadelta", "ASGD", "Adafactor"])
def test_what_has_no_rule_is_refused_by_name(name: str) -> None:
    with pytest.raises(es.Unsupported, match=name):
        es.rule_of(getattr(torch.optim, name)([torch.nn.Parameter(torch.zeros(2))]))


def test_a_misspelt_key_in_a_group_is_refused() -> None:
    with pytest.raises(es.UnknownName, match="weight_decay"):
        es.Optimizer([{"params": [torch.nn.Parameter(torch.zeros(2))], "weight_deacy": 0.1}], es.Adam())


def test_article_and_torch_momentum_differ_only_under_a_schedule() -> None:
    for decay, same in ((1.0, True), (0.5, False)):
        parameters = [groups()[0] for _ in range(2)]
        rules = (es.HeavyBall(lr=0.1, momentum=0.9), es.Momentum(lr=0.1, momentum=0.9))
        both = [es.Optimizer([p], rule) for p, rule in zip(parameters, rules, strict=True)]
        schedules = [O.lr_scheduler.ExponentialLR(optimizer, decay) for optimizer in both]
        for _ in range(5):
            points = [step(optimizer)[0] for optimizer in both]
            for schedule in schedules:
                schedule.step()
        assert torch.allclose(*points, rtol=1e-13, atol=0) == same
