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


# --- every class of torch.optim, every flag ---

EVERY = [
    cls for cls in vars(O).values() if isinstance(cls, type) and issubclass(cls, O.Optimizer) and cls is not O.Optimizer
]
RULES_OF = {
    O.SGD: es.GradientDescent, O.Adagrad: es.AdaGrad, O.RMSprop: es.RMSProp, O.Adam: es.Adam, O.AdamW: es.AdamW,
    O.Adamax: es.Adamax, O.NAdam: es.NAdam, O.RAdam: es.RAdam,
}  # fmt: skip


def parameter() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.tensor([[1.0, -2.0]]))


@pytest.mark.parametrize("cls", EVERY, ids=lambda cls: cls.__name__)
def test_every_class_is_read_or_refused_with_the_reason_and_a_way_out(cls: type[torch.optim.Optimizer]) -> None:
    optimizer = cls([parameter()])  # type: ignore[call-arg]
    if cls in RULES_OF:
        (group,) = es.rule_of(optimizer)
        assert type(group.rule) is RULES_OF[cls]
        assert group.rule.lr == optimizer.defaults["lr"]
        return
    with pytest.raises(es.Unsupported, match=rf"rule_of: {cls.__name__} has no rule here: it.*; define a Rule for it"):
        es.rule_of(optimizer)


@pytest.mark.parametrize("flag", ["foreach", "fused", "capturable", "maximize", "differentiable"])
@pytest.mark.parametrize("cls", RULES_OF, ids=lambda cls: cls.__name__)
def test_flags_are_mapped_or_refused_by_name(cls: type[torch.optim.Optimizer], flag: str) -> None:
    try:
        optimizer = cls([parameter()], **{flag: True})  # type: ignore[call-arg]
    except TypeError:
        return  # torch has no such flag there
    if flag in ("maximize", "differentiable"):
        with pytest.raises(es.Unsupported, match=f"{cls.__name__} has {flag}=True"):
            es.rule_of(optimizer)
    else:
        assert es.rule_of(optimizer)[0].rule == es.rule_of(cls([parameter()]))[0].rule  # type: ignore[call-arg]


@pytest.mark.parametrize("cls", RULES_OF, ids=lambda cls: cls.__name__)
def test_a_tensor_lr_is_its_number(cls: type[torch.optim.Optimizer]) -> None:
    (group,) = es.rule_of(cls([parameter()], lr=torch.tensor(0.25)))  # type: ignore[call-arg]
    assert group.rule.lr == 0.25
    assert isinstance(group.rule.lr, float)


def test_modes_and_hyperparameters_are_carried_over() -> None:
    assert es.rule_of(O.SGD([parameter()], lr=0.1, momentum=0.8, dampening=0.2, weight_decay=0.3))[
        0
    ].rule == es.Momentum(lr=0.1, momentum=0.8, dampening=0.2, weight_decay=0.3)
    assert es.rule_of(O.Adagrad([parameter()], lr_decay=0.1, initial_accumulator_value=0.2))[0].rule == es.AdaGrad(
        lr_decay=0.1, initial_accumulator_value=0.2
    )
    assert es.rule_of(O.NAdam([parameter()], momentum_decay=0.1, decoupled_weight_decay=True))[0].rule == es.NAdam(
        momentum_decay=0.1, decoupled=True
    )
    groups = [{"params": [parameter()], "amsgrad": True}, {"params": [parameter()], "lr": 0.5}]
    read = es.rule_of(O.AdamW(groups, eps=1e-3))
    assert [group.rule for group in read] == [es.AdamW(amsgrad=True, eps=1e-3), es.AdamW(lr=0.5, eps=1e-3)]
    assert [group.index for group in read] == [0, 1]


def test_reading_copies_and_changes_nothing() -> None:
    p = parameter()
    optimizer = O.Adam([p], lr=0.1, eps=1e-3)
    for _ in range(3):
        p.grad = p.detach() + 1
        optimizer.step()
    before = {name: value.clone() for name, value in optimizer.state[p].items()}
    (group,) = es.rule_of(optimizer)
    expected = (before["exp_avg_sq"] / (1 - 0.999**3)).sqrt() + 1e-3
    torch.testing.assert_close(group.unit(p), expected, rtol=1e-13, atol=0)
    for tensor in (*group.state[p].buffers, *group.state[p].scales):
        assert not tensor.requires_grad
        tensor.zero_()
    assert all(torch.equal(optimizer.state[p][name], value) for name, value in before.items())
    with pytest.raises(AttributeError):
        group.t = 7  # type: ignore[misc]


def test_a_fresh_optimizer_has_no_unit_yet() -> None:
    p = parameter()
    (group,) = es.rule_of(O.Adam([p]))
    assert group.t == 0
    with pytest.raises(es.InvalidValue, match="fresh optimiser"):
        group.unit(p)
    (plain,) = es.rule_of(O.SGD([p], lr=0.1, momentum=0.9))
    assert plain.unit(p).tolist() == [[1.0, 1.0]]
    (lion,) = es.rule_of(es.Optimizer([p], es.Lion()))
    with pytest.raises(es.Unsupported, match="simulate it"):
        lion.unit(p)


def test_the_iterate_of_torchs_nesterov() -> None:
    """w = x + lr * momentum * b, and the run's own lr and buffer."""
    p = parameter()
    optimizer = O.SGD([p], lr=0.1, momentum=0.9, nesterov=True)
    w, m = p.detach().clone(), torch.zeros(1, 2)
    for _ in range(5):
        m = 0.9 * m - 0.1 * 3 * (w + 0.9 * m)
        w = w + m
        p.grad = 3 * p.detach()
        optimizer.step()
    (group,) = es.rule_of(optimizer)
    torch.testing.assert_close(group.iterate(p), w, rtol=1e-13, atol=1e-15)


class Renamed(torch.optim.Adam):
    """Adam under another name: its step is Adam's."""


class Clipped(torch.optim.Adam):
    """Adam with a step of its own."""

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        """Clip, then step."""


class Wrapper:
    """What accelerate and others put around an optimizer."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer


def test_subclasses_and_wrappers() -> None:
    assert es.rule_of(Renamed([parameter()]))[0].rule == es.Adam()
    for thing, says in (
        (Clipped([parameter()]), "Clipped is Adam with a step of its own"),
        (Wrapper(O.Adam([parameter()])), r"Wrapper is not a torch optimizer; pass the one that it wraps, \.optimizer"),
        (torch.nn.Linear(1, 1), "Linear is not a torch optimizer"),
    ):
        with pytest.raises(es.Unsupported, match=says):
            es.rule_of(thing)  # type: ignore[arg-type]
