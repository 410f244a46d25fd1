"""An objective: what it refuses and how, how it weighs its data, and that it leaves everything as it was."""

import os
import pickle
import random
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
from contracts.snapshot import Snapshot
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Sampler, TensorDataset
from transformers import BatchEncoding

from eigenstep.curvature import as_operator, density, measure, trace
from eigenstep.errors import EigenstepError, InvalidValue, UnknownName, Unsupported
from eigenstep.objective import Objective


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Tanh(), nn.Linear(6, 3))


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def loss(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def points(n: int = 12, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(n, 4, generator=g).to(dtype), torch.randint(3, (n,), generator=g)


class Own(Sampler[int]):
    """A sampler with state of its own, in one of several places."""

    def __init__(self, kind: str) -> None:
        self.kind, self.epoch = kind, 0
        self.queue, self.order, self.holder = deque(range(12)), torch.arange(12), Holder()

    def __len__(self) -> int:
        return 12

    def __iter__(self) -> Any:
        order = list(range(12))
        if self.kind == "counter":
            self.epoch += 1
            order = [(i + self.epoch) % 12 for i in order]
        elif self.kind == "deque":
            self.queue.rotate(1)
            order = list(self.queue)
        elif self.kind == "tensor":
            order = self.order.add_(1).remainder_(12).tolist()
        elif self.kind == "nested":
            self.holder.random.shuffle(order)
        elif self.kind == "log":
            self.holder.seen.append(1)
        return iter(order)


class Holder:
    def __init__(self) -> None:
        self.random, self.seen = random.Random(1), [0]


def loader(kind: str) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*points()), batch_size=5, sampler=Own(kind))


class Live:
    """Re-iterable in name only: a live iterator lies inside."""

    def __init__(self) -> None:
        self.parts = {"live": [iter([points(), points()])]}

    def __iter__(self) -> Any:
        yield from self.parts["live"][0]


class Shuffled:
    """A data source with another set at every pass."""

    def __iter__(self) -> Any:
        yield torch.rand(5, 4), torch.randint(3, (5,))


def half_frozen() -> nn.Module:
    model = network()
    for p in model.parameters():
        p.requires_grad_(False)
    return model


def noisy(model: nn.Module, batch: Any) -> Tensor:
    return loss(model, batch) * (1 + torch.rand(()))


def in_place(model: nn.Module, batch: Any) -> Tensor:
    with torch.no_grad():
        model[0].weight.mul_(1.01)
    return loss(model, batch)


class Unrepeatable:
    def __iter__(self) -> Any:
        yield torch.frombuffer(bytearray(os.urandom(48)), dtype=torch.uint8).float().view(12, 4), points()[1]


def mean_missing(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


BAD: dict[str, tuple[Callable[[nn.Module], Any], type[Exception], str]] = {
    "not scalar": (lambda m: Objective(m, mean_missing, points()), InvalidValue, "a scalar is needed"),
    "a float": (lambda m: Objective(m, lambda m, b: loss(m, b).item(), points()), InvalidValue, "not .item()"),
    "not finite": (lambda m: Objective(m, lambda m, b: loss(m, b) / 0, points()), InvalidValue, "not finite"),
    "detached": (lambda m: Objective(m, lambda m, b: loss(m, b).detach(), points()), InvalidValue, "does not depend"),
    "random": (lambda m: Objective(m, noisy, points()), InvalidValue, "dropout='fixed'"),
    "generator": (lambda m: Objective(m, loss, (p for p in [points()])), InvalidValue, "only once"),
    "empty": (lambda m: Objective(m, loss, []), InvalidValue, "no batches"),
    "dataset": (lambda m: Objective(m, loss, TensorDataset(*points())), InvalidValue, "DataLoader"),
    "sizes": (
        lambda m: Objective(m, lambda m, b: loss(m, points()) + 0 * b["n"], [{"n": 1}, {"n": 2}]),
        InvalidValue,
        "batch_size=",
    ),
    "mode": (lambda m: Objective(m, loss, points(), "evl"), UnknownName, "did you mean 'eval'"),
    "names": (lambda m: Objective(m, loss, points(), parameters="0.wieght"), UnknownName, "0.weight"),
    "memory": (lambda m: measure(Objective(m, loss, points()), basis=3), InvalidValue, "at least 6"),
    "which": (lambda m: measure(Objective(m, loss, points()), 1, "larges"), UnknownName, "largest"),
    "top": (lambda m: measure(Objective(m, loss, points()), 10**6), InvalidValue, "the operator has"),
    "second batch": (
        lambda m: Objective(m, loss, [points(), (points()[0] * torch.inf, points()[1])]),
        InvalidValue,
        "not finite, on batch 1",
    ),
    "in place": (lambda m: Objective(m, in_place, points()), InvalidValue, "in place"),
    "faint noise": (
        lambda m: Objective(m, lambda m, b: loss(m, b) + 0.01 * torch.rand(()), points()),
        InvalidValue,
        "dif",
    ),
    "unrepeatable": (lambda m: Objective(m, loss, Unrepeatable()), InvalidValue, "second pass differs"),
    "live inside": (lambda m: Objective(m, loss, Live()), InvalidValue, "live list_iterator in .parts"),
    **{
        kind: (lambda m, kind=kind: Objective(m, loss, loader(kind)), EigenstepError, f"Own\\) changes its .{place}")
        for kind, place in {
            "counter": "epoch",
            "deque": "queue",
            "tensor": "order",
            "nested": "holder",
            "log": "holder",
        }.items()
    },
    "wrapped": (lambda m: Objective(nn.DataParallel(m), loss, points()), Unsupported, "plain module"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_input_is_refused_with_a_remedy_and_touches_nothing(name: str) -> None:
    build, kind, words = BAD[name]
    model = network()
    loss(model, points()).backward()
    before = Snapshot(model)
    with pytest.raises(kind, match=words) as caught:
        measure(build(model))
    assert isinstance(caught.value, EigenstepError)
    before.check(touched=name == "in place")  # then the values are back, their version counter cannot be


def test_samplers_that_are_refused_are_left_as_they_were() -> None:
    for kind in ("counter", "deque", "tensor", "nested", "log"):
        data = loader(kind)
        before = pickle.dumps(data.sampler)
        with pytest.raises(EigenstepError):
            measure(Objective(network(), loss, data))
        assert pickle.dumps(data.sampler) == before, kind
    live = Live()
    with pytest.raises(InvalidValue):
        Objective(network(), loss, live)
    assert len(list(live)) == 2


def test_a_failure_in_the_middle_of_a_pass_puts_the_loader_back_at_once() -> None:
    generator = torch.Generator().manual_seed(5)
    data = DataLoader(TensorDataset(*points()), batch_size=5, shuffle=True, generator=generator)
    model = network()
    objective = Objective(model, loss, data, memory=1.0)
    assert objective.size
    before = Snapshot(model, generator)
    objective.loss = lambda m, b: loss(m, b) / (len(b[0]) == 5)
    with pytest.raises(InvalidValue, match="not finite, on batch 2"):
        measure(objective)
    before.check()


def test_lazy_modules_are_refused_and_a_subset_drawn_by_the_loader_is_said() -> None:
    with pytest.raises(InvalidValue, match="run one batch"):
        Objective(nn.LazyLinear(3), loss, points())
    data = DataLoader(TensorDataset(*points()), batch_size=5, shuffle=True, drop_last=True)
    assert any("10 of 12 samples" in note for note in measure(Objective(network(), loss, data)).notes)


class Popping(nn.Module):
    """Counts its calls, keeps its last output, and is fed by a loss that takes the labels out of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls, self.last = nn.Linear(4, 3), 0, None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last = self.layer(x)
        return self.last


@pytest.mark.parametrize("kind", [dict, BatchEncoding, list])
def test_batches_and_modules_that_keep_state_stay_whole(kind: Any) -> None:
    x, y = points()
    batch = kind({"x": x, "labels": y}) if kind is not list else [x, y]
    last = "labels" if kind is not list else 1
    model = Popping()

    def take(model: nn.Module, batch: Any) -> Tensor:
        labels = batch.pop(last)
        return F.cross_entropy(model(batch["x" if kind is not list else 0]), labels)

    result = measure(Objective(model, take, [batch, batch]), 2)
    assert result.certified and len(batch) == 2
    assert model.calls == 0 and model.last is None
    assert abs(result.largest - measure(Objective(model.layer, loss, (x, y))).largest) < 1e-5


@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_old_style_weight_norm_keeps_its_computed_weight() -> None:
    model = nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 3)))
    weight = model[0].weight
    exact = measure(Objective(model, loss, points()), tol=1e-4).largest
    near = measure(Objective(model, loss, points()), tol=1e-3, method="differences").largest
    assert model[0].weight is weight
    assert abs(near - exact) < 1e-2 * exact


def test_no_trainable_parameters() -> None:
    with pytest.raises(InvalidValue, match="no trainable parameters"):
        Objective(half_frozen(), loss, points())


def test_everything_is_left_as_it_was() -> None:
    model = network()
    loss(model, points()).backward()
    model[1].eval()
    generator = torch.Generator().manual_seed(5)
    loader = DataLoader(TensorDataset(*points()), batch_size=5, shuffle=True, generator=generator)
    before = Snapshot(model, generator)
    objective = Objective(model, loss, loader)
    measure(objective, 2, vectors=True)
    before.check()
    density(objective, probes=2, steps=4)
    trace(objective, 8)
    before.check()
    with pytest.raises(ZeroDivisionError):
        measure(objective, progress=lambda p: 1 / 0)
    before.check()


def test_interrupts_restore_and_return_what_has_converged() -> None:
    model = network()
    before = Snapshot(model)
    calls = [0]

    def stop_late(progress: Any) -> None:
        calls[0] += 1
        if calls[0] == 12:
            raise KeyboardInterrupt

    result = measure(Objective(model, loss, points()), 3, tol=1e-3, progress=stop_late)
    assert result.provenance["interrupted"] and not result.converged and not result.certified
    assert "interrupted" in repr(result)
    assert bool((result.residuals <= 1e-3 * result.values.abs()).all())
    before.check()

    def interrupted(model: nn.Module, batch: Any) -> Tensor:
        model(batch[0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(Objective(model, interrupted, points()))
    before.check()


def test_an_interrupted_density_keeps_the_finished_probes() -> None:
    calls = [0]

    def product(v: Tensor) -> Tensor:
        calls[0] += 1
        if calls[0] == 11:
            raise KeyboardInterrupt
        return v * torch.arange(1.0, 21.0, dtype=v.dtype)

    result = density(as_operator(product, 20), probes=4, steps=4)
    assert result.provenance["probes"] == 2 and not result.provenance["converged"]
    assert abs(float(result.weights.sum()) - 1) < 1e-12
    calls[0] = 9
    with pytest.raises(KeyboardInterrupt):
        density(as_operator(product, 20), probes=4, steps=4)


def test_unequal_batches_equal_one_whole_batch() -> None:
    x, y = points(1797, torch.float64)
    whole = measure(Objective(plain(), loss, (x, y)), 3, tol=1e-9)
    parts = [(x[:1700], y[:1700]), (x[1700:], y[1700:])]
    for data in (parts, parts[::-1], DataLoader(TensorDataset(x, y), batch_size=97, shuffle=True)):
        cut = measure(Objective(plain(), loss, data), 3, tol=1e-9)
        assert torch.allclose(cut.values, whole.values, rtol=1e-11)


def test_sums_add_up_and_given_sizes_weigh() -> None:
    x, y = points(12, torch.float64)
    total = lambda m, b: F.cross_entropy(m(b[0]), b[1], reduction="sum")  # noqa: E731
    whole = measure(Objective(plain(), total, (x, y), reduction="sum")).largest
    cut = measure(Objective(plain(), total, [(x[:9], y[:9]), (x[9:], y[9:])], reduction="sum")).largest
    mean = measure(Objective(plain(), loss, [(x[:9], y[:9]), (x[9:], y[9:])], batch_size=[9, 3])).largest
    assert abs(cut - whole) < 1e-9 * whole
    assert abs(12 * mean - whole) < 1e-9 * whole
    wrong = measure(Objective(plain(), loss, [(x[:9], y[:9]), (x[9:], y[9:])], batch_size=[1, 1])).largest
    assert abs(12 * wrong - whole) > 1e-4 * whole


def test_too_little_memory_streams_and_gives_the_same() -> None:
    x, y = points(64, torch.float64)
    loader = DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True)
    kept = measure(Objective(plain(), loss, loader))
    streamed = measure(Objective(plain(), loss, loader, memory=10.0))
    assert streamed.provenance["graphs_kept"] == 0 and kept.provenance["graphs_kept"] == 4
    assert abs(streamed.largest - kept.largest) < 1e-10
    for memory in (1.0, None):
        with pytest.raises(InvalidValue, match="second pass differs from the first"):
            measure(Objective(plain(), loss, _Changing(), memory=memory))


class _Changing:
    """Re-iterable, but each pass is another set."""

    passes = 0

    def __iter__(self) -> Any:
        self.passes += 1
        x, y = points(6, torch.float64)
        yield x + self.passes, y


def test_dropout_is_off_or_held_and_the_result_says_which() -> None:
    model, bare = network(), network()
    bare[2].p = 0.0
    off = measure(Objective(model, loss, points()))
    assert "dropout switched off" in off.notes
    assert abs(off.largest - measure(Objective(bare, loss, points())).largest) < 1e-5 * off.largest
    held = [measure(Objective(model, loss, points(), dropout="fixed", seed=s)) for s in (0, 0, 1)]
    assert any("one mask" in note for note in held[0].notes)
    assert held[0].largest == held[1].largest != held[2].largest


def test_eval_mode_on_batchnorm_is_labelled() -> None:
    result = measure(Objective(network(), loss, points(), "eval"))
    assert any("not the curvature that your optimiser sees" in note for note in result.notes)


def test_changed_parameters_are_noticed() -> None:
    model = plain()
    objective = Objective(model, loss, points(12, torch.float64))
    first = measure(objective).largest
    with torch.no_grad():
        model[0].weight.mul_(2)
    assert abs(measure(objective).largest - first) > 1e-3 * first
