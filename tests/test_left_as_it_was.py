"""Whatever a forward pass changes on its model is as it was afterwards, or is named in a warning."""

import random
from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import eigenstep as es
from eigenstep.objective import contents
from eigenstep.objective.contents import Contents


class Memory:
    """An object of the user's own that a module keeps."""

    def __init__(self) -> None:
        self.seen: list[float] = []
        self.last = torch.zeros(2)


class Busy(nn.Module):
    """Changes, in its forward pass, everything that can be changed without changing its output."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.frozen = nn.Linear(2, 2), nn.Linear(2, 2)
        self.count, self.counts, self.nested = 0, {"n": 0}, {"a": [{"b": {1}}]}
        self.log, self.queue, self.bytes = [1.0], deque([1, 2], maxlen=2), bytearray(b"ab")
        self.counter, self.default, self.ordered = Counter("aab"), defaultdict(list, k=[1]), OrderedDict(a=1, b=2)
        self.cache: dict[Any, Any] = {}
        self.running, self.array = torch.ones(3), np.ones(3)
        self.pair = ([1], torch.ones(1))
        self.memory = Memory()
        self.generator, self.rng, self.python = torch.Generator(), np.random.default_rng(0), random.Random(0)
        self.register_buffer("steps", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Linear, with much ado."""
        self.count += 1
        self.counts["n"] += 1
        self.nested["a"][0]["b"].add(self.count)
        self.nested["a"].append({})
        self.log.append(2.0)
        self.queue.append(3)
        self.bytes += b"c"
        self.counter["c"] += 1
        self.default["new"].append(1)
        self.ordered.move_to_end("a")
        self.cache[len(self.cache)] = x
        self.running.mul_(0.5)
        self.array *= 0.5
        self.pair[0].append(2)
        self.pair[1].add_(1)
        self.memory.seen.append(1.0)
        self.memory.last.add_(1)
        self.memory.new = 1  # type: ignore[attr-defined]
        torch.rand(1, generator=self.generator)
        self.rng.random()
        self.python.random()
        self.new = 1
        self.steps += 1  # type: ignore[operator,has-type]
        self.frozen.requires_grad_(False)
        self.frozen.register_forward_hook(lambda module, args, out: out)
        if self.linear.weight.requires_grad:
            self.linear.weight.register_hook(lambda grad: grad)
        self.linear.late = nn.Parameter(torch.zeros(1))
        self.linear.eval()
        out: Tensor = self.linear(x)
        return out


def everything(model: Any) -> str:
    """What the model holds, in words."""
    parts: list[Any] = [sorted(vars(m)) for m in model.modules()]
    parts += [model.count, model.counts, model.nested, model.log, model.queue, model.bytes, model.counter]
    parts += [model.default, model.ordered, list(model.cache), model.running.tolist(), model.array.tolist()]
    parts += [model.pair, model.memory.seen, model.memory.last, sorted(vars(model.memory))]
    parts += [model.generator.get_state().tolist(), model.rng.bit_generator.state, model.python.getstate()]
    parts += [[(n, p.requires_grad, dict(p._backward_hooks or {})) for n, p in model.named_parameters()]]
    parts += [[(m.training, list(m._forward_hooks)) for m in model.modules()], list(model.named_buffers())]
    return repr(parts)


def square(model: Any, x: Any) -> Tensor:
    loss: Tensor = model(x).square().mean()
    return loss


def test_what_a_forward_pass_changes_is_put_back_by_every_public_call() -> None:
    model = Busy()
    before = everything(model)
    square(model, torch.eye(2))
    assert everything(model) != before
    model = Busy()
    sgd = torch.optim.SGD(model.parameters(), 0.1)
    objective = es.Objective(model, square, torch.eye(2))
    before = everything(model)
    calls = {
        "measure": lambda: es.measure(objective),
        "ggn": lambda: es.measure(objective, curvature="ggn"),
        "differences": lambda: es.measure(objective, method="differences"),
        "limit_now": lambda: es.limit_now(objective, sgd),
        "critical": lambda: es.critical_sharpness(objective, sgd),
        "trace": lambda: es.trace(objective, 6),
    }
    for name, call in calls.items():
        call()
        assert everything(model) == before, name


@pytest.mark.slow
def test_what_a_forward_pass_changes_is_put_back_by_the_long_calls() -> None:
    model = Busy()
    sgd = torch.optim.SGD(model.parameters(), 0.1)
    objective = es.Objective(model, square, torch.eye(2))
    before = everything(model)
    es.diagnose(objective, sgd, quick=True)
    assert everything(model) == before
    es.recommend(objective, sgd, train=[torch.eye(2)], budget=60)
    assert everything(model) == before


def test_it_is_put_back_after_an_error_too() -> None:
    model = Busy()
    before = everything(model)

    def failing(model: Any, x: Any) -> Tensor:
        square(model, x)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        es.measure(es.Objective(model, failing, torch.eye(2)))
    assert everything(model) == before


def test_the_same_objects_are_put_back_not_others() -> None:
    model = Busy()
    held = [model.log, model.cache, model.nested["a"], model.running, model.memory, model.linear.weight]
    inner = model.nested["a"][0]
    es.measure(es.Objective(model, square, torch.eye(2)))
    now = [model.log, model.cache, model.nested["a"], model.running, model.memory, model.linear.weight]
    assert all(a is b for a, b in zip(held, now, strict=True))
    assert model.nested["a"][0] is inner


def test_a_gradient_penalty_leaves_the_batch_without_a_gradient() -> None:
    model, x = nn.Linear(2, 1), torch.eye(2)

    def penalty(model: Any, x: Tensor) -> Tensor:
        x.requires_grad_()
        (slope,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        return slope.square().mean()

    assert es.measure(es.Objective(model, penalty, x)).largest > 0
    assert not x.requires_grad
    assert x.grad is None


def test_a_tensor_too_large_to_copy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "BIG", 8)
    model = Busy()
    kept = Contents(model)
    model.running.mul_(0.5)
    with pytest.warns(UserWarning, match=r"changed a tensor \(shape \(3,\)\)"):
        kept.put_back()
    with pytest.warns(UserWarning, match="make it a buffer"):
        es.measure(es.Objective(Busy(), square, torch.eye(2)))


def test_containers_that_hold_themselves_and_nan_are_no_trouble() -> None:
    model = nn.Linear(1, 1)
    model.loop = [torch.tensor([float("nan")])]  # type: ignore[assignment]
    model.loop.append(model.loop)  # type: ignore[operator,union-attr]
    model.up = {"model": [model]}  # type: ignore[assignment]
    kept = Contents(model)
    kept.put_back()
    assert len(model.loop) == 2  # type: ignore[arg-type]
