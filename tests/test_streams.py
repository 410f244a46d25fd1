"""How much of a stream is taken, and said: endless, unknown, lying and broken lengths; and what that bounds."""

import functools
import itertools
import sys
from collections import UserDict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from eigenstep import InvalidValue, Objective, density, diagnose, limit_now, measure, recommend, trace
from eigenstep.objective.data.stream import STREAM, stated_length

DIM = 3


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).square().mean()


def pair_loss(model: nn.Module, batch: Any) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


def linear() -> nn.Module:
    return nn.Linear(DIM, 1, bias=False).double()


def batches(count: int | None, size: int) -> Iterator[Tensor]:
    """`count` batches, or batches without end."""
    generator = torch.Generator().manual_seed(1)
    for _ in itertools.count() if count is None else range(count):
        yield torch.randn(size, DIM, generator=generator, dtype=torch.float64)


class Stream(IterableDataset[Tensor]):
    """A data set of torch's that can be gone through again, and counts what it gives."""

    def __init__(self, count: int | None = None, size: int = 64, each: bool = False) -> None:
        self.count, self.size, self.each = count, size, each

    def __iter__(self) -> Iterator[Tensor]:
        for batch in batches(self.count, self.size):
            yield from batch if self.each else [batch]


class Plain:
    """The same without torch; its len() is what the test says."""

    def __init__(self, make: Callable[[], Iterator[Any]], length: Any = None) -> None:
        self.make, self.length = make, length

    def __iter__(self) -> Iterator[Any]:
        return self.make()


class Stated(Plain):
    def __len__(self) -> int:
        if isinstance(self.length, int):
            return self.length
        raise self.length


def curvature(data: list[Tensor]) -> float:
    """The largest eigenvalue of 2 X'X / n, the Hessian of the mean square of X w."""
    x = torch.cat(data)
    return float(torch.linalg.eigvalsh(2 * x.T @ x / len(x)).max())


ENDLESS = {
    "data set": lambda: Stream(),
    "loader of batches": lambda: DataLoader(Stream(), batch_size=None),
    "loader of samples": lambda: DataLoader(Stream(each=True), batch_size=64),
    "loader with a worker": lambda: DataLoader(Stream(each=True), batch_size=64, num_workers=1),
    "re-iterable": lambda: Plain(functools.partial(batches, None, 64)),
    "no length": lambda: Stated(functools.partial(batches, None, 64), TypeError("endless")),
    "not implemented": lambda: Stated(functools.partial(batches, None, 64), NotImplementedError()),
    "length of the user's own trouble": lambda: Stated(functools.partial(batches, None, 64), OSError("no manifest")),
    "length that lies": lambda: Stated(functools.partial(batches, None, 64), 10),
    "generator function": lambda: functools.partial(batches, None, 64),
}


@pytest.mark.parametrize("make", ENDLESS.values(), ids=ENDLESS)
def test_an_endless_stream_is_taken_up_to_4096_samples(make: Callable[[], Any]) -> None:
    found = measure(Objective(linear(), loss, make()))
    taken = found.provenance["samples"]
    assert taken["taken"] == STREAM == 64 * taken["batches"] and taken["of"] is None and taken["whole"] is None
    right = curvature(list(batches(STREAM // 64, 64)))
    assert found.largest == pytest.approx(right, rel=1e-6)
    said = [note for note in found.notes if note.startswith("data: the first 4,096 samples (64 batches)")]
    assert len(said) == 1 and "unknown length" in said[0] and "samples=" in said[0]
    assert ("its len() says 10 batches" in said[0]) == (taken["of_batches"] == 10)


def test_a_cycle_in_a_re_iterable_ends_too() -> None:
    five = list(batches(5, 32))
    found = measure(Objective(linear(), loss, Plain(lambda: itertools.cycle(five))))
    assert found.provenance["samples"]["taken"] == STREAM
    repeated = list(itertools.islice(itertools.cycle(five), STREAM // 32))
    assert found.largest == pytest.approx(curvature(repeated), rel=1e-6)


@pytest.mark.parametrize("forever", [itertools.count(), itertools.cycle([1]), batches(None, 4), zip(itertools.count())])
def test_a_live_endless_iterator_is_refused_without_reading_it(forever: Iterator[Any]) -> None:
    with pytest.raises(InvalidValue, match="read only once"):
        Objective(linear(), loss, forever)


def test_other_functions_are_refused_with_the_remedy() -> None:
    with pytest.raises(InvalidValue, match="a function that yields batches"):
        Objective(linear(), loss, lambda: batches(None, 4))


@pytest.mark.parametrize("length", [TypeError(), 7, 5, 9])
def test_a_stream_that_ends_before_is_taken_whole_whatever_its_length_says(length: Any) -> None:
    found = measure(Objective(linear(), loss, Stated(functools.partial(batches, 7, 64), length)))
    assert found.provenance["samples"]["taken"] == 7 * 64 and found.provenance["samples"]["whole"] is True
    assert found.largest == pytest.approx(curvature(list(batches(7, 64))), rel=1e-6)
    lies = [note for note in found.notes if note.startswith("data: its len() says")]
    assert lies == ([f"data: its len() says {length} batches, it gave 7, which were all taken"] * (length in (5, 9)))


def test_of_a_known_length_all_is_taken() -> None:
    x = torch.cat(list(batches(80, 64)))
    loader = DataLoader(TensorDataset(x), batch_size=64)
    objective = Objective(linear(), lambda model, batch: loss(model, batch[0]), loader)
    assert measure(objective).provenance["samples"] == {
        **{"taken": 5120, "of": 5120, "batches": 80, "of_batches": 80, "whole": True}
    }
    assert not [note for note in objective.notes if note.startswith("data")]
    stated = Objective(linear(), loss, Stated(functools.partial(batches, 80, 64), 80))
    assert measure(stated).provenance["samples"]["taken"] == 5120


def test_a_stated_length_is_believed_and_what_goes_on_after_it_left() -> None:
    found = measure(Objective(linear(), loss, Stated(functools.partial(batches, None, 64), 80)))
    assert found.provenance["samples"]["taken"] == 5120
    assert "its len() says 80 batches, and it goes on" in " ".join(found.notes)


def test_a_length_that_means_endless_is_refused_with_the_remedy() -> None:
    objective = Objective(linear(), loss, Stated(functools.partial(batches, None, 64), sys.maxsize))
    with pytest.raises(InvalidValue, match=r"years; give samples="):
        measure(objective)
    objective = Objective(linear(), loss, Stated(functools.partial(batches, None, 64), sys.maxsize), samples=640)
    assert measure(objective).provenance["samples"]["taken"] == 640


SOURCES = {
    "list": lambda: list(batches(50, 32)),
    "stream": lambda: Plain(functools.partial(batches, None, 32)),
    "stated": lambda: Stated(functools.partial(batches, 50, 32), 50),
    "loader": lambda: DataLoader(torch.cat(list(batches(50, 32))), batch_size=32),  # type: ignore[arg-type]
    "one batch": lambda: torch.cat(list(batches(50, 32))),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("asked", "taken"), [(320, 320), (100, 96), (10, 10)])
def test_samples_cuts_any_source(source: str, asked: int, taken: int) -> None:
    taken = asked if source == "one batch" else taken
    objective = Objective(linear(), loss, SOURCES[source](), samples=asked)
    found = measure(objective)
    assert found.provenance["samples"]["taken"] == taken
    assert found.provenance["samples"]["whole"] is (None if source == "stream" else False)
    assert found.largest == pytest.approx(curvature([torch.cat(list(batches(50, 32)))[:taken]]), rel=1e-6)
    note = next(note for note in objective.notes if note.startswith("data: "))
    assert f"the first {taken:,}" in note and f"as samples={asked} asks" in note
    assert (" of 1,600 samples" in note) == (source in ("list", "loader", "one batch"))


def test_samples_more_than_there_are_is_all() -> None:
    for source in ("list", "stated", "loader", "one batch"):
        objective = Objective(linear(), loss, SOURCES[source](), samples=10**6)
        assert measure(objective).provenance["samples"]["taken"] == 1600
        assert not [note for note in objective.notes if note.startswith("data")]


def test_a_batch_is_cut_in_all_its_parts_or_not_at_all() -> None:
    x, y = torch.cat(list(batches(1, 32))), torch.ones(32, 1, dtype=torch.float64)
    right = measure(Objective(linear(), pair_loss, (x[:10], y[:10]))).largest
    assert measure(Objective(linear(), pair_loss, (x, y), samples=10)).largest == pytest.approx(right)
    for batch in ({"x": x, "y": y}, UserDict(x=x, y=y)):
        objective = Objective(linear(), lambda m, b: pair_loss(m, (b["x"], b["y"])), batch, samples=10)
        assert measure(objective).largest == pytest.approx(right)
        assert len(batch["x"]) == 32  # the user's own
    words = Objective(linear(), lambda m, b: pair_loss(m, b[:2]), (x, y, ["word"] * 32), samples=10)
    assert measure(words).provenance["samples"]["taken"] in (10, 32)
    strange = Objective(linear(), lambda m, b: pair_loss(m, b[:2]), (x, y, object()), samples=10)
    assert measure(strange).provenance["samples"]["taken"] == 32


def test_memory_ends_a_stream() -> None:
    bytes_each = 64 * DIM * 8
    objective = Objective(linear(), loss, Plain(functools.partial(batches, None, 64)), memory=2 * 20 * bytes_each)
    assert measure(objective).provenance["samples"]["taken"] == 20 * 64
    assert "as many as 30.7 KB hold" in " ".join(objective.notes)
    more = Objective(
        linear(), loss, Plain(functools.partial(batches, None, 64)), memory=2 * 20 * bytes_each, samples=64 * 40
    )
    assert more.batches.kept is None and measure(more).provenance["samples"]["taken"] == 64 * 40  # read at each pass
    assert measure(more).largest == pytest.approx(curvature(list(batches(40, 64))), rel=1e-6)


def test_a_first_batch_larger_than_all_is_taken() -> None:
    found = measure(Objective(linear(), loss, Plain(functools.partial(batches, None, 10_000))))
    assert found.provenance["samples"]["taken"] == 10_000 and found.provenance["samples"]["batches"] == 1


def test_batches_that_cannot_be_counted_end_in_the_remedy() -> None:
    def words() -> Iterator[dict[str, str]]:
        while True:
            yield {"text": "a word"}

    def constant(model: nn.Module, batch: Any) -> Tensor:
        return model(torch.ones(1, DIM, dtype=torch.float64)).square().mean()

    with pytest.raises(InvalidValue, match="batch_size="):
        measure(Objective(linear(), constant, words))
    found = measure(Objective(linear(), constant, words, batch_size=64))
    assert found.provenance["samples"]["taken"] == STREAM and found.largest == pytest.approx(2 * DIM)


def test_the_users_error_midway_comes_through_and_leaves_things_as_they_were() -> None:
    def broken() -> Iterator[Tensor]:
        yield from batches(3, 8)
        raise OSError("the disk is gone")

    objective = Objective(linear(), loss, broken)
    before = torch.get_rng_state()
    for _ in range(2):
        with pytest.raises(OSError, match="the disk is gone"):
            measure(objective)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_stream_that_does_not_repeat_is_refused() -> None:
    calls = itertools.count()

    def other() -> Iterator[Tensor]:
        shift = next(calls)
        yield from (batch + shift for batch in batches(None, 64))

    with pytest.raises(InvalidValue, match="a second pass differs"):
        measure(Objective(linear(), loss, other))


def test_asking_a_loader_for_its_length_leaves_it_as_it_was() -> None:
    class Known(Stream):
        def __len__(self) -> int:
            return 2 * 64

    loader = DataLoader(Known(4, 64, each=True), batch_size=64)  # torch warns of more than len() once it was asked
    before = dict(vars(loader))
    assert stated_length(loader) == 2
    assert vars(loader) == before
    assert measure(Objective(linear(), loss, loader)).provenance["samples"]["taken"] == 4 * 64


@pytest.mark.parametrize("make", [ENDLESS["loader of samples"], ENDLESS["generator function"]])
def test_an_endless_stream_to_train_on_is_read_as_far_as_needed(make: Callable[[], Any]) -> None:
    model = linear()
    objective = Objective(model, loss, list(batches(2, 64)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    assert recommend(objective, optimizer, train=make(), budget=60).steps <= 60
    spread = diagnose(objective, optimizer, train=make(), batches=3).spread
    assert spread is not None and spread.samples == (64, 64, 64)
    assert spread.high == pytest.approx(0.01 * max(curvature([b]) for b in batches(3, 64)) / 2, rel=0.06)


def test_weights_for_all_batches_may_be_given_where_some_are_taken() -> None:
    data, weight = list(batches(6, 64)), [3.0, 1.0, 0.0, 5.0, 5.0, 5.0]
    found = measure(Objective(linear(), loss, data, weight=weight, samples=64 * 3))
    right = sum(w * 2 * x.T @ x / len(x) for w, x in zip(weight[:3], data[:3], strict=True)) / 4
    assert found.largest == pytest.approx(float(torch.linalg.eigvalsh(right).max()), rel=1e-6)
    with pytest.raises(InvalidValue, match="entries"):
        measure(Objective(linear(), loss, data, weight=weight[:2], samples=64 * 3))


def test_every_result_says_what_was_taken() -> None:
    model = linear()
    objective = Objective(model, loss, Plain(functools.partial(batches, None, 64)), samples=256)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    results = [measure(objective), density(objective, 2, 3), trace(objective, 6), limit_now(objective, optimizer)]
    results += [diagnose(objective, optimizer, batches=0), recommend(objective, optimizer, budget=60)]
    for result in results:
        notes = result.provenance["notes"] if hasattr(result, "provenance") else result.notes
        assert any(note.startswith("data: the first 256 samples") for note in notes), type(result)
    assert "the first 256 samples" in str(results[1])
    edge = results[3].edge
    assert edge.provenance["samples"]["taken"] == 256


def test_the_largest_eigenvalue_of_a_random_part_is_on_average_not_below_the_wholes() -> None:
    """The sentence of the note, by a plain loop: Jensen, and how far draws lie apart falls as 1 / sqrt(n)."""
    x = torch.cat(list(batches(40, 64)))
    whole, spread = curvature([x]), []
    generator = torch.Generator().manual_seed(3)
    for size in (16, 64, 256):
        values = torch.tensor([curvature([x[torch.randperm(len(x), generator=generator)[:size]]]) for _ in range(300)])
        error = float(values.std()) / 300**0.5
        assert float(values.mean()) > whole - 2 * error
        spread.append(float(values.std()))
    assert spread[0] / spread[1] == pytest.approx(2, rel=0.35) and spread[1] / spread[2] == pytest.approx(2, rel=0.35)


@pytest.mark.parametrize("bad", [0, -1, True, 1.5, "all"])
def test_samples_must_be_a_count(bad: Any) -> None:
    with pytest.raises(InvalidValue, match="samples="):
        Objective(linear(), loss, list(batches(2, 4)), samples=bad)
