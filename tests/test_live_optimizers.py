"""What an optimizer really does: patched steps, step hooks, momenta that pass through 0, one-element tensors."""

import functools
import shutil
import types
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler
from torch.optim.optimizer import register_optimizer_step_pre_hook

import eigenstep as es

O = torch.optim  # noqa: E741


def adam() -> O.Adam:
    return O.Adam([torch.nn.Parameter(torch.ones(2))])


def halved(optimizer: Any) -> None:
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = p.grad / 2


# --- patched steps ---


def plain_patch(optimizer: Any) -> None:
    own = optimizer.step
    optimizer.step = lambda: (halved(optimizer), own())


def disguised_patch(optimizer: Any) -> None:
    own = optimizer.step
    optimizer.step = functools.wraps(own)(lambda: (halved(optimizer), own()))


def bound_patch(optimizer: Any) -> None:
    optimizer.step = types.MethodType(lambda self, closure=None: None, optimizer)


def callable_patch(optimizer: Any) -> None:
    optimizer.step = Halving()


def patch_under_a_schedule(optimizer: Any) -> None:
    bound_patch(optimizer)
    lr_scheduler.StepLR(optimizer, 1)


def patch_over_a_schedule(optimizer: Any) -> None:
    lr_scheduler.StepLR(optimizer, 1)
    disguised_patch(optimizer)


class Halving:
    """An object that may stand for a function, with its work in another method."""

    def __call__(self, optimizer: Any = None, *_: Any) -> None:
        """Halve."""
        self.work(optimizer)

    def work(self, optimizer: Any) -> None:
        """Halve each gradient in place."""
        for p in optimizer.param_groups[0]["params"]:
            p.grad.mul_(0.5)


@pytest.mark.parametrize(
    "patch",
    [plain_patch, disguised_patch, bound_patch, callable_patch, patch_under_a_schedule, patch_over_a_schedule],
)
def test_a_patched_step_is_refused(patch: Callable[[Any], None]) -> None:
    optimizer = adam()
    patch(optimizer)
    with pytest.raises(es.Unsupported, match=r"the step of this Adam has been patched.*del optimizer\.step"):
        es.rule_of(optimizer)


def test_a_class_patched_for_everybody_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(O.SGD, "step", lambda self, closure=None: None)
    with pytest.raises(es.Unsupported, match=r"SGD\.step has been patched by test_live_optimizers"):
        es.rule_of(O.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1))


def test_a_subclass_that_wraps_the_step_is_refused() -> None:
    class Faithful(O.Adam):
        @functools.wraps(O.Adam.step)
        def step(self, closure: Any = None) -> Any:  # type: ignore[override]
            halved(self)
            return super().step(closure)

    with pytest.raises(es.Unsupported, match="Faithful is Adam with a step of its own"):
        es.rule_of(Faithful([torch.nn.Parameter(torch.ones(2))]))


def test_what_torch_itself_puts_around_a_step_is_seen_through() -> None:
    for make in (lambda o: lr_scheduler.StepLR(o, 1), lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=9)):
        optimizer = adam()
        make(optimizer)
        make(optimizer)
        assert "step" in vars(optimizer)
        assert type(es.rule_of(optimizer)[0].rule) is es.Adam
    optimizer = adam()
    optimizer.step = optimizer.step  # type: ignore[method-assign]
    with torch.profiler.profile():
        assert type(es.rule_of(optimizer)[0].rule) is es.Adam
    mine = es.Optimizer([torch.nn.Parameter(torch.ones(2))], es.Lion())
    lr_scheduler.StepLR(mine, 1)
    assert type(es.rule_of(mine)[0].rule) is es.Lion


# --- hooks ---


def stored(optimizer: Any, *_: Any) -> None:
    for p in optimizer.param_groups[0]["params"]:
        p.grad = p.grad.sign()


def clipped(optimizer: Any, *_: Any) -> None:
    torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)


def fetched(optimizer: Any, *_: Any) -> None:
    for p in optimizer.param_groups[0]["params"]:
        getattr(p, "grad").zero_()  # noqa: B009


@pytest.mark.parametrize(
    "hook",
    [stored, clipped, fetched, lambda o, *_: halved(o), Halving(), Halving().__call__, functools.partial(stored)],
)
def test_a_hook_that_rewrites_gradients_is_refused(hook: Any) -> None:
    optimizer = adam()
    handle = optimizer.register_step_pre_hook(hook)
    with pytest.raises(es.Unsupported, match=r"pre-step hook .* of this Adam changes gradients.*handle\.remove"):
        es.rule_of(optimizer)
    handle.remove()
    assert es.rule_of(optimizer)[0].rule == es.Adam()


def test_so_is_one_registered_for_all_optimizers() -> None:
    handle = register_optimizer_step_pre_hook(stored)
    try:
        with pytest.raises(es.Unsupported, match="hook stored"):
            es.rule_of(adam())
    finally:
        handle.remove()


def test_a_hook_that_only_may_change_the_update_is_named() -> None:
    seen: dict[str, Any] = {}

    def logs(optimizer: Any, *_: Any) -> None:
        seen["norm"] = optimizer.param_groups[0]["params"][0].grad.norm()

    def projects(optimizer: Any, *_: Any) -> None:
        with torch.no_grad():
            optimizer.param_groups[0]["params"][0].clamp_(-1, 1)

    optimizer = adam()
    optimizer.register_step_pre_hook(logs)
    with pytest.warns(UserWarning, match=r"pre-step hook .*logs reads gradients; if it also changes them, Adam"):
        es.rule_of(optimizer)
    optimizer = adam()
    optimizer.register_step_post_hook(projects)
    with pytest.warns(UserWarning, match=r"post-step hook .*projects writes in place; if it changes parameters"):
        es.rule_of(optimizer)


def test_a_hook_that_does_neither_passes_without_a_word_and_is_not_run() -> None:
    calls = [0]

    def counts(*_: Any) -> None:
        """Count the steps; a gradient is not looked at."""
        with torch.no_grad():
            calls[0] += 1

    optimizer = adam()
    optimizer.register_step_pre_hook(counts)
    optimizer.register_step_post_hook(counts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        es.rule_of(optimizer)
    assert calls == [0]


# --- one-element tensors ---


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_tensor_of_one_element_is_a_number(shape: tuple[int, ...]) -> None:
    lr, b1 = torch.full(shape, 0.25), torch.full(shape, 0.5)
    p = torch.nn.Parameter(torch.ones(2))
    betas = (b1, torch.full(shape, 0.75))
    theirs = [O.SGD([p], lr=lr, momentum=0.5), O.Adam([p], lr=lr, betas=betas, foreach=False), O.Adagrad([p], lr=lr)]
    for optimizer in (*theirs, es.Optimizer([p], es.Adam(lr=lr)), es.Optimizer([{"params": [p], "lr": lr}], es.Adam())):
        (rule,) = (group.rule for group in es.rule_of(optimizer))
        assert (rule.lr, rule.lanes) == (0.25, ())
    assert es.rule_of(theirs[1])[0].rule == es.Adam(lr=0.25, betas=(0.5, 0.75))
    mine = es.Optimizer([p], es.Adam())
    mine.param_groups[0]["lr"] = lr
    assert mine.rules() == (es.Adam(lr=0.25),)
    mine.param_groups[0]["lr"] = torch.tensor([0.1, 0.2])
    with pytest.raises(es.InvalidValue, match="2 settings"):
        mine.rules()


# --- momentum through 0 ---


@pytest.mark.parametrize("start", [0.0, 0.9])
@pytest.mark.parametrize("kind", ["plain", "dampened", "nesterov"])
def test_a_momentum_that_passes_through_zero_keeps_its_buffer(kind: str, start: float) -> None:
    """The rule alone, driven by hand: torch neither reads nor writes the buffer at momentum 0."""
    settings: dict[str, Any] = {"plain": {}, "dampened": {"dampening": 0.3}, "nesterov": {"nesterov": True}}[kind]
    p = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    q = torch.nn.Parameter(p.detach().clone())
    theirs = O.SGD([p], lr=0.1, momentum=0.9, **settings)
    ours = es.Optimizer([q], es.rule_of(theirs)[0].rule)
    x = p.detach().clone()
    for momentum in (start, start, 0.0, 0.0, 0.5, 0.9, 0.0, 0.7):
        theirs.param_groups[0]["momentum"] = ours.param_groups[0]["momentum"] = momentum
        (group,) = es.rule_of(theirs)
        x, _ = group.rule.step(x, 3 * x, group.state[p], group.t + 1)
        p.grad, q.grad = 3 * p.detach(), 3 * q.detach()
        theirs.step()
        ours.step()
        torch.testing.assert_close(x, p.detach(), rtol=1e-13, atol=1e-15)
        torch.testing.assert_close(q.detach(), p.detach(), rtol=1e-13, atol=1e-15)
    assert ours.state[q]["step"] == 8
    if start:
        assert (es.rule_of(ours)[0].t, es.rule_of(theirs)[0].t) == (8, 1)


def test_a_buffer_at_momentum_zero_is_handed_on_and_does_not_count_in_the_analysis() -> None:
    x, buffer = torch.tensor([1.0, -2.0]), torch.tensor([5.0, 7.0])
    for rule in (es.Momentum(lr=0.1, dampening=0.3), es.Nesterov(lr=0.1, momentum=0.0), es.RMSProp(lr=0.1)):
        moved, state = rule.step(x, x, es.State((buffer,), rule.init(x).scales), 2)
        assert state.buffers[0] is buffer
        assert torch.equal(moved, rule.step(x, x, rule.init(x), 2)[0])
    plain = es.predict(es.GradientDescent(lr=0.1), es.Spectrum.from_eigenvalues([1.0, 5.0]))
    for rule in (es.Momentum(lr=0.1, dampening=0.3), es.Nesterov(lr=0.1, momentum=0.0)):
        assert es.predict(rule, es.Spectrum.from_eigenvalues([1.0, 5.0])).rate == pytest.approx(plain.rate, rel=1e-12)


def test_lanes_with_and_without_momentum_are_single_runs() -> None:
    momenta = torch.tensor([0.0, 0.9], dtype=torch.float64)
    lanes = es.Momentum(lr=0.1, momentum=momenta, dampening=0.3)
    problem = es.Quadratic([1.0, 5.0])
    together = es.simulate(lanes, problem, steps=20, keep=("losses",)).losses
    for i, momentum in enumerate(momenta.tolist()):
        single = es.simulate(lanes.replace(momentum=momentum), problem, steps=20, keep=("losses",)).losses
        torch.testing.assert_close(together[i], single, rtol=1e-12, atol=0)


def test_gradient_descent_takes_a_momentum_as_torchs_class_does() -> None:
    """Its own class in torch has one: the schedules that cycle it, and a state that is loaded, set it."""
    p = torch.nn.Parameter(torch.ones(2))
    theirs = O.SGD([p], lr=0.1, momentum=0.9, dampening=0.2)
    ours = es.Optimizer([torch.nn.Parameter(torch.ones(2))], es.GradientDescent(lr=0.5))
    assert ours.rules() == (es.GradientDescent(lr=0.5),)
    ours.load_state_dict(theirs.state_dict())
    assert ours.rules() == (es.Momentum(lr=0.1, momentum=0.9, dampening=0.2),)
    ours.param_groups[0]["momentum"] = 0.0
    assert ours.rules() == (es.GradientDescent(lr=0.1),)
    grouped = es.Optimizer([{"params": [p], "momentum": 0.5, "nesterov": True}], es.GradientDescent(lr=0.1))
    assert grouped.rules() == (es.Nesterov(lr=0.1, momentum=0.5),)


# --- torch.compile ---


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")  # torch's own, in its compiler
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a compiler")
@pytest.mark.parametrize(("name", "backend"), [("radam", "eager"), ("momentum", "eager"), ("nadam", "inductor")])
def test_a_compiled_step_is_the_step(name: str, backend: str) -> None:
    ours = [torch.nn.Parameter(torch.tensor([1.0, 2.0])) for _ in range(2)]
    compiled, eager = (es.Optimizer([p], es.RULES[name](lr=0.01)) for p in ours)
    torch._dynamo.reset()
    step = torch.compile(compiled.step, backend=backend)
    for _ in range(8):  # RAdam is rectified from update 6 on
        for p in ours:
            p.grad = 3 * p.detach()
        step()
        eager.step()
        torch.testing.assert_close(*ours, rtol=1e-5, atol=0)
