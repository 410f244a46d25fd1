"""One optimizer, several modules: all that it trains counts, and what an entry cannot see it refuses."""

from typing import Any

import dense
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import eigenstep as es


class Criterion(nn.Module):
    """Mean squared error of a scaled prediction; the scale is learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0).double())

    def forward(self, out: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(self.scale * out, y)


def pair() -> tuple[nn.Linear, Criterion, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    model = nn.Linear(3, 1).double()
    with torch.no_grad():
        model.weight.fill_(2.0)
        model.bias.fill_(5.0)
    return model, Criterion(), (torch.randn(50, 3).double(), torch.randn(50, 1).double())


def both_ways(model: nn.Module, criterion: nn.Module, batch: Any) -> list[es.Objective]:
    def by_place(both: Any, b: Any) -> Tensor:
        return both[1](both[0](b[0]), b[1])

    def by_name(both: Any, b: Any) -> Tensor:
        return both["criterion"](both["model"](b[0]), b[1])

    named = {"model": model, "criterion": criterion}
    return [
        es.Objective([model, criterion], by_place, [batch]),
        es.Objective((model, criterion), by_place, [batch]),
        es.Objective(nn.ModuleList([model, criterion]), by_place, [batch]),
        es.Objective(named, by_name, [batch]),
        es.Objective(nn.ModuleDict(named), by_name, [batch]),
    ]


def test_all_that_the_optimizer_trains_counts() -> None:
    model, criterion, batch = pair()
    optimizer = torch.optim.SGD([*model.parameters(), criterion.scale], lr=0.05)
    truth = dense.eigenvalues(
        lambda: criterion(model(batch[0]), batch[1]), [*model.parameters(), *criterion.parameters()]
    )
    assert float(truth[0]) * 0.05 / 2 == pytest.approx(3.302, abs=1e-3)
    for objective in both_ways(model, criterion, batch):
        assert es.limit_now(objective, optimizer).ratio == pytest.approx(float(truth[0]) * 0.05 / 2, rel=1e-6)
        assert es.diagnose(objective, optimizer).verdict == "unstable"
        assert es.critical_sharpness(objective, optimizer).value is not None
        found = es.recommend(objective, optimizer, train=[batch], budget=100)
        assert found.trains and found.lr < 0.05
        with es.Monitor(objective, optimizer) as monitor:
            pass
        assert monitor.probe.measure(confirm=True).limit.ratio == pytest.approx(float(truth[0]) * 0.05 / 2, rel=1e-6)


@pytest.mark.parametrize("other", ["SGD", "Adam"])
def test_what_cannot_be_seen_is_refused_by_every_entry(other: str) -> None:
    model, criterion, batch = pair()
    optimizer = getattr(torch.optim, other)([*model.parameters(), criterion.scale], lr=0.05)
    objective = es.Objective(model, lambda m, b: criterion(m(b[0]), b[1]), [batch])
    assert any("outside the model" in note and "Objective([model, other]" in note for note in objective.notes)
    entries = (es.limit_now, es.diagnose, es.recommend, es.critical_sharpness, es.Monitor)
    for entry in (*entries, lambda a, b: es.measure(a, optimizer=b)):
        with pytest.raises(es.InvalidValue, match=r"1 of the optimizer's 3 .* give all modules"):
            entry(objective, optimizer)


def test_each_part_keeps_its_own_mode() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    critic = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2)).train()
    critic[1].eval()
    model.eval()
    seen: list[tuple[bool, bool]] = []

    def loss(both: Any, x: Tensor) -> Tensor:
        seen.append((both[0][1].training, both[1][1].training))
        return both[1](both[0](x)).square().mean()

    es.measure(es.Objective([model, critic], loss, torch.randn(8, 3)))
    assert set(seen) == {(True, False)}  # as trained: the model's own mode is mended, a part frozen on purpose stays
    assert not model.training and critic.training and not critic[1].training


@pytest.mark.parametrize(
    ("modules", "words"),
    [
        ([nn.Linear(1, 1), "criterion"], "model is a str"),
        ([], "model is a list"),
        ({"a.b": nn.Linear(1, 1)}, "choose a plain word"),
        ({"train": nn.Linear(1, 1)}, "choose a plain word"),
        (None, "model is a NoneType"),
    ],
)
def test_what_is_no_module_is_refused(modules: Any, words: str) -> None:
    with pytest.raises(es.EigenstepError, match=words):
        es.Objective(modules, lambda m, b: m(b), torch.ones(2, 1))


def test_a_frozen_or_idle_outsider_does_no_harm() -> None:
    model, criterion, batch = pair()
    criterion.scale.requires_grad_(False)
    optimizer = torch.optim.SGD([*model.parameters(), criterion.scale], lr=0.05)
    objective = es.Objective(model, lambda m, b: criterion(m(b[0]), b[1]), [batch])
    assert objective.notes == ()
    assert es.limit_now(objective, optimizer).ratio is not None
