"""recommend: the answer is run, nothing of the user's changes, and what cannot be answered is said with a remedy."""

import json
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from contracts.snapshot import Snapshot
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import eigenstep as es

X = torch.randn(256, 6, generator=torch.Generator().manual_seed(1))
Y = (X @ torch.arange(1.0, 7.0))[:, None] / 9.5 + 0.05 * torch.randn(256, 1, generator=torch.Generator().manual_seed(2))


def mse(model: nn.Module, batch: Any) -> Tensor:
    return nn.functional.mse_loss(model(batch[0]), batch[1])


def parts(seed: int = 0, hidden: int = 16) -> tuple[nn.Module, es.Objective, DataLoader[Any]]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, hidden), nn.Tanh(), nn.Dropout(0.1), nn.Linear(hidden, 1))
    loader = DataLoader(TensorDataset(X, Y), 32, shuffle=True, generator=torch.Generator().manual_seed(5))
    return model, es.Objective(model, mse, (X, Y)), loader


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> float:
    """The loss after plain training by a loop of our own."""
    for i in range(steps):
        pick = torch.randint(0, 256, (32,), generator=torch.Generator().manual_seed(i))
        optimizer.zero_grad()
        mse(model, (X[pick], Y[pick])).backward()
        optimizer.step()
    model.eval()
    return float(mse(model, (X, Y)).detach())


MAKE = {
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-5, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-5),
    "lion": lambda p: es.Optimizer(p, es.Lion(lr=1e-4)),
}


@pytest.mark.parametrize("name", MAKE)
def test_the_recommended_lr_trains_and_beats_the_one_that_was_set(name: str) -> None:
    model, objective, loader = parts()
    found = es.recommend(objective, MAKE[name](model.parameters()), train=loader, budget=200, horizon=400)
    assert found.trains
    assert found.verified
    assert found.complete
    assert found.steps <= 200
    assert found.interval[0] < found.lr < found.interval[1] < found.edge[1] * (1 + 1e-9)
    losses = []
    for apply in (True, False):
        again = parts()[0]
        optimizer = MAKE[name](again.parameters())
        losses.append(trained(again, found.apply(optimizer) if apply else optimizer, 400))
    assert losses[0] < losses[1] / 2
    assert losses[0] < found.start / 5
    if name == "lion":
        assert found.limit is None
        assert any("no linear limit" in note for note in found.notes)


def test_on_a_quadratic_the_edge_is_the_theory_s() -> None:
    """Gradient descent on a quadratic leaves at 2 / lambda, and the trials must find it within their factor."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1, bias=False)
    x = torch.diag(torch.tensor([1.0, 2.0, 4.0])) * 3**0.5  # Hessian 2 diag(1, 4, 16), sharpness 32
    objective = es.Objective(model, lambda m, b: m(b).square().mean(), [x, x])
    found = es.recommend(objective, torch.optim.SGD(model.parameters(), lr=1e-3), budget=200)
    assert found.limit.max_stable_lr == pytest.approx(2 / 32, rel=0.01)
    assert found.edge[0] < 2 / 32 * 1.001 < found.edge[1] * 1.001
    assert found.edge[1] <= 2.001 * found.edge[0]
    assert found.lr < 2 / 32


@pytest.mark.parametrize("stop", [0, 7, 60])
def test_nothing_of_the_users_changes_also_when_interrupted(stop: int) -> None:
    model, _, loader = parts()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    mse(model, (X, Y)).backward()
    optimizer.step()
    calls = 0

    def loss(m: nn.Module, batch: Any) -> Tensor:
        nonlocal calls
        calls += m.training and len(batch[0]) == 32
        if stop and calls == stop:
            calls += 1
            raise KeyboardInterrupt
        return mse(m, batch)

    before = Snapshot(model, optimizer, loader, loader.generator)
    found = es.recommend(es.Objective(model, loss, (X, Y)), optimizer, train=loader, budget=100)
    before.check()
    assert found.complete == (stop == 0)
    if stop:
        assert "interrupted" in found.missing
        assert not found.verified
        assert found.missing in found.unchecked


def test_same_seed_same_answer_and_groups_keep_their_ratios() -> None:
    answers = []
    for _ in range(2):
        model, objective, loader = parts()
        groups = [{"params": model[0].parameters(), "lr": 0.01}, {"params": model[3].parameters(), "lr": 0.002}]
        optimizer = torch.optim.SGD(groups)
        answers.append(es.recommend(objective, optimizer, train=loader, budget=100))
    assert answers[0].lr == answers[1].lr
    assert answers[0].candidates == answers[1].candidates
    answers[0].apply(optimizer)
    lrs = [group["lr"] for group in optimizer.param_groups]
    assert lrs[0] == answers[0].lr
    assert lrs[1] == pytest.approx(lrs[0] / 5)


def test_json_carries_what_the_contract_names() -> None:
    model, objective, loader = parts()
    found = es.recommend(objective, torch.optim.SGD(model.parameters(), lr=0.1), train=loader, budget=100)
    plain = json.loads(found.to_json())
    assert (plain["format"], plain["kind"]) == ("eigenstep", "recommendation")
    assert plain["lr"] == found.lr
    assert (plain["start"], plain["horizon"], plain["steps"]) == (found.start, 1000, found.rehearsals.steps)
    assert not {"asked", "at_start", "rehearsals"} & plain.keys()  # their fields stand among the others
    assert plain["spectrum"]["values"]
    for candidate in plain["candidates"]:
        assert {"lr", "losses", "diverged", "steps"} <= candidate.keys()
        assert len(candidate["losses"]) == len(candidate["points"])
    ax = found.plot()
    assert ax.get_xlabel() == "lr"
    assert sorted(found.results) == ["diverged", "loss", "lr", "steps"]


def test_momentum_and_optimizers_are_compared() -> None:
    model, objective, loader = parts()
    sgd, adam = torch.optim.SGD(model.parameters(), lr=0.1), torch.optim.Adam(model.parameters())
    found = es.recommend(objective, sgd, train=loader, momentum=[0.0, 0.9], optimizers=[adam], budget=400)
    assert len(found.alternatives) == 3
    assert found.steps <= 400
    assert "updates, the first in" in found.reason
    assert sgd.param_groups[0]["momentum"] == 0
    own = {"SGD": torch.optim.SGD, "Adam": torch.optim.Adam}[found.optimizer](model.parameters(), lr=1.0)
    with pytest.raises(es.InvalidValue, match="given NoneType"):
        found.apply(None)  # type: ignore[arg-type]
    found.apply(own)
    group = own.param_groups[0]
    assert group.get("momentum", group.get("betas", (None,))[0]) == found.settings["momentum"]


def test_dead_units_are_named_and_no_lr_is_given() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1))
    with torch.no_grad():
        model[0].bias.fill_(-1e3)
        model[2].bias.copy_(Y.mean())
    found = es.recommend(
        es.Objective(model, mse, [(X, Y)] * 2), torch.optim.SGD(model.parameters(), lr=0.1), budget=100
    )
    assert (found.lr, found.trains) == (None, False)
    assert "nothing trains here" in found.reason
    with pytest.raises(es.InvalidValue, match="no lr to apply"):
        found.apply(torch.optim.SGD(model.parameters(), lr=0.1))


def bad(change: str) -> Callable[[], Any]:
    model, objective, loader = parts()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options: dict[str, Any] = {"train": loader}
    if change == "foreign":
        optimizer = torch.optim.SGD(parts()[0].parameters(), lr=0.1)
    elif change == "schedule":
        options["schedule"] = "cosin"
    elif change == "one-shot":
        options["train"] = iter(loader)
    elif change == "outside":
        objective = es.Objective(model, lambda m, b: mse(model, b), (X, Y))
    elif change == "momentum":
        options["momentum"] = [1.5]
    else:
        options[change] = 0
    return lambda: es.recommend(objective, optimizer, **options)


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ("foreign", r"build the optimizer from objective\.model"),
        ("schedule", "did you mean 'cosine'"),
        ("one-shot", "recommend: train.* read only once; pass the loader"),
        ("outside", r"let loss\(model, batch\) call its argument"),
        ("budget", "budget=0 must be a whole number"),
        ("horizon", "horizon=0 must be"),
        ("momentum", "below 1"),
        ("clip", "positive norm"),
    ],
)
def test_bad_input_is_refused_with_its_remedy(change: str, remedy: str) -> None:
    with pytest.raises(es.EigenstepError, match=remedy):
        bad(change)()


def test_a_single_batch_without_a_loader_warns() -> None:
    model, objective, _ = parts()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.warns(UserWarning, match="pass train=loader"):
        es.recommend(objective, optimizer, budget=60)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        es.recommend(objective, optimizer, train=[(X, Y)], budget=60, fast=True)


def test_too_small_a_budget_names_the_least() -> None:
    model, objective, loader = parts()
    with pytest.raises(es.InvalidValue, match="give budget=120 or more"):
        es.recommend(
            objective, torch.optim.SGD(model.parameters(), lr=1.0), train=loader, momentum=[0, 0.9], budget=100
        )
