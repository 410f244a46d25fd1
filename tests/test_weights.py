"""How batches count: by samples, or as the user says, and a note where samples are not what the loss is a mean over."""

import itertools
from typing import Any

import dense
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import eigenstep as es

LOSSES = {
    "cross_entropy": (lambda out, y, **k: F.cross_entropy(out, y, **k), True),
    "nll": (lambda out, y, **k: F.nll_loss(out.log_softmax(-1), y, **k), True),
    "mse": (lambda out, y, **k: F.mse_loss(out, F.one_hot(y, 3).to(out.dtype), **k), False),
    "huber": (lambda out, y, **k: F.huber_loss(out, F.one_hot(y, 3).to(out.dtype), **k), False),
    "bce": (lambda out, y, **k: F.binary_cross_entropy_with_logits(out, F.one_hot(y, 3).to(out.dtype), **k), False),
    "poisson": (lambda out, y, **k: F.poisson_nll_loss(out, F.one_hot(y, 3).to(out.dtype), **k), False),
}


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def data(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(1)
    return [(torch.randn(n, 4, generator=g).double(), torch.randint(3, (n,), generator=g)) for n in sizes]


def joined(batches: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def asks(objective: es.Objective) -> bool:
    return any("weight=" in note for note in objective.notes)


@pytest.mark.parametrize("name", list(LOSSES))
def test_a_mean_over_samples_is_weighted_by_samples_without_a_word(name: str) -> None:
    net, batches = model(), data(3, 8, 5)
    function, _ = LOSSES[name]
    objective = es.Objective(net, lambda m, b: function(m(b[0]), b[1]), batches)
    x, y = joined(batches)
    truth = dense.eigenvalues(lambda: function(net(x), y), net.parameters())
    assert float(es.measure(objective).values[0]) == pytest.approx(float(truth[0]), rel=1e-6)
    assert not asks(objective)


@pytest.mark.parametrize("name", [name for name, (_, classes) in LOSSES.items() if classes])
@pytest.mark.parametrize("kind", ["class weights", "ignored labels"])
def test_a_mean_over_something_else_asks_for_its_weight(name: str, kind: str) -> None:
    net, batches = model(), data(3, 8, 5)
    function, _ = LOSSES[name]
    classes = torch.tensor([0.2, 1.0, 3.5]).double()
    if kind == "ignored labels":
        batches = [(x, torch.where(torch.arange(len(y)) % 4 == i, -100, y)) for i, (x, y) in enumerate(batches)]
        options: dict[str, Any] = {}
        weight = lambda batch: (batch[1] != -100).sum()  # noqa: E731
    else:
        options, weight = {"weight": classes}, lambda batch: classes[batch[1]].sum()

    def loss(m: nn.Module, b: Any) -> Tensor:
        return function(m(b[0]), b[1], **options)

    x, y = joined(batches)
    truth = dense.eigenvalues(lambda: function(net(x), y, **options), net.parameters())
    assert asks(es.Objective(net, loss, batches))
    values = [float(weight(batch)) for batch in batches]
    for given in (weight, values, torch.tensor(values), np.array(values)):
        objective = es.Objective(net, loss, batches, weight=given)
        assert float(es.measure(objective).values[0]) == pytest.approx(float(truth[0]), rel=1e-6)
        assert not asks(objective)


@pytest.mark.parametrize("name", list(LOSSES))
def test_a_sum_asks_where_batches_differ_in_size(name: str) -> None:
    function, _ = LOSSES[name]

    def loss(m: nn.Module, b: Any) -> Tensor:
        return function(m(b[0]), b[1], reduction="sum")

    assert asks(es.Objective(model(), loss, data(3, 8, 5)))
    assert not asks(es.Objective(model(), loss, data(6, 6, 6)))
    assert not asks(es.Objective(model(), loss, data(3, 8, 5), weight=1))
    assert not asks(es.Objective(model(), loss, data(3, 8, 5), reduction="sum"))


@pytest.mark.parametrize("sizes", [(8, 8), (3, 8, 5)])
def test_a_summed_loss_is_judged_for_the_loop_that_is_run(sizes: tuple[int, ...]) -> None:
    net, batches = model(), data(*sizes)

    def loss(m: nn.Module, b: Any) -> Tensor:
        return F.mse_loss(m(b[0]), F.one_hot(b[1], 3).double(), reduction="sum")

    summed = es.Objective(net, loss, batches, reduction="sum")
    whole = dense.eigenvalues(lambda: sum(loss(net, b) for b in batches), net.parameters())
    assert float(es.measure(summed).values[0]) == pytest.approx(float(whole[0]), rel=1e-6)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    expected = 0.01 / 2 * float(whole[0]) / len(sizes)
    found = es.limit_now(summed, optimizer)
    assert found.ratio == pytest.approx(expected, rel=1e-6)
    assert any("one update per batch" in note for note in found.notes)
    assert es.diagnose(summed, optimizer).ratio == pytest.approx(expected, rel=1e-6)
    with es.Monitor(summed, optimizer) as monitor:
        optimizer.zero_grad()
        loss(net, batches[0]).backward()
        optimizer.step()
    assert monitor.measured[0]["stability_ratio"] == pytest.approx(expected, rel=1e-6)
    alike = es.Objective(net, loss, batches, weight=1)
    assert es.critical_sharpness(summed, optimizer).lr == pytest.approx(es.critical_sharpness(alike, optimizer).lr)


def test_padded_tokens_in_dicts_are_noticed() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9)).double()
    batches = []
    for k in (3, 12, 1):
        tokens = torch.randint(9, (4, 12))
        labels = tokens.clone()
        labels[:, k:] = -100
        batches.append({"tokens": tokens, "labels": labels})

    def loss(m: nn.Module, b: Any) -> Tensor:
        return F.cross_entropy(m(b["tokens"]).flatten(0, 1), b["labels"].flatten())

    def counted(b: Any) -> Tensor:
        return (b["labels"] != -100).sum()

    assert asks(es.Objective(net, loss, batches))
    truth = dense.eigenvalues(
        lambda: sum(counted(b) * loss(net, b) for b in batches) / sum(map(counted, batches)), net.parameters()
    )
    nothing = {"tokens": batches[0]["tokens"], "labels": torch.full((4, 12), -100)}
    for more in ([], [nothing]):
        for order in itertools.permutations([*batches, *more]):
            found = es.measure(es.Objective(net, loss, list(order), weight=counted))
            assert float(found.values[0]) == pytest.approx(float(truth[0]), rel=1e-6)
    objective = es.Objective(net, loss, [nothing, *batches], weight=counted)
    assert "batches of weight 0, which do not count: 1" in objective.notes
    assert es.diagnose(objective, torch.optim.SGD(net.parameters(), lr=0.1)).ratio == pytest.approx(
        0.05 * float(truth[0]), rel=1e-6
    )
    with pytest.raises(es.InvalidValue, match="weight 0"):
        es.measure(es.Objective(net, loss, [nothing, *batches]))


def test_batches_read_anew_at_every_pass_keep_their_weights() -> None:
    x, y = joined(data(40))
    loader = DataLoader(TensorDataset(x, y), batch_size=8)
    net = model()

    def loss(m: nn.Module, b: Any) -> Tensor:
        return F.cross_entropy(m(b[0]), b[1])

    weights = [1.0, 0.0, 0.25, 2.0, 0.0]
    found = es.Objective(net, loss, loader, weight=weights, memory=1e9)
    streamed = es.Objective(net, loss, loader, weight=weights)
    streamed.batches.budget = 0.0
    assert streamed.weights == found.weights == [1 / 3.25, 0.25 / 3.25, 2 / 3.25]
    assert float(es.measure(streamed).values[0]) == pytest.approx(float(es.measure(found).values[0]), rel=1e-9)
    assert streamed.batches.kept is None and found.batches.kept is not None and len(found.batches.kept) == 3


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf"), True, "3", [1.0, 2.0], [0.0, 0.0, 0.0]])
def test_weights_that_cannot_be_are_refused(wrong: Any) -> None:
    def loss(m: nn.Module, b: Any) -> Tensor:
        return F.cross_entropy(m(b[0]), b[1])

    given = wrong if isinstance(wrong, (list, str)) else (lambda batch: wrong)
    with pytest.raises(es.InvalidValue, match="weight"):
        es.measure(es.Objective(model(), loss, data(3, 8, 5), weight=given))


def test_a_list_of_weights_needs_an_order() -> None:
    x, y = joined(data(12))
    shuffled = DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True)
    with pytest.raises(es.InvalidValue, match="order is its own; give a function"):
        es.Objective(model(), lambda m, b: F.cross_entropy(m(b[0]), b[1]), shuffled, weight=[1, 2, 3])
    with pytest.raises(es.InvalidValue, match="without reduction='sum'"):
        es.Objective(model(), lambda m, b: F.cross_entropy(m(b[0]), b[1]), data(3), weight=1, reduction="sum")


@pytest.mark.parametrize("count", [17, 33])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_more_batches_than_the_probe_holds_keep_the_linear_limit(count: int, reduction: Any) -> None:
    batches = [(x, (x @ torch.eye(4, 3).double()).argmax(1)) for x, _ in data(*([6] * (count - 1)), 2)]
    net = model()

    def loss(m: nn.Module, b: Any) -> Tensor:
        return F.cross_entropy(m(b[0]), b[1], reduction=reduction)

    objective = es.Objective(net, loss, batches, reduction=reduction)
    found = es.recommend(objective, torch.optim.SGD(net.parameters(), lr=1e-3), train=batches, budget=60)
    assert found.limit is not None and not any("no linear limit" in note for note in found.notes)
    assert found.trains
