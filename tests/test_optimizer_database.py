"""torch.testing's optimizer database: each configuration refused in a sentence, or followed to 1e-12."""

import copy
import functools
import re
import sys
import types
import unittest
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.optim import lr_scheduler as S
from torch.optim.swa_utils import SWALR

import eigenstep as es

STEPS, BEGUN = 20, 7  # updates compared, and those before a state is loaded


class Configuration(NamedTuple):
    """An optimizer class of torch with the arguments that its database tries."""

    make: type[torch.optim.Optimizer]
    options: dict[str, Any]

    def __call__(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        """Build it; options that torch changes in place (a tensor lr under a schedule) are its own."""
        return self.make(parameters, **copy.deepcopy(self.options))


@functools.cache
def database() -> tuple[list[Configuration], list[Configuration]]:
    """The configurations, and the same with every implementation flag (foreach, fused, differentiable).

    Importing torch's test suite parses sys.argv, wants expecttest (for TestCase only) and freezes backend flags: all
    of that is kept from the rest of this suite.
    """
    argv, flag = sys.argv, "__allow_nonbracketed_mutation_flag"
    flags = torch.backends.flags_frozen.__globals__
    allowed = flags[flag]
    stand_in = types.ModuleType("expecttest")
    stand_in.TestCase = unittest.TestCase  # type: ignore[attr-defined]
    missing = sys.modules.setdefault("expecttest", stand_in) is stand_in
    sys.argv = argv[:1]
    try:
        from torch.testing._internal import common_optimizers as theirs
    finally:
        sys.argv = argv
        flags[flag] = allowed
        if missing:
            del sys.modules["expecttest"]
    plain, flagged = [], []
    for info in theirs.optim_db:
        plain += [Configuration(info.optim_cls, i.kwargs) for i in info.optim_inputs_func(device="cpu")]
        every = theirs._get_optim_inputs_including_global_cliquey_kwargs("cpu", torch.float64, info)
        flagged += [Configuration(info.optim_cls, i.kwargs) for i in every]
    return plain, flagged


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def cycles(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Whether torch lets the schedule cycle a momentum."""
    return {"cycle_momentum": "momentum" in optimizer.defaults or "betas" in optimizer.defaults}


SCHEDULES: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "lambda": lambda o: S.LambdaLR(o, lambda k: 1 / (1 + k)),
    "multiplicative": lambda o: S.MultiplicativeLR(o, lambda k: 0.95),
    "step": lambda o: S.StepLR(o, 3),
    "multi-step": lambda o: S.MultiStepLR(o, [2, 9], 0.3),
    "constant": lambda o: S.ConstantLR(o, 0.1, 6),
    "linear": lambda o: S.LinearLR(o, 0.0625, total_iters=9),
    "exponential": lambda o: S.ExponentialLR(o, 0.9),
    "polynomial": lambda o: S.PolynomialLR(o, 15, 2.0),
    "cosine": lambda o: S.CosineAnnealingLR(o, 9),
    "restarts": lambda o: S.CosineAnnealingWarmRestarts(o, 4),
    "chained": lambda o: S.ChainedScheduler([S.ConstantLR(o, 0.5, 4), S.ExponentialLR(o, 0.9)], optimizer=o),
    "sequential": lambda o: S.SequentialLR(o, [S.LinearLR(o, 0.01, total_iters=4), S.StepLR(o, 4)], [5]),
    "plateau": lambda o: S.ReduceLROnPlateau(o, patience=1),
    "one cycle": lambda o: S.OneCycleLR(o, 0.1, total_steps=30, **cycles(o)),
    "one cycle, momentum to 0": lambda o: S.OneCycleLR(
        o, 0.1, total_steps=30, pct_start=0.2, base_momentum=0.0, **cycles(o)
    ),
    "cyclic, momentum to 0": lambda o: S.CyclicLR(o, 0.01, 0.1, step_size_up=3, base_momentum=0.0, **cycles(o)),
    "weight averaging": lambda o: SWALR(o, 0.02, anneal_epochs=5),
}


def parameters() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.tensor([[1.0, -2.0, 0.5]])), torch.nn.Parameter(torch.tensor([[0.7, 3.0]]))]


def graded(own: list[torch.nn.Parameter], k: int) -> None:
    """The gradient of a quadratic with a shift; every fifth update reaches the second parameter not."""
    for p, curvature, reached in zip(own, (3.0, 0.8), (True, k % 5 != 3), strict=True):
        p.grad = curvature * p.detach() + 0.3 if reached else None


def same(ours: list[Tensor], theirs: list[Tensor], where: object) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-12, atol=1e-13, msg=lambda m: f"{where}: {m}")


def advance(optimizer: torch.optim.Optimizer, schedule: Any) -> None:
    optimizer.step()
    if schedule is not None:
        schedule.step(*((1.0,) if isinstance(schedule, S.ReduceLROnPlateau) else ()))


def read(theirs: torch.optim.Optimizer) -> tuple[es.Group, ...] | None:
    """The rules of a fresh optimizer; None where it is refused, in a sentence with a way out."""
    try:
        return es.rule_of(theirs)
    except es.Unsupported as error:
        refusal = str(error)
    assert re.fullmatch(r"rule_of: [^\n]*; [^\n]+", refusal), refusal
    return None


def followed_fresh(make: Configuration, scheduled: Callable[..., Any]) -> bool:
    """Read before the first update, then both driven by the same schedule."""
    mine, their = parameters(), parameters()
    theirs = make(their)
    if (groups := read(theirs)) is None:
        return False
    ours = es.Optimizer(mine, groups[0].rule)
    schedules = scheduled(ours), scheduled(theirs)
    for k in range(STEPS):
        graded(mine, k), graded(their, k)
        advance(ours, schedules[0]), advance(theirs, schedules[1])
        same(mine, their, (make, "fresh", k))
    return True


def followed_half_run(make: Configuration, scheduled: Callable[..., Any]) -> bool:
    """Read anew before each update, which the rule then takes from the state that was read."""
    their = parameters()
    theirs = make(their)
    schedule = scheduled(theirs)
    if read(theirs) is None:
        return False
    for k in range(STEPS):
        graded(their, k)
        expected = {p: p.detach() for p in their}
        for group in es.rule_of(theirs):
            for p in group.params:
                if p.grad is not None:
                    expected[p], _ = group.rule.step(p.detach(), p.grad, group.state[p], group.t + 1)
        advance(theirs, schedule)
        same([expected[p] for p in their], their, (make, "half run", k))
    return True


def followed_loaded(make: Configuration, scheduled: Callable[..., Any]) -> bool:
    """The state of a run that has begun, optimizer's and schedule's, loaded into another lr and taken on."""
    mine, their = parameters(), parameters()
    theirs = make(their)
    if (groups := read(theirs)) is None:
        return False
    schedule = scheduled(theirs)
    for k in range(BEGUN):
        graded(their, k)
        advance(theirs, schedule)
    ours = es.Optimizer(mine, groups[0].rule.replace(lr=0.77))
    own = scheduled(ours)
    if own is not None:
        own.load_state_dict(copy.deepcopy(schedule.state_dict()))
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    with torch.no_grad():
        for a, b in zip(mine, their, strict=True):
            a.copy_(b)
    for k in range(BEGUN, BEGUN + STEPS):
        graded(mine, k), graded(their, k)
        advance(ours, own), advance(theirs, schedule)
        same(mine, their, (make, "loaded", k))
    return True


FOLLOWED = (followed_fresh, followed_half_run, followed_loaded)
READ = {"SGD", "Adagrad", "RMSprop", "Adam", "AdamW", "Adamax", "NAdam", "RAdam"}


def unscheduled(optimizer: torch.optim.Optimizer) -> None:
    return None


def test_every_configuration_and_flag_is_refused_or_read_at_each_update() -> None:
    _, flagged = database()
    refused = [make for make in flagged if not followed_half_run(make, unscheduled)]
    assert len(flagged) > 150
    for make in refused:
        asked = make.options.get("maximize") or make.options.get("differentiable")
        assert asked or make.make.__name__ not in READ, make
    assert {make.make.__name__ for make in flagged if make not in refused} == READ


@pytest.mark.parametrize("followed", FOLLOWED)
def test_every_configuration_is_followed_where_momenta_pass_through_zero(followed: Any) -> None:
    plain, _ = database()
    assert sum(followed(make, SCHEDULES["cyclic, momentum to 0"]) for make in plain) > 40


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["none", *SCHEDULES])
def test_every_configuration_is_followed_under_every_schedule(schedule: str) -> None:
    plain, _ = database()
    for followed in FOLLOWED:
        assert sum(followed(make, SCHEDULES.get(schedule, unscheduled)) for make in plain) > 40
