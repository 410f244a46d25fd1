"""The play that a verdict rests on, against plain loops: schedules, the user's own loop, time, and what it advises."""

import copy
import itertools
import math
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from contracts.snapshot import Snapshot
from torch import Tensor, nn
from torch.nn import functional as F

import eigenstep as es
from eigenstep.diagnosis.evidence.play import Play
from eigenstep.diagnosis.sentence import sentence_of
from eigenstep.diagnosis.story import Rehearsed, story
from eigenstep.diagnosis.verdict import VerdictInputs, code_of

Batch = tuple[Tensor, Tensor]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))


def batches(number: int = 4) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(16 * number, 6, generator=generator)
    y = (x @ torch.randn(6, 3, generator=generator)).argmax(1)
    return list(zip(x.split(16), y.split(16), strict=True))


def entropy(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def squares(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch[0]), F.one_hot(batch[1], 3).float())


def whole(model: nn.Module, data: list[Batch], loss: Any = entropy) -> float:
    with torch.no_grad():
        return sum(float(loss(model, batch)) for batch in data) / len(data)


def plain(
    model: nn.Module, optimizer: torch.optim.Optimizer, data: list[Batch], updates: int, lrs: Any, loss: Any = entropy
) -> list[float]:
    """The loss over all data before each update and after the last, each update at its own lr."""
    seen = [whole(model, data, loss)]
    for t, batch in zip(range(updates), itertools.cycle(data), strict=False):
        optimizer.param_groups[0]["lr"] = lrs(t)
        optimizer.zero_grad()
        loss(model, batch).backward()
        optimizer.step()
        seen.append(whole(model, data, loss))
    return seen


def asked(
    model: nn.Module, optimizer: torch.optim.Optimizer, data: list[Batch], loss: Any = entropy, **how: Any
) -> es.Diagnosis:
    return es.diagnose(es.Objective(model, loss, data), optimizer, train=data, quick=True, batches=2, **how)


def test_the_play_is_the_plain_loop_with_its_schedule_and_warm_up() -> None:
    model, data = net(), batches()
    adam = torch.optim.Adam(model.parameters(), lr=0.02)
    found = asked(model, adam, data, schedule="cosine", warmup=10, horizon=100)

    def lr(t: int) -> float:
        return 0.02 * ((t + 1) / 11 if t < 10 else (1 + math.cos(math.pi * (t - 10) / 90)) / 2)

    run = plain(model, adam, data, 50, lr)
    play = found.play
    assert play is not None and play.updates == 50 and play.schedule == "cosine after a warm-up of 10 updates"
    assert list(play.losses) == pytest.approx([run[p] for p in play.points], rel=1e-5)
    assert found.verdict == "safe" and play.trains and set(play.ratios) == {0, 5, 20, 50}
    assert play.ratios[20] * play.limits[20] == pytest.approx(lr(20), rel=1e-6)


def test_an_attached_scheduler_is_read_and_left_alone() -> None:
    model, data = net(), batches()
    sgd = torch.optim.SGD(model.parameters(), lr=0.4)
    scheduler = torch.optim.lr_scheduler.StepLR(sgd, 20, gamma=0.1)
    before, state = Snapshot(model, sgd), copy.deepcopy(scheduler.state_dict())
    found = asked(model, sgd, data)
    before.check()
    assert scheduler.state_dict() == state and found.play is not None and found.play.schedule == "StepLR"
    run = plain(model, sgd, data, 50, lambda t: 0.4 * 0.1 ** (t // 20))
    assert list(found.play.losses[:11]) == pytest.approx([run[p] for p in found.play.points[:11]], rel=1e-5)


def test_a_schedulers_factory_is_played_with_its_own_lrs() -> None:
    model, data = net(), batches()

    def make(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=60, cycle_momentum=False)

    sgd = torch.optim.SGD(model.parameters(), lr=1e-3)
    found = asked(model, sgd, data, schedule=make, horizon=60)
    assert found.play is not None and found.play.lr == pytest.approx(0.5, rel=1e-6)
    twin = copy.deepcopy(model)
    optimizer = torch.optim.SGD(twin.parameters(), lr=1e-3)
    scheduler, lrs = make(optimizer), []
    for _ in range(50):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    run = plain(twin, torch.optim.SGD(twin.parameters(), lr=1.0), data, 50, lambda t: lrs[t])
    early = [p for p in found.play.points if p <= 50]
    assert list(found.play.losses[: len(early)]) == pytest.approx([run[p] for p in early], rel=1e-5)


def test_the_users_own_loop_is_what_is_played() -> None:
    model, data = net(), batches()
    sgd = torch.optim.SGD(model.parameters(), lr=20.0)
    assert asked(model, sgd, data, squares).failing

    def loop(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> Tensor:
        optimizer.zero_grad()
        loss = squares(model, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.005)
        optimizer.step()
        return loss.detach()

    before = Snapshot(model, sgd)
    found = asked(model, sgd, data, squares, loop=loop)
    before.check()
    assert not found.failing and found.play is not None and found.play.trains
    with pytest.raises(es.InvalidValue, match="clip= beside loop="):
        asked(model, sgd, data, loop=loop, clip=1.0)


def looped(factor: float = 1.0, clip: float | None = None, again: bool = False) -> Any:
    """A loop whose gradients are those of `factor` times the loss, clipped, or the batch's own twice."""

    def loop(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> Tensor:
        optimizer.zero_grad()
        loss = entropy(model, batch)
        (factor * loss).backward()
        if again:
            (entropy(model, batch) / 2 + sum(p.square().sum() for p in model.parameters())).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return loop


@pytest.mark.parametrize(
    ("method", "factor"),
    [
        (torch.optim.SGD, 0.25),
        (torch.optim.AdamW, 100.0),
        pytest.param(torch.optim.SGD, 100.0, marks=pytest.mark.slow),
        pytest.param(torch.optim.AdamW, -1.0, marks=pytest.mark.slow),
    ],
)
def test_a_loop_that_scales_the_loss_has_another_limit_and_none_is_claimed(method: Any, factor: float) -> None:
    model, data = net(), batches()
    optimizer = method(model.parameters(), lr=1e-3)
    before = Snapshot(model, optimizer)
    found = asked(model, optimizer, data, loop=looped(factor), horizon=30)
    before.check()
    assert found.limit is None and found.critical is None and "largest stable" not in str(found)
    assert found.reasons["ratio"].startswith(f"the loop's gradients are {factor:g} times the objective's")
    assert found.notes[0] == found.reasons["ratio"] and found.play is not None and not found.play.limits
    assert "tried on copies" in found.sentence
    if factor > 0:  # the play is the loop's
        twin = copy.deepcopy(model)
        scaled = lambda model, batch: factor * entropy(model, batch)  # noqa: E731
        run = plain(twin, method(twin.parameters(), lr=1e-3), data, 30, lambda _: 1e-3, scaled)
        early = found.play.points
        assert list(found.play.losses) == pytest.approx([run[p] / factor for p in early], rel=1e-4)


def test_only_a_fixed_multiple_drops_the_limit() -> None:
    model, data = net(), batches()
    sgd = torch.optim.SGD(model.parameters(), lr=1e-2)
    plain_one, own = asked(model, sgd, data, horizon=20), asked(model, sgd, data, loop=looped(), horizon=20)
    assert own.ratio == plain_one.ratio and own.sentence == plain_one.sentence
    assert not any("loop's gradients" in note for note in own.notes)
    for loop in (looped(clip=0.005), looped(again=True)):
        found = asked(model, sgd, data, loop=loop, horizon=20)
        assert found.ratio == plain_one.ratio and "no fixed multiple of the objective's" in found.notes[0]
        assert not any("give clip=" in note for note in found.notes)  # which is refused beside loop=


def test_what_is_advised_in_place_of_an_lr_that_fails_does_hold() -> None:
    model, data = net(), batches()
    for optimizer in (torch.optim.SGD(model.parameters(), lr=50.0), torch.optim.Adam(model.parameters(), lr=20.0)):
        found = asked(model, optimizer, data, squares)
        assert found.verdict == "unstable" and found.play is not None and found.play.fails
        lower = float(found.sentence.split("lower the lr to about ")[1].split(":")[0])
        (row,) = [change for change in found.changes if change.name == "tried on copies"]
        assert row.lr == pytest.approx(lower, rel=5e-3)
        assert all(change.rate is None or change.rate >= 1 for change in found.changes if change.name == "as it is")
        for lr, holds in ((optimizer.param_groups[0]["lr"], False), (lower, True)):
            twin = copy.deepcopy(model)
            run = plain(twin, type(optimizer)(twin.parameters(), lr=lr), data, 400, lambda _, lr=lr: lr, squares)
            assert (run[-1] < 0.9 * run[0]) == holds, (optimizer, lr, run[0], run[-1])


def test_an_lr_that_crawls_is_raised_to_one_that_does_better() -> None:
    model, data = net(), batches()
    found = asked(model, torch.optim.Adam(model.parameters(), lr=1e-7), data)
    assert found.verdict == "crawling"
    higher = float(found.sentence.split("up to about ")[1].split(":")[0])
    twin = copy.deepcopy(model)
    run = plain(twin, torch.optim.Adam(twin.parameters(), lr=higher), data, 50, lambda _: higher)
    assert run[-1] < 0.9 * run[0] and any(change.lr == pytest.approx(higher, rel=0.01) for change in found.changes)


def lambda_lr(optimizer: torch.optim.Optimizer, factor: Any) -> Any:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


@pytest.mark.parametrize("top", [1.0, 3.0])
def test_a_warm_up_that_begins_at_0_is_played_and_its_peak_is_judged(top: float) -> None:
    model, data = net(), batches()

    def factor(t: int) -> float:
        return top * min(1.0, t / 5)

    still = asked(model, torch.optim.SGD(model.parameters(), lr=0.1 * top), data, horizon=30)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = lambda_lr(sgd, factor)
    before, state = Snapshot(model, sgd), {**scheduler.state_dict(), "lr_lambdas": None}
    found = asked(model, sgd, data, horizon=30)
    before.check()
    assert {**scheduler.state_dict(), "lr_lambdas": None} == state and sgd.param_groups[0]["lr"] == 0
    assert found.verdict == still.verdict == "safe" and found.ratio == pytest.approx(still.ratio)
    assert found.lr == pytest.approx(0.1 * top) and "nothing moves" not in str(found)
    assert found.play is not None and found.play.lr == pytest.approx(0.1 * top)
    run = plain(model, sgd, data, 30, lambda t: 0.1 * factor(t))
    assert list(found.play.losses) == pytest.approx([run[p] for p in found.play.points], rel=1e-5)


def test_only_an_lr_that_stays_at_0_waits() -> None:
    model, data = net(), batches()
    found = asked(model, torch.optim.SGD(model.parameters(), lr=0.0), data)
    assert found.verdict == "waiting" and f"largest stable lr is {found.max_stable_lr:.3g}" in found.sentence


def test_what_there_was_no_time_for_is_not_said_to_be_0() -> None:
    model, data = net(), batches()

    def slow(model: nn.Module, batch: Batch) -> Tensor:
        time.sleep(0.05)
        return entropy(model, batch)

    objective = es.Objective(model, slow, data)
    for lr, codes in ((0.1, {"safe", "unknown"}), (0.0, {"waiting"})):
        found = es.diagnose(objective, torch.optim.SGD(model.parameters(), lr=lr), seconds=3)
        assert found.limit is None and "give more seconds=" in found.reasons["ratio"] and found.verdict in codes
        assert "stable lr is 0" not in found.sentence and ("Waiting" in found.sentence) == (lr == 0)
    assert "was not measured" in found.sentence


def test_nothing_known_is_no_verdict_on_the_lr() -> None:
    assert code_of(VerdictInputs()) == "unknown" and code_of(VerdictInputs(moving=False)) == "waiting"
    assert sentence_of("unknown", VerdictInputs(), 0.1, None).startswith("Not judged, so give more seconds=")


def test_time_drops_whole_parts_and_names_them() -> None:
    model, data = net(), batches()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    objective = es.Objective(model, entropy, data)
    full, short = es.diagnose(objective, sgd, seconds=None), es.diagnose(objective, sgd, seconds=1e-3)
    assert full.slow is not None and not any("dropped" in reason for reason in full.reasons.values())
    assert short.slow is None and short.lowest is None and short.verdict == "safe"
    assert all("give more seconds=" in short.reasons[part] for part in ("ratio", "lowest"))
    assert short.play is not None and short.play.updates == 1 and "tried on copies" in short.sentence
    with pytest.raises(es.InvalidValue, match="positive number of seconds"):
        es.diagnose(objective, sgd, seconds=0)


def test_a_recommendation_is_shown_and_joined_to_the_limit() -> None:
    model, data = net(), batches()
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    bare = asked(model, adam, data)
    assert bare.max_stable_lr is not None and "rehearses" in bare.story()
    lr = 3 * bare.max_stable_lr
    found = asked(model, adam, data, recommendation=SimpleNamespace(lr=lr, interval=(lr / 2, lr * 2)))
    assert found.rehearsed == Rehearsed(lr, (lr / 2, lr * 2))
    assert f"past {found.max_stable_lr:.3g}" in found.story() and f"{lr:.3g}" in found.story()
    (row,) = [change for change in found.changes if change.name == "the recommended lr"]
    assert row.lr == lr and found.story() in str(found)
    assert found.sentence.startswith(f"Stable, so raise the lr to {lr:.3g}, which rehearsal found best: ")
    inside = asked(model, adam, data, recommendation=SimpleNamespace(lr=2e-3, interval=(5e-4, 4e-3)))
    assert inside.sentence.startswith("Stable, so keep the lr: ")
    hot = torch.optim.SGD(model.parameters(), lr=50.0)
    told = asked(model, hot, data, squares, recommendation=SimpleNamespace(lr=0.3, interval=(0.1, 0.9)))
    assert told.sentence.startswith("Unstable, so lower the lr to 0.3, which rehearsal found best: ")
    assert asked(model, adam, data, recommendation=SimpleNamespace(lr=None)).rehearsed is None
    with pytest.raises(es.InvalidValue, match="has no lr"):
        asked(model, adam, data, recommendation=object())


def test_the_story_says_no_more_than_its_numbers() -> None:
    assert story(None, None, None) == ""
    assert "needs no warm-up" in story(0.1, None, Rehearsed(0.05))
    assert "past 0.1" in story(0.1, None, Rehearsed(0.5))
    assert "is 0.4" in story(0.1, (50, 0.4), Rehearsed(0.3))
    assert "is 0.05" not in story(0.1, (50, 0.05), Rehearsed(0.3))  # a limit that fell is no reason to go past it
    assert "inf" not in story(math.inf, None, None) + story(math.inf, None, Rehearsed(1.0))


@pytest.mark.parametrize(
    ("losses", "nothing", "fails"),
    [
        ((2.0, 3.0, 1.0, 0.5), 2.0, False),
        ((2.0, 3.0, math.inf), 2.0, True),
        ((2.0, 3.0, 2.1, 2.1), 2.0, True),
        ((2.0, 3.0, 1.97, 1.97), 2.0, True),  # it rose, and has learnt nothing
        ((2.0, 1.999, 1.99, 1.98), 2.0, False),  # slow
        ((0.1, 0.15, 0.12, 0.12), 2.0, False),  # the noise of mini-batches around a trained point
        ((0.1, 0.3, 0.4, 0.3), 2.0, True),
    ],
)
def test_what_a_play_says(losses: tuple[float, ...], nothing: float, fails: bool) -> None:
    assert Play(tuple(range(len(losses))), losses, nothing=nothing).fails is fails


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("seed", 1.5), ("seed", True), ("seconds", "a"), ("seconds", True), ("batches", True), ("horizon", True)),
        *(("clip", True), ("train", 3), ("train", "abc"), ("loop", 3), ("loop", lambda model, optimizer: 0)),
        ("loop", lambda *given, more: 0),
    ],
)
def test_what_is_no_argument_is_refused_by_its_name(name: str, value: Any) -> None:
    model = net()
    objective = es.Objective(model, entropy, batches())
    with pytest.raises(es.InvalidValue, match=rf"^diagnose: {name}\b") as refused:
        es.diagnose(objective, torch.optim.SGD(model.parameters(), lr=0.1), **{name: value})
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_an_optimizer_without_a_limit_is_judged_by_its_play() -> None:
    model, data = net(), batches()
    fresh = asked(model, torch.optim.RAdam(model.parameters(), lr=0.01), data)
    assert fresh.verdict == "safe" and fresh.limit is None and "six updates" in fresh.reasons["ratio"]
    hot = asked(model, es.Optimizer(model.parameters(), es.Lion(lr=3.0)), data, squares)
    assert hot.verdict == "unstable" and "lower the lr to about" in hot.sentence
    mild = asked(model, es.Optimizer(model.parameters(), es.Lion(lr=1e-3)), data, squares)
    assert mild.verdict == "one-step" and "Tried on copies" in mild.sentence
