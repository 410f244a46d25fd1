"""limit_now against joint step matrices: torch's own steps taken on basis vectors, and matrices written out by hand."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import eigenstep as es
from eigenstep.theory import frozen_limit
from eigenstep.theory.response import response

F64 = torch.float64


class Quadratic(nn.Module):
    """1/2 w' H w in two parameters, a and b."""

    def __init__(self, matrix: Tensor, cut: int) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.a = nn.Parameter(torch.ones(cut, dtype=F64))
        self.b = nn.Parameter(torch.ones(len(matrix) - cut, dtype=F64))


def loss(model: Quadratic, batch: Tensor) -> Tensor:
    w = torch.cat([model.a, model.b])
    return 0.5 * w @ (model.matrix @ w)


def problem(seed: int = 0, n: int = 7, cut: int = 3) -> tuple[Quadratic, es.Objective]:
    root = torch.randn(n, n + 2, generator=torch.Generator().manual_seed(seed), dtype=F64)
    model = Quadratic(root @ root.T / n, cut)
    return model, es.Objective(model, loss, torch.zeros(1))


def radius_under_torch(model: Quadratic, settings: list[dict[str, Any]], c: float) -> float:
    """Spectral radius of one real torch.optim.SGD step, all lr times c, probed with basis vectors of (w, buffers)."""
    n = len(model.matrix)
    params = [nn.Parameter(p.detach().clone()) for p in (model.a, model.b)]
    groups = [{**s, "params": [p], "lr": s["lr"] * c} for s, p in zip(settings, params, strict=True)]
    sgd = torch.optim.SGD(groups)
    sizes = [p.numel() for p in params]
    columns = []
    for column in torch.eye(2 * n, dtype=F64):
        for p, x, m in zip(params, column[:n].split(sizes), column[n:].split(sizes), strict=True):
            p.data.copy_(x)
            sgd.state[p]["momentum_buffer"] = m.clone()
        for p, g in zip(params, (model.matrix @ column[:n]).split(sizes), strict=True):
            p.grad = g.clone()
        sgd.step()
        buffers = [sgd.state[p]["momentum_buffer"] for p in params]
        columns.append(torch.cat([*(p.detach() for p in params), *buffers]))
    matrix = torch.stack(columns, dim=1)
    still = [g["momentum"] == 0 for g in sgd.param_groups]  # an unused buffer has no dynamics
    for idle, block in zip(still, torch.arange(n, 2 * n).split(sizes), strict=True):
        if idle:
            matrix[block, block] = 0.0
    return float(np.abs(np.linalg.eigvals(matrix.numpy())).max())


def edge(radius: Callable[[float], float]) -> float:
    """The smallest c at which the radius passes 1, by a fine scan and bisection."""
    tried = np.geomspace(1e-1, 1e3, 150)
    above = next(i for i, c in enumerate(tried) if radius(c) > 1 + 1e-12)
    low, high = tried[above - 1], tried[above]
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if radius(middle) > 1 + 1e-12 else (middle, high)
    return float(low)


GROUPS: dict[str, list[dict[str, Any]]] = {
    "lr": [{"lr": 0.1}, {"lr": 0.03}],
    "momentum": [{"lr": 0.1, "momentum": 0.9}, {"lr": 0.2}],
    "two momenta": [{"lr": 0.1, "momentum": 0.99}, {"lr": 0.02, "momentum": 0.3}],
    "nesterov beside plain": [{"lr": 0.1, "momentum": 0.9, "nesterov": True}, {"lr": 0.3}],
    "nesterov beside heavy ball": [{"lr": 0.1, "momentum": 0.9, "nesterov": True}, {"lr": 0.1, "momentum": 0.9}],
    "dampened": [{"lr": 0.1, "momentum": 0.9, "dampening": 0.9}, {"lr": 0.1, "momentum": 0.5}],
    "coupled decay": [{"lr": 0.1, "momentum": 0.9, "weight_decay": 2.0}, {"lr": 0.1, "momentum": 0.9}],
}


@pytest.mark.parametrize("settings", GROUPS.values(), ids=GROUPS)
def test_the_joint_limit_is_where_torch_leaves(settings: list[dict[str, Any]]) -> None:
    model, objective = problem()
    sgd = torch.optim.SGD([{**s, "params": [p]} for s, p in zip(settings, (model.a, model.b), strict=True)], lr=1.0)
    found = es.limit_now(objective, sgd, tol=1e-8)

    def radius(c: float) -> float:
        return radius_under_torch(model, [{"momentum": 0.0, **s} for s in settings], c)

    assert found.ratio is not None and found.interval is not None
    assert found.ratio == pytest.approx(1 / edge(radius), rel=1e-6)
    assert found.max_stable_lr == pytest.approx(settings[0]["lr"] / found.ratio, rel=1e-12)
    assert found.certified


def by_hand(model: Quadratic, unit: Tensor, lr: Tensor, beta: Tensor, decay: Tensor, c: float) -> float:
    """Frozen AdamW written out: m' = b m + (1 - b) H x; x' = (1 - c lr w) x - c lr m' / P."""
    n, matrix = len(unit), model.matrix
    top = torch.cat([torch.diag(1 - c * lr * decay) - (c * lr * (1 - beta) / unit)[:, None] * matrix,
                     -torch.diag(c * lr * beta / unit)], dim=1)  # fmt: skip
    bottom = torch.cat([(1 - beta)[:, None] * matrix, torch.diag(beta)], dim=1)
    assert top.shape == (n, 2 * n)
    return float(np.abs(np.linalg.eigvals(torch.cat([top, bottom]).numpy())).max())


@pytest.mark.parametrize(
    ("betas", "decays", "lrs"),
    [
        (((0.9, 0.999), (0.9, 0.999)), (0.0, 0.0), (0.01, 0.01)),
        (((0.9, 0.999), (0.9, 0.999)), (0.1, 0.0), (0.01, 0.01)),
        (((0.9, 0.999), (0.5, 0.999)), (5.0, 0.5), (0.01, 0.1)),
    ],
)
def test_adamw_groups_against_a_matrix_by_hand(betas: Any, decays: Any, lrs: Any) -> None:
    model, objective = problem(1)
    names = ("params", "betas", "weight_decay", "lr")
    groups = [
        dict(zip(names, values, strict=True)) for values in zip((model.a, model.b), betas, decays, lrs, strict=True)
    ]
    adamw = torch.optim.AdamW(groups, eps=1e-12)
    squares = torch.rand(7, generator=torch.Generator().manual_seed(3), dtype=F64) + 0.1
    for p, v in zip((model.a, model.b), squares.split([3, 4]), strict=True):
        adamw.state[p] = {"step": torch.tensor(20000.0), "exp_avg": torch.zeros_like(p), "exp_avg_sq": v.clone()}
    found = es.limit_now(objective, adamw, tol=1e-8)
    unit = (squares / (1 - 0.999**20000)).sqrt() + 1e-12
    spread = [torch.tensor([a] * 3 + [b] * 4, dtype=F64) for a, b in (lrs, [b[0] for b in betas], decays)]
    expected = edge(lambda c: by_hand(model, unit, *spread, c))
    assert found.ratio == pytest.approx(1 / expected, rel=1e-6)
    assert not found.fresh and not found.early and found.adapts
    if lrs[0] == lrs[1]:
        scaled = torch.linalg.eigvalsh(unit.rsqrt()[:, None] * model.matrix * unit.rsqrt())[-1]
        assert found.preconditioned_sharpness == pytest.approx(float(scaled), rel=1e-4)
    assert found.sharpness == pytest.approx(float(torch.linalg.eigvalsh(model.matrix)[-1]), rel=1e-6)


def test_two_groups_stable_to_2_alone_and_to_1_05_together() -> None:
    model = Quadratic(torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=F64), 1)
    sgd = torch.optim.SGD([{"params": [model.a]}, {"params": [model.b]}], lr=1.5)
    found = es.limit_now(es.Objective(model, loss, torch.zeros(1)), sgd, alone=True, tol=1e-8)
    assert found.alone == {0: pytest.approx(0.75), 1: pytest.approx(0.75)}
    assert found.max_stable_lr == pytest.approx(2 / 1.9)
    assert found.ratio == pytest.approx(1.5 * 1.9 / 2)


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.3),
         es.Nesterov(lr=0.1, weight_decay=0.3)),
        (lambda p: es.Optimizer(p, es.HeavyBall(lr=0.1, weight_decay=5.0, decoupled=True)),
         es.HeavyBall(lr=0.1, weight_decay=5.0, decoupled=True)),
        (lambda p: es.Optimizer(p, es.EMAMomentum(lr=0.1)), es.EMAMomentum(lr=0.1)),
    ],
)  # fmt: skip
def test_one_group_is_max_stable_lr_of_its_rule(make: Callable[[Any], Any], rule: es.LinearRule) -> None:
    model, objective = problem(2)
    found = es.limit_now(objective, make(model.parameters()), tol=1e-8)
    sharpness = float(torch.linalg.eigvalsh(model.matrix)[-1])
    assert found.sharpness == pytest.approx(sharpness, rel=1e-7)
    assert found.max_stable_lr == pytest.approx(es.max_stable_lr(rule, sharpness), rel=1e-6)
    assert found.ratio == pytest.approx(0.1 / found.max_stable_lr)


def test_decoupled_decay_above_two_is_unstable_even_where_the_loss_is_flat() -> None:
    model = Quadratic(torch.diag(torch.tensor([1e-6, 1e-6], dtype=F64)), 1)
    objective = es.Objective(model, loss, torch.zeros(1))
    for decay, above in ((25.0, True), (15.0, False)):
        adamw = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=decay)
        found = es.limit_now(objective, adamw)
        assert found.ratio is not None and (found.ratio > 1) == above
        assert found.ratio == pytest.approx(0.1 * decay / 2, rel=1e-2)


def test_lr_zero_has_a_limit_and_no_ratio() -> None:
    model, objective = problem()
    sgd = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    found = es.limit_now(objective, sgd)
    assert found.ratio is None and found.interval is None and "lr = 0" in found.reasons["ratio"]
    moving = es.limit_now(objective, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    assert found.max_stable_lr == pytest.approx(moving.max_stable_lr)
    groups = [{"params": [model.a], "lr": 0.4}, {"params": [model.b], "lr": 0.1}]
    ratios = es.limit_now(objective, torch.optim.SGD(groups))
    warm = torch.optim.SGD(groups)
    torch.optim.lr_scheduler.LambdaLR(warm, lambda t: 0.0)
    found = es.limit_now(objective, warm)
    assert found.ratio is None and found.max_stable_lr == pytest.approx(ratios.max_stable_lr)


def test_a_warm_start_needs_one_product_and_is_not_called_certified() -> None:
    model, objective = problem()
    adam = torch.optim.Adam(model.parameters())
    loss(model, torch.zeros(1)).backward()
    adam.step()
    first = es.limit_now(objective, adam, sharpness=False)
    again = es.limit_now(objective, adam, start=first, quick=True, sharpness=False)
    assert first.certified and not again.certified
    assert again.products == 1 and again.ratio == pytest.approx(first.ratio, rel=1e-4)
    assert again.sharpness is None and again.reasons["sharpness"] == "not asked for"


def test_adagrad_adapts_and_nadam_is_judged_at_its_own_momentum() -> None:
    model, objective = problem()
    found = es.limit_now(objective, torch.optim.Adagrad(model.parameters(), lr=0.1))
    a = found.preconditioned_sharpness
    assert a is not None and found.max_stable_lr == pytest.approx(2 / a) and found.adapts
    assert any("any lr ends up stable" in note for note in found.notes)
    early = es.limit_now(objective, torch.optim.NAdam(model.parameters(), lr=0.1))
    mu = 0.9 * (1 - 0.5 * 0.96 ** (101 * 4e-3))
    following = 0.9 * (1 - 0.5 * 0.96 ** (102 * 4e-3))
    assert early.early and early.preconditioned_sharpness is not None
    edge = 2 * 1.9 / ((1 - mu) * 1.9 + following * 0.1)  # 1 = lr a ((1 - mu) / 2 + mu' (1 - b1) / (2 (1 + b1)))
    assert early.max_stable_lr * early.preconditioned_sharpness == pytest.approx(edge, rel=1e-3)


def test_early_adam_carries_its_bias_correction() -> None:
    model, objective = problem()
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(3):
        adam.zero_grad()
        loss(model, torch.zeros(1)).backward()
        adam.step()
    found = es.limit_now(objective, adam, tol=1e-8)
    squares = torch.cat([adam.state[p]["exp_avg_sq"] for p in (model.a, model.b)])
    unit = (squares / (1 - 0.999**3)).sqrt() + 1e-8
    scaled = torch.linalg.eigvalsh(unit.rsqrt()[:, None] * model.matrix * unit.rsqrt())[-1]
    assert found.early and not found.fresh
    assert found.ratio == pytest.approx(0.01 * float(scaled) / 38, rel=1e-6)


def test_what_has_no_linear_limit_is_refused() -> None:
    model, objective = problem()
    with pytest.raises(es.Unsupported, match="lion"):
        es.limit_now(objective, es.Optimizer(model.parameters(), es.Lion(lr=1e-3)))
    with pytest.raises(es.Unsupported, match="five updates"):
        es.limit_now(objective, torch.optim.RAdam(model.parameters()))
    with pytest.raises(es.InvalidValue, match="does not hold 'b'"):
        es.limit_now(objective, torch.optim.SGD([model.a], lr=0.1))


def test_all_downhill_has_no_limit() -> None:
    model = Quadratic(-torch.eye(3, dtype=F64), 1)
    found = es.limit_now(es.Objective(model, loss, torch.zeros(1)), torch.optim.SGD(model.parameters(), lr=0.1))
    assert found.ratio == 0 and found.max_stable_lr == float("inf")
    assert any("nothing limits" in note for note in found.notes)


@pytest.mark.parametrize("rule", [r for r in es.RULES.values() if issubclass(r, es.LinearRule)], ids=lambda r: r.name)
def test_every_rule_of_ours_turns_one_way(rule: type[es.LinearRule]) -> None:
    answer = response(rule())
    assert answer.passive
    limit = float(frozen_limit(rule(), torch.tensor(3.0, dtype=F64)))
    assert 1 / (3 * answer.gain + answer.decay_term) == pytest.approx(limit, rel=1e-8)
