"""What stands in param groups, read and written: beside torch's own optimizers and schedulers."""

from typing import Any

import pytest
import torch

from eigenstep.bridge.param_groups import (
    adapts,
    described,
    first_moving,
    has_momentum,
    lr_of,
    lr_ratios,
    lrs_of,
    put_momentum,
    relative,
    replace_zero_lrs,
    scheduled,
    set_lr,
    settings_of,
)


def optimizer(lrs: list[Any], kind: Any = torch.optim.SGD, **settings: Any) -> torch.optim.Optimizer:
    groups = [{"params": [torch.zeros(2, requires_grad=True)], "lr": lr} for lr in lrs]
    made: torch.optim.Optimizer = kind(groups, **settings)
    return made


def test_the_first_that_moves_speaks_for_all() -> None:
    assert first_moving([0.0, 0.0, 0.25, 1.0]) == 0.25 == lr_of(optimizer([0.0, 0.25, 1.0]))
    assert first_moving([]) == 0.0 == lr_of(optimizer([0.0, 0.0]))
    assert relative([0.0, 0.25, 1.0]) == [0.0, 1.0, 4.0]
    assert lr_ratios(optimizer([0.0, 0.25, 1.0])) == (0.0, 0.25, 1.0)
    assert relative([0.0, 0.0]) == [1.0, 1.0] == list(lr_ratios(optimizer([0.0, 0.0])))


def test_an_lr_is_set_exactly_and_the_ratios_are_kept() -> None:
    groups = optimizer([0.0, 0.3, 0.1])
    set_lr(groups, 0.07)
    assert lrs_of(groups) == [0.0, 0.07, pytest.approx(0.07 / 3)]


@pytest.mark.parametrize("lrs", [[0.5, 0.25], [0.0, 0.0]])
def test_an_lr_that_is_a_tensor_stays_that_tensor(lrs: list[float]) -> None:
    """A step that was compiled, or captured in a graph, reads the tensor that it was given."""
    tensors = [torch.tensor(lr) for lr in lrs]
    groups = optimizer(tensors, torch.optim.AdamW)
    held = [group["lr"] for group in groups.param_groups]
    assert replace_zero_lrs(groups) == (not any(lrs))
    before = lrs_of(groups)
    set_lr(groups, 0.125)
    assert lrs_of(groups) == [0.125, 0.125 * before[1] / before[0]]
    assert all(group["lr"] is tensor for group, tensor in zip(groups.param_groups, held, strict=True))


def test_one_tensor_for_all_groups_is_scaled_once() -> None:
    shared = torch.tensor(0.5)
    groups = optimizer([shared, shared, shared])
    set_lr(groups, 0.25)
    assert lrs_of(groups) == [0.25] * 3


def test_at_an_lr_of_zero_the_scheduler_says_what_comes() -> None:
    groups = optimizer([0.2, 0.1])
    assert not scheduled(groups)
    torch.optim.lr_scheduler.LambdaLR(groups, lambda step: 0.0)
    assert scheduled(groups) and lrs_of(groups) == [0.0, 0.0]
    assert replace_zero_lrs(groups) and lrs_of(groups) == [0.2, 0.1]
    assert not replace_zero_lrs(groups)
    bare = optimizer([0.0, 0.0])
    assert replace_zero_lrs(bare) and lrs_of(bare) == [1.0, 1.0]


def test_a_momentum_goes_where_the_method_keeps_its_own() -> None:
    sgd, adam = optimizer([0.1], momentum=0.9, nesterov=True), optimizer([0.1], torch.optim.Adam, betas=(0.9, 0.95))
    untouched = settings_of(sgd)
    put_momentum(sgd, None)
    assert settings_of(sgd) == untouched
    for one in (sgd, adam):
        assert has_momentum(one)
        put_momentum(one, 0.0)
    assert (sgd.param_groups[0]["momentum"], sgd.param_groups[0]["nesterov"]) == (0.0, False)
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], **{k: sgd.param_groups[0][k] for k in ("lr", "nesterov")})
    assert adam.param_groups[0]["betas"] == (0.0, 0.95)
    assert not has_momentum(optimizer([0.1], torch.optim.Adagrad))
    assert adapts(adam) and not adapts(sgd)


def test_settings_are_told_once_for_groups_that_agree() -> None:
    groups = optimizer([0.1, 0.2], momentum=0.9)
    assert described(groups).count("momentum=0.9") == 1
    groups.param_groups[1]["momentum"] = 0.5
    assert described(groups).count(";") == 1 and settings_of(groups) != settings_of(optimizer([0.1, 0.2], momentum=0.9))
