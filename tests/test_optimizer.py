"""Optimizer as a torch.optim.Optimizer: every rule and mode beside its twin, schedulers, state, groups, refusals."""

import copy
import io
import math
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import lr_scheduler

import eigenstep as es
from eigenstep.rules import Rule

O = torch.optim  # noqa: E741
H = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
Make = Callable[[Any], torch.optim.Optimizer]


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def weights(count: int = 2) -> list[torch.nn.Parameter]:
    starts = ([1.0, -2.0], [0.5, 3.0], [-1.5, 0.25])
    return [torch.nn.Parameter(torch.tensor(start)) for start in starts[:count]]


def graded(parameters: list[torch.nn.Parameter]) -> None:
    for p in parameters:
        p.grad = H @ p.detach() + 0.3


def same(ours: list[torch.nn.Parameter], theirs: list[torch.nn.Parameter]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-12, atol=0)


# --- every rule and mode beside its twin, in param groups that differ, with weight decay ---

TWINS: dict[str, tuple[Make, Rule]] = {
    "descent": (lambda p: O.SGD(p, lr=0.1), es.GradientDescent(lr=0.1)),
    "momentum": (lambda p: O.SGD(p, lr=0.1, momentum=0.9), es.Momentum(lr=0.1, momentum=0.9)),
    "dampened": (
        lambda p: O.SGD(p, lr=0.1, momentum=0.9, dampening=0.3),
        es.Momentum(lr=0.1, momentum=0.9, dampening=0.3),
    ),
    "little momentum": (lambda p: O.SGD(p, lr=0.1, momentum=0.2), es.Momentum(lr=0.1, momentum=0.2)),
    "nesterov": (lambda p: O.SGD(p, lr=0.05, momentum=0.9, nesterov=True), es.Nesterov(lr=0.05, momentum=0.9)),
    "adagrad": (lambda p: O.Adagrad(p, lr=0.1), es.AdaGrad(lr=0.1)),
    "adagrad, begun": (
        lambda p: O.Adagrad(p, lr=0.1, lr_decay=0.1, initial_accumulator_value=0.1),
        es.AdaGrad(lr=0.1, lr_decay=0.1, initial_accumulator_value=0.1),
    ),
    "rmsprop": (lambda p: O.RMSprop(p, lr=0.01, alpha=0.9), es.RMSProp(lr=0.01, alpha=0.9)),
    "rmsprop, centred": (lambda p: O.RMSprop(p, lr=0.01, centered=True), es.RMSProp(lr=0.01, centered=True)),
    "rmsprop, momentum": (lambda p: O.RMSprop(p, lr=0.01, momentum=0.9), es.RMSProp(lr=0.01, momentum=0.9)),
    "rmsprop, both": (
        lambda p: O.RMSprop(p, lr=0.01, momentum=0.4, centered=True, eps=1e-3),
        es.RMSProp(lr=0.01, momentum=0.4, centered=True, eps=1e-3),
    ),
    "adam": (lambda p: O.Adam(p, lr=0.1), es.Adam(lr=0.1)),
    "adam, other betas": (
        lambda p: O.Adam(p, lr=0.1, betas=(0.3, 0.7), eps=0.1),
        es.Adam(lr=0.1, betas=(0.3, 0.7), eps=0.1),
    ),
    "amsgrad": (lambda p: O.Adam(p, lr=0.1, amsgrad=True), es.Adam(lr=0.1, amsgrad=True)),
    "adam, decoupled": (lambda p: O.Adam(p, lr=0.1, decoupled_weight_decay=True), es.Adam(lr=0.1, decoupled=True)),
    "adamw": (lambda p: O.AdamW(p, lr=0.1), es.AdamW(lr=0.1)),
    "adamw, amsgrad": (lambda p: O.AdamW(p, lr=0.1, amsgrad=True), es.AdamW(lr=0.1, amsgrad=True)),
    "adamax": (lambda p: O.Adamax(p, lr=0.1), es.Adamax(lr=0.1)),
    "nadam": (lambda p: O.NAdam(p, lr=0.1), es.NAdam(lr=0.1)),
    "nadam, decoupled": (
        lambda p: O.NAdam(p, lr=0.1, momentum_decay=0.1, decoupled_weight_decay=True),
        es.NAdam(lr=0.1, momentum_decay=0.1, decoupled=True),
    ),
    "radam": (lambda p: O.RAdam(p, lr=0.1, betas=(0.9, 0.9)), es.RAdam(lr=0.1, betas=(0.9, 0.9))),
    "radam, not rectified": (lambda p: O.RAdam(p, lr=0.1, betas=(0.9, 0.7)), es.RAdam(lr=0.1, betas=(0.9, 0.7))),
    "radam, decoupled": (
        lambda p: O.RAdam(p, lr=0.1, decoupled_weight_decay=True),
        es.RAdam(lr=0.1, decoupled=True),
    ),
}  # fmt: skip


def in_groups(parameters: list[torch.nn.Parameter]) -> list[dict[str, Any]]:
    return [{"params": [parameters[0]]}, {"params": [parameters[1]], "weight_decay": 0.1, "lr": 0.03}]


@pytest.mark.parametrize("name", TWINS)
def test_it_trains_as_its_twin_does(name: str) -> None:
    make, rule = TWINS[name]
    mine, their = weights(), weights()
    ours, theirs = es.Optimizer(in_groups(mine), rule), make(in_groups(their))
    for _ in range(20):
        graded(mine), graded(their)
        ours.step(), theirs.step()
        same(mine, their)
    for read, own in zip(es.rule_of(theirs), es.rule_of(ours), strict=True):
        assert type(read.rule) is type(own.rule)
        assert own.t == 20
        assert read.t == (len(rule.buffer_names) if isinstance(theirs, O.SGD) else 20)  # SGD keeps no count
        theirs_unit, our_unit = (group.unit(group.params[0]) for group in (read, own))
        torch.testing.assert_close(theirs_unit, our_unit, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", TWINS)
def test_it_takes_over_from_its_twin(name: str) -> None:
    """A state_dict of torch's own class, loaded in mid-run."""
    make, rule = TWINS[name]
    mine, their = weights(), weights()
    theirs = make(in_groups(their))
    for _ in range(7):
        graded(their)
        theirs.step()
    ours = es.Optimizer(in_groups(mine), rule.replace(lr=0.77))
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    with torch.no_grad():
        for a, b in zip(mine, their, strict=True):
            a.copy_(b)
    for _ in range(7):
        graded(mine), graded(their)
        ours.step(), theirs.step()
        same(mine, their)


# --- rules without a twin, beside loops ---


def heavy_ball(w: Tensor, g: Tensor, m: list[Tensor], t: int) -> Tensor:
    m[0] = 0.8 * m[0] - 0.1 * g
    return (1 - 0.1 * 0.2) * w + m[0]


def ema(w: Tensor, g: Tensor, m: list[Tensor], t: int) -> Tensor:
    m[0] = 0.8 * m[0] + 0.2 * g
    return w - 0.1 * m[0]


def signs(w: Tensor, g: Tensor, m: list[Tensor], t: int) -> Tensor:
    return w - 0.1 * torch.sign(g)


def lion(w: Tensor, g: Tensor, m: list[Tensor], t: int) -> Tensor:
    w = w - 0.1 * (torch.sign(0.9 * m[0] + 0.1 * g) + 0.2 * w)
    m[0] = 0.99 * m[0] + 0.01 * g
    return w


def adam_delta(w: Tensor, g: Tensor, m: list[Tensor], t: int) -> Tensor:
    m[0], m[1] = 0.9 * m[0] + 0.1 * g, 0.99 * m[1] + 0.01 * g**2
    return w - 0.1 * (m[0] / (1 - 0.9**t)) / torch.sqrt(m[1] / (1 - 0.99**t) + 0.01)


def rmsprop_delta(w: Tensor, g: Tensor, m: list[Tensor], t: int) -> Tensor:
    m[0] = 0.99 * m[0] + 0.01 * g**2
    return w - 0.1 * g / torch.sqrt(m[0] + 0.01)


def adagrad_delta(w: Tensor, g: Tensor, m: list[Tensor], t: int) -> Tensor:
    m[0] = m[0] + g**2
    return w - 0.1 * g / torch.sqrt(m[0] + 0.01)


def radam_delta(w: Tensor, g: Tensor, m: list[Tensor], t: int) -> Tensor:
    m[0], m[1] = 0.9 * m[0] + 0.1 * g, 0.9 * m[1] + 0.1 * g**2
    top = 2 / 0.1 - 1
    rho = top - 2 * t * 0.9**t / (1 - 0.9**t)
    mean = m[0] / (1 - 0.9**t)
    if rho <= 5:
        return w - 0.1 * mean
    rectified = math.sqrt((rho - 4) * (rho - 2) * top / ((top - 4) * (top - 2) * rho))
    return w - 0.1 * rectified * mean / torch.sqrt(m[1] / (1 - 0.9**t) + 0.01)


LOOPS: list[tuple[Rule, Callable[[Tensor, Tensor, list[Tensor], int], Tensor]]] = [
    (es.HeavyBall(lr=0.1, momentum=0.8, weight_decay=0.2, decoupled=True), heavy_ball),
    (es.EMAMomentum(lr=0.1, momentum=0.8), ema),
    (es.SignDescent(lr=0.1), signs),
    (es.Lion(lr=0.1, weight_decay=0.2), lion),
    (es.Adam(lr=0.1, betas=(0.9, 0.99), delta=0.01), adam_delta),
    (es.RMSProp(lr=0.1, delta=0.01), rmsprop_delta),
    (es.AdaGrad(lr=0.1, delta=0.01), adagrad_delta),
    (es.RAdam(lr=0.1, betas=(0.9, 0.9), delta=0.01), radam_delta),
]


@pytest.mark.parametrize(("rule", "loop"), LOOPS, ids=[loop.__name__ for _, loop in LOOPS])
def test_a_rule_without_a_twin_is_its_loop(
    rule: Rule, loop: Callable[[Tensor, Tensor, list[Tensor], int], Tensor]
) -> None:
    (p,) = weights(1)
    optimizer, w, memory = es.Optimizer([p], rule), p.detach().clone(), [torch.zeros(2), torch.zeros(2)]
    for t in range(1, 21):
        graded([p])
        assert p.grad is not None
        w = loop(w, p.grad, memory, t)
        optimizer.step()
        torch.testing.assert_close(p.detach(), w, rtol=1e-12, atol=1e-15)


# --- torch's schedulers ---

SCHEDULES: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "lambda": lambda o: lr_scheduler.LambdaLR(o, [lambda k: 0.9**k, lambda k: 1 / (1 + k)]),
    "multiplicative": lambda o: lr_scheduler.MultiplicativeLR(o, lambda k: 0.95),
    "step": lambda o: lr_scheduler.StepLR(o, 3),
    "warm-up": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 1e-3, total_iters=4), lr_scheduler.CosineAnnealingLR(o, 20)], [4]
    ),
    "restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.3, total_steps=30),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.2, step_size_up=4),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", ["momentum", "nesterov", "rmsprop, momentum", "adam", "adamw", "radam"])
def test_schedulers_drive_it_as_they_drive_torch(name: str, schedule: str) -> None:
    """The one-cycle and the cyclic schedule move the momentum, or the first beta, too."""
    make, rule = TWINS[name]
    mine, their = weights(), weights()
    ours, theirs = es.Optimizer(in_groups(mine), rule), make(in_groups(their))
    schedules = [SCHEDULES[schedule](ours), SCHEDULES[schedule](theirs)]
    moved = set()
    for _ in range(20):
        graded(mine), graded(their)
        for optimizer, scheduled in zip((ours, theirs), schedules, strict=True):
            optimizer.step()
            scheduled.step()
        same(mine, their)
        for a, b in zip(ours.param_groups, theirs.param_groups, strict=True):
            assert (a["lr"], a.get("betas"), a.get("momentum")) == (b["lr"], b.get("betas"), b.get("momentum"))
        moved.add(ours.rules()[0].lr)
    assert len(moved) > 3


def test_a_plateau_lowers_its_lr() -> None:
    (p,) = weights(1)
    optimizer = es.Optimizer([p], es.Adam(lr=0.1))
    plateau = lr_scheduler.ReduceLROnPlateau(optimizer, patience=1)
    for _ in range(5):
        graded([p])
        optimizer.step()
        plateau.step(1.0)
    assert optimizer.rules()[0].lr == pytest.approx(0.001)


def test_nadam_carries_the_product_of_the_momenta_that_were() -> None:
    """As torch does: under the one-cycle schedule, which moves b1, the product is no function of t."""
    for schedule in ("warm-up", "one cycle"):
        make, rule = TWINS["nadam"]
        mine, their = weights(), weights()
        both = [es.Optimizer(in_groups(mine), rule), make(in_groups(their))]
        schedules = [SCHEDULES[schedule](optimizer) for optimizer in both]
        for _ in range(10):
            graded(mine), graded(their)
            for optimizer, scheduled in zip(both, schedules, strict=True):
                optimizer.step()
                scheduled.step()
        same(mine, their)
        carried = both[0].state[mine[0]]["mu_product"]
        assert carried == pytest.approx(both[1].state[their[0]]["mu_product"].item(), rel=1e-12)


# --- state ---


@pytest.mark.parametrize("name", es.RULES)
def test_a_saved_run_goes_on_bit_for_bit(name: str) -> None:
    """Through torch.save and torch.load(weights_only=True), into an optimizer built with another lr."""
    rule = es.RULES[name](lr=0.05)
    first, second = weights(), weights()
    one = es.Optimizer([{"params": [first[0]]}, {"params": [first[1]], "lr": 0.03}], rule)
    for _ in range(3):
        graded(first)
        one.step()
    file = io.BytesIO()
    torch.save({"optimizer": one.state_dict(), "weights": [p.detach() for p in first]}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    two = es.Optimizer([{"params": [p]} for p in second], rule.replace(lr=0.7))
    two.load_state_dict(saved["optimizer"])
    with torch.no_grad():
        for p, value in zip(second, saved["weights"], strict=True):
            p.copy_(value)
    assert two.rules() == one.rules()
    for _ in range(3):
        for optimizer, parameters in ((one, first), (two, second)):
            graded(parameters)
            optimizer.step()
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))])
def test_a_copy_goes_on_alike_and_apart(duplicate: Callable[[es.Optimizer], es.Optimizer]) -> None:
    parameters = weights()
    one = es.Optimizer(parameters, es.Adam(lr=0.1))
    graded(parameters)
    one.step()
    two = duplicate(one)
    copies = two.param_groups[0]["params"]
    before = [p.detach().clone() for p in parameters]
    graded(copies)
    two.step()
    assert all(torch.equal(p, old) for p, old in zip(parameters, before, strict=True))
    graded(parameters)
    one.step()
    assert all(torch.equal(a, b) for a, b in zip(parameters, copies, strict=True))


@pytest.mark.parametrize("name", es.RULES)
def test_its_state_is_its_own(name: str) -> None:
    """No state shares memory with a parameter or a gradient, which training writes to."""
    (p,) = weights(1)
    optimizer = es.Optimizer([p], es.RULES[name]())
    graded([p])
    optimizer.step()
    assert p.grad is not None
    tensors = [value for value in optimizer.state[p].values() if isinstance(value, Tensor)]
    assert not {t.data_ptr() for t in tensors} & {p.data_ptr(), p.grad.data_ptr()}


# --- what a true torch optimizer does ---


def test_a_closure_is_called_with_gradients_on_and_its_loss_returned() -> None:
    (p,) = weights(1)
    optimizer = es.Optimizer([p], es.GradientDescent(lr=0.1))

    def closure() -> float:
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss.item()

    with torch.no_grad():
        assert optimizer.step(closure) == 5.0
    assert p.tolist() == pytest.approx([0.8, -1.6])


@pytest.mark.parametrize("name", ["momentum", "adam", "adamw"])
def test_maximize_climbs_as_torch_does(name: str) -> None:
    make, rule = TWINS[name]
    mine, their = weights(), weights()
    ours, theirs = es.Optimizer(in_groups(mine), rule, maximize=True), make(in_groups(their))
    for group in theirs.param_groups:
        group["maximize"] = True
    for _ in range(5):
        graded(mine), graded(their)
        ours.step(), theirs.step()
        same(mine, their)


def test_maximize_may_differ_by_group() -> None:
    up, down = weights()
    optimizer = es.Optimizer([{"params": [up], "maximize": True}, {"params": [down]}], es.GradientDescent(lr=0.1))
    up.grad, down.grad = torch.ones(2), torch.ones(2)
    optimizer.step()
    assert (up.tolist(), down.tolist()) == ([1.1, -1.9], [0.4, 2.9])


def test_parameters_without_a_gradient_are_skipped_and_count_no_update() -> None:
    moved, idle = weights()
    optimizer = es.Optimizer([moved, idle], es.Adam())
    moved.grad = torch.ones(2)
    optimizer.step()
    assert idle.tolist() == [0.5, 3.0]
    assert {group.params[0]: group.t for group in es.rule_of(optimizer)} == {moved: 1, idle: 0}


def test_a_sparse_gradient_is_refused_before_anything_moves() -> None:
    table = torch.nn.Embedding(10, 2, sparse=True)
    (p,) = weights(1)
    optimizer = es.Optimizer([p, *table.parameters()], es.Adam())
    (table(torch.tensor([1, 3])).sum() + p.sum()).backward()
    with pytest.raises(es.Unsupported, match=r"sparse.*SparseAdam"):
        optimizer.step()
    assert p.tolist() == [1.0, -2.0]


def test_a_group_that_joins_later_takes_the_rule_and_what_it_sets_itself() -> None:
    first, second, third = weights(3)
    optimizer = es.Optimizer([first], es.Adam(lr=0.1))
    graded([first])
    optimizer.step()
    optimizer.add_param_group({"params": [second], "lr": 0.5, "weight_decay": 0.1})
    graded([first, second])
    optimizer.step()
    assert optimizer.rules() == (es.Adam(lr=0.1), es.Adam(lr=0.5, weight_decay=0.1))
    for wrong, says in (
        ({"lr": -1.0}, "lr=-1"),
        ({"momentum": 0.9}, "hyperparameter of Adam 'momentum'"),
        ({"betas": (0.9, 1.0)}, "betas=1.0"),
        ({"lr": [0.1, 0.2]}, "2 settings"),
    ):
        with pytest.raises(es.EigenstepError, match=says):
            optimizer.add_param_group({"params": [third], **wrong})
    assert len(optimizer.param_groups) == 2


def test_lr_zero_stands_still_and_a_bad_lr_is_refused_before_anything_moves() -> None:
    (p,) = weights(1)
    optimizer = es.Optimizer([p], es.AdamW(lr=0.0))
    for lr in (0.0, math.nan, -1.0):
        optimizer.param_groups[0]["lr"] = lr
        graded([p])
        if lr == 0:
            optimizer.step()
        else:
            with pytest.raises(es.InvalidValue, match="lr="):
                optimizer.step()
        assert p.tolist() == [1.0, -2.0]
    assert optimizer.state[p]["step"] == 1


def test_a_tensor_lr_is_followed_where_it_is_changed_in_place() -> None:
    mine, their = weights(1), weights(1)
    ours = es.Optimizer([{"params": mine, "lr": torch.tensor(0.1)}], es.Adam())
    theirs = O.Adam(their, lr=torch.tensor(0.1))
    ours.param_groups[0]["lr"] = torch.tensor(0.1)
    for lr in (0.1, 0.03, 0.0):
        for optimizer in (ours, theirs):
            optimizer.param_groups[0]["lr"].fill_(lr)
        graded(mine), graded(their)
        ours.step(), theirs.step()
        same(mine, their)
    assert ours.rules()[0].lr == 0.0


def test_hooks_and_named_parameters() -> None:
    model = torch.nn.Linear(2, 1)
    optimizer, called = es.Optimizer(model.named_parameters(), es.HeavyBall()), []
    optimizer.register_step_pre_hook(lambda *_: called.append("before"))
    optimizer.register_step_post_hook(lambda *_: called.append("after"))
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    assert called == ["before", "after"]
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]


@pytest.mark.parametrize("name", es.RULES)
def test_a_large_parameter_steps_as_its_pieces_do(name: str) -> None:
    """Chunks, and a layout that is not contiguous, agree with steps of the rule on the whole."""
    from eigenstep.bridge.optimizer import CHUNK

    rule, whole = es.RULES[name](lr=0.05), torch.linspace(-1, 1, 2 * CHUNK + 10)
    flat, turned = torch.nn.Parameter(whole.clone()), torch.nn.Parameter(whole.reshape(2, -1).clone().T)
    optimizer, state = es.Optimizer([flat, turned], rule), rule.init(whole)
    for t in (1, 2, 3):
        flat.grad, turned.grad = flat.detach() * 2, turned.detach() * 2
        optimizer.step()
        whole, state = rule.step(whole, whole * 2, state, t)
    torch.testing.assert_close(flat.detach(), whole, rtol=1e-13, atol=1e-16)
    torch.testing.assert_close(turned.detach().T.reshape(-1), whole, rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: es.Optimizer(weights(), es.Adam), "is no rule"),  # type: ignore[arg-type]
        (lambda: es.Optimizer(weights(), es.Adam(lr=[0.1, 0.2])), "compare settings with eigenstep.simulate"),  # type: ignore[arg-type]
        (lambda: es.Optimizer([torch.nn.Parameter(torch.zeros(1, dtype=torch.complex128))], es.Adam()), "view_as_real"),
        (lambda: es.Optimizer([{"params": weights(), "learning_rate": 0.1}], es.Adam()), "did you mean 'lr'"),
    ],
)
def test_refusals(build: Callable[[], object], says: str) -> None:
    with pytest.raises(es.EigenstepError, match=says):
        build()
