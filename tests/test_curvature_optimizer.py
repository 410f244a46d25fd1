"""The curvature that an optimiser sees: against dense P^-1/2 (H + wI) P^-1/2, and at the edge of stability."""

import pytest
import torch
from dense import gradient, hessian
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from eigenstep.curvature import measure
from eigenstep.errors import InvalidValue, Unsupported
from eigenstep.objective import Objective


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


BATCH = (
    torch.randn(20, 4, generator=torch.Generator().manual_seed(1)).double(),
    torch.randint(3, (20,), generator=torch.Generator().manual_seed(2)),
)


def loss(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(net(batch[0]), batch[1])


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        loss(net, BATCH).backward()
        optimizer.step()


def scaled(matrix: Tensor, unit: Tensor, decay: Tensor | float = 0.0) -> Tensor:
    d = unit.rsqrt()
    whole = matrix + torch.diag(torch.zeros(len(unit)).double() + decay)
    return torch.linalg.eigvalsh(d[:, None] * whole * d).flip(0)


def live(net: nn.Module, optimizer: torch.optim.Optimizer, t: int, b2: float = 0.999) -> Tensor:
    squares = torch.cat([optimizer.state[p]["exp_avg_sq"].reshape(-1) for p in net.parameters()])
    return (squares / (1 - b2**t)).sqrt() + 1e-8


@pytest.mark.parametrize(
    ("decay", "kind"), [(0.0, torch.optim.Adam), (0.3, torch.optim.Adam), (0.3, torch.optim.AdamW)]
)
def test_live_second_moments(decay: float, kind: type[torch.optim.Optimizer]) -> None:
    net = model()
    optimizer = kind(net.parameters(), lr=1e-2, weight_decay=decay)
    train(net, optimizer, 20)
    before = {n: v.clone() for n, v in net.state_dict().items()}
    result = measure(Objective(net, loss, BATCH), 3, optimizer=optimizer, vectors=True)
    coupled = decay if kind is torch.optim.Adam else 0.0
    exact = scaled(hessian(lambda: loss(net, BATCH), net.parameters()), live(net, optimizer, 20), coupled)
    assert result.operator == "preconditioned" and result.certified
    assert bool(((result.values - exact[:3]).abs() <= result.bounds).all())
    assert result.preconditioner["t"] == 20 and result.preconditioner["early"]
    assert result.preconditioner["coupled_decay"] == (coupled > 0)
    assert any("early" in note for note in result.notes)
    move = result.directions[0] * live(net, optimizer, 20).sqrt()
    assert abs(abs(float(move @ result.vectors[0])) / float(move.norm()) - 1) < 1e-9
    assert all(torch.equal(v, before[n]) for n, v in net.state_dict().items())


def test_a_fresh_optimizer_takes_one_simulated_step_and_leaves_out_what_has_no_gradient() -> None:
    net = model()
    inputs = BATCH[0].clone()
    inputs[:, 0] = 0  # a dead input: six weights without a gradient
    objective = Objective(net, loss, (inputs, BATCH[1]))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    result = measure(objective, 2, optimizer=optimizer)
    flat = gradient(lambda: loss(net, (inputs, BATCH[1])), net.parameters())
    moving = flat != 0
    matrix = hessian(lambda: loss(net, (inputs, BATCH[1])), net.parameters())[moving][:, moving]
    exact = scaled(matrix, flat[moving].abs() + 1e-8)
    assert result.dimension == int(moving.sum()) == len(flat) - 6
    assert bool(((result.values - exact[:2]).abs() <= result.bounds).all())
    assert result.preconditioner["fresh"] and result.preconditioner["left_out"] == 6
    assert any("fresh optimiser" in note and "6 coordinates" in note for note in result.notes)
    assert not optimizer.state


def test_groups_that_differ_in_lr_go_through_the_scaled_operator() -> None:
    net = model()
    groups = [{"params": net[0].parameters(), "lr": 0.1}, {"params": net[2].parameters(), "lr": 0.4}]
    result = measure(Objective(net, loss, BATCH), 2, optimizer=torch.optim.SGD(groups, weight_decay=0.01))
    unit = torch.cat([torch.ones(30), torch.full((21,), 0.25)]).double()
    exact = scaled(hessian(lambda: loss(net, BATCH), net.parameters()), unit, 0.01)
    assert bool(((result.values - exact[:2]).abs() <= result.bounds).all())
    assert result.preconditioner["lr"] == 0.1


def test_plain_sgd_sees_the_hessian_itself() -> None:
    net = model()
    result = measure(Objective(net, loss, BATCH), optimizer=torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9))
    assert result.operator == "hessian" and result.preconditioner is None


def test_what_an_optimizer_cannot_answer_is_refused() -> None:
    net, other = model(), model()
    with pytest.raises(InvalidValue, match="does not hold"):
        measure(Objective(net, loss, BATCH), optimizer=torch.optim.Adam(other.parameters()))
    with pytest.raises(InvalidValue, match="needs an Objective"):
        measure(torch.eye(3), optimizer=torch.optim.Adam(other.parameters()))
    with pytest.raises(Unsupported, match="LBFGS"):
        measure(Objective(net, loss, BATCH), optimizer=torch.optim.LBFGS(net.parameters()))


@pytest.mark.slow
def test_a_batchnorm_network_at_the_edge_of_stability_reads_one() -> None:
    digits = load_digits()
    batch = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Tanh(), nn.Linear(32, 32), nn.BatchNorm1d(32), nn.Tanh()),
        nn.Linear(32, 10),
    )
    target = F.one_hot(batch[1], 10).float()

    def squares(net: nn.Module, inputs: Tensor) -> Tensor:
        return 0.5 * ((net(inputs) - target) ** 2).sum(1).mean()

    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    for _ in range(500):
        optimizer.zero_grad()
        squares(net, batch[0]).backward()
        optimizer.step()
    trained = measure(Objective(net, squares, batch[0]), optimizer=optimizer)
    frozen = measure(Objective(net, squares, batch[0], "eval"))
    assert trained.certified
    assert trained.largest * 0.5 / 2 == pytest.approx(1, abs=0.1)
    assert frozen.largest * 0.5 / 2 > 1.5  # what a measurement in eval mode would have said


@pytest.mark.slow
def test_refreshes_in_training_inherit_certainty_and_stay_true() -> None:
    digits = load_digits()
    batch = torch.tensor(digits.data / 16, dtype=torch.float32)[:600], torch.tensor(digits.target)[:600]
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.2, momentum=0.9)
    objective = Objective(net, loss, batch)
    last = measure(objective, vectors=True)
    spent, excluded = [], 0
    for turn in range(60):
        for _ in range(10):
            optimizer.zero_grad()
            loss(net, batch).backward()
            optimizer.step()
        last = measure(objective, vectors=True, start=last)
        sure = measure(objective, seed=100 + turn, tol=1e-4)
        assert last.certified and sure.certified
        spent.append(last.provenance["products"])
        excluded += abs(last.largest - sure.largest) > last.bounds[0]
    assert excluded == 0
    assert sorted(spent)[30] <= 8
