"""Every interval that rests on random vectors holds the truth as often as it says: traces, means, shares, diagnoses."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from dense import eigenvalues, hessian
from scipy import stats
from sklearn.datasets import load_digits
from torch import Tensor, nn

import eigenstep as es
from eigenstep.curvature import Density, as_operator, density, trace
from eigenstep.curvature.operators import vectors as vec
from eigenstep.curvature.operators.hessian import HessianOperator
from eigenstep.curvature.operators.operator import Operator
from eigenstep.curvature.sampling import Sampled, sampled
from eigenstep.diagnosis.evidence.rates import along_of, one_rule, slowness
from eigenstep.errors import InvalidValue
from eigenstep.stability.joint_limit import edge_of

F64 = torch.float64
DRAWS, ENOUGH = 1000, 925  # where the truth is held in 90% of draws, 925 of 1000 have a chance of 1 in 250; 95%: sure
SEEDS = 400
TWO_POINTS = 372  # 93% of 400: the stated 95% within two points


def harmonic(n: int, power: float = 1.0) -> Tensor:
    return torch.arange(1, n + 1, dtype=F64) ** -power


def spike() -> Tensor:
    return torch.cat([torch.tensor([100.0], dtype=F64), torch.linspace(0, 1, 50, dtype=F64)])


def diagonal(values: Tensor) -> Operator:
    return as_operator(lambda v: values * v, len(values), dtype=values.dtype)


def rotated(values: Tensor) -> Operator:
    """The same eigenvalues along random orthogonal directions."""
    g = torch.Generator().manual_seed(1)
    q = torch.linalg.qr(torch.randn(len(values), len(values), generator=g, dtype=F64))[0]
    matrix = (q * values) @ q.T
    return as_operator((matrix + matrix.T) / 2)


@pytest.mark.parametrize("level", [0.8, 0.9, 0.95, 0.99])
def test_students_interval_holds_its_level_where_one_eigenvalue_is_all(level: float) -> None:
    """For u'Bu = z^2, |Bu|^2 = z^2, m of them: the sum S is chi-square, and |S/m - 1| <= q sqrt(2 S/m / m)."""
    for m in (1, 2, 3, 5, 8, 20, 100):
        b = float(stats.t.ppf(0.5 + level / 2, m)) * math.sqrt(2 / m)
        low, high = (m * ((sign * b + math.sqrt(b * b + 4)) / 2) ** 2 for sign in (-1, 1))
        held = float(stats.chi2.cdf(high, m) - stats.chi2.cdf(low, m))
        assert level - 0.0025 < held < level + 0.03, m
        if level == 0.95:
            assert 0.95 < held < 0.956, m


def test_the_variance_of_a_quadratic_form_is_the_theorem() -> None:
    g = torch.Generator().manual_seed(2)
    values = torch.tensor([3.0, -1.0, 0.5, 0.0, 2.0, 2.0, -0.3], dtype=F64)
    found, means = drawn(values, 20_000, g)
    exact = 2 / 9 * (float(values.square().mean()) - float(values.mean()) ** 2)
    assert found.error**2 * 20_000 == pytest.approx(exact, rel=0.02)
    assert float(means.var()) == pytest.approx(exact, rel=0.05)
    assert abs(found.value - float(values.mean())) < 4 * found.error
    assert drawn(torch.full((7,), 2.5, dtype=F64), 5, g)[0].error < 1e-15
    with pytest.raises(InvalidValue, match="between 0 and 1"):
        found.reach(1.0)


def drawn(values: Tensor, probes: int, g: torch.Generator) -> tuple[Sampled, Tensor]:
    """What probes of a diagonal matrix say, and each one's u'Au."""
    u = torch.randn(probes, len(values), generator=g, dtype=F64)
    u /= torch.linalg.vector_norm(u, dim=1, keepdim=True)
    means = u.square() @ values
    return sampled(means, (values * u - means[:, None] * u).square().sum(1), len(values)), means


@pytest.mark.parametrize("name", ["one spike", "1/i", "four outliers"])
def test_the_bracket_holds_the_truth_where_the_scatter_of_its_probes_does_not(name: str) -> None:
    values, g = HARD[name](), torch.Generator().manual_seed(3)
    truth, held, threefold, scattered = float(values.mean()), 0, 0, 0
    for _ in range(DRAWS):
        found, means = drawn(values, 8, g)
        held += abs(found.value - truth) <= found.reach(0.95)
        threefold += abs(found.value - truth) > 3 * found.error
        scattered += abs(found.value - truth) > 3 * float(means.std()) / math.sqrt(8)
    assert held >= ENOUGH and threefold < 0.03 * DRAWS
    assert scattered > 0.035 * DRAWS  # what eight skewed values say of themselves


def test_the_traces_interval_holds_the_truth() -> None:
    values = harmonic(80)
    operator, total = rotated(values), float(values.sum())
    found = [trace(operator, 8, seed=seed) for seed in range(DRAWS)]
    assert sum(t.low <= total <= t.high for t in found) >= ENOUGH
    rms = math.sqrt(sum((t.value - total) ** 2 for t in found) / DRAWS)
    assert rms == pytest.approx(math.sqrt(sum(t.error**2 for t in found) / DRAWS), rel=0.15)


def test_a_density_of_one_probe_has_an_interval_that_holds_the_truth() -> None:
    operator, truth = diagonal(spike()), float(spike().mean())
    found = [density(operator, probes=1, steps=2, seed=seed) for seed in range(DRAWS)]
    assert sum(low <= truth <= high for low, high in (d.interval(lambda x: x) for d in found)) >= ENOUGH


def test_a_densitys_error_is_that_of_its_probes() -> None:
    """Against dense products with the same random vectors."""
    values, g = harmonic(40), torch.Generator().manual_seed(5)
    found = density(diagonal(values), probes=3, steps=6, seed=5)
    u = torch.stack([vec.random_unit(40, g, values) for _ in range(3)])
    for of in (lambda x: x, lambda x: x**3, torch.ones_like):
        means = u.square() @ of(values)
        dense = sampled(means, (of(values) * u - means[:, None] * u).square().sum(1), 40)
        assert found.mean(of) == pytest.approx((dense.value, dense.error), rel=1e-6, abs=1e-12)
        low, high = found.interval(of, 0.8)
        assert high - low == pytest.approx(2 * dense.reach(0.8), rel=1e-6, abs=1e-12)


def test_the_share_below_says_what_the_nodes_leave_open() -> None:
    g = torch.Generator().manual_seed(3)
    idle = torch.cat([torch.zeros(400, dtype=F64), torch.rand(400, generator=g, dtype=F64) - 0.3])  # as ReLU's are
    crowded = torch.randn(800, generator=g, dtype=F64) ** 5
    off = 0.0
    for values in (idle, crowded, torch.linspace(-1, 1, 600, dtype=F64)):
        for seed in range(4):
            found = density(diagonal(values), probes=4, steps=20, seed=seed)
            for x in (0.0, 0.1, -2.0 * float(values.abs().max()), 2.0 * float(values.abs().max())):
                truth = float((values < x).double().mean())
                (value, error), (low, high) = found.mass_below(x), found.mass_interval(x)
                assert low <= truth <= high and abs(value - truth) <= error + 1e-12
                off = max(off, abs(value - truth))
    assert off > 0.2  # no small matter: half the mass at 0, and a sign that rounding decides
    assert "95% interval" in str(found)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_what_is_known_exactly_is_told_so(dtype: torch.dtype) -> None:
    cases = {"small": torch.linspace(-3, 5, 20), "equal": torch.ones(60), "nothing": torch.zeros(60)}
    cases |= {"low rank": torch.cat([torch.tensor([5.0, -2.0, 1e-3]), torch.zeros(200)])}
    for name, values in cases.items():
        truth = float(values.double().sum())
        found = trace(diagonal(values.to(dtype)), 24, seed=4)
        assert found.low <= truth <= found.high, name
        assert found.high - found.low <= 1e4 * torch.finfo(dtype).eps * float(values.abs().max()), name
    assert trace(diagonal(torch.linspace(-3, 5, 20, dtype=dtype)), 24).products == 20
    few = torch.tensor([1.0, 1.0, 2.0, -0.5, 0.0], dtype=dtype)
    whole = density(diagonal(few), probes=8, steps=30)
    assert whole.provenance["probes"] == 1 and whole.provenance["converged"]
    assert sorted(whole.values.tolist()) == pytest.approx([-0.5, 0, 1, 1, 2], abs=1e-5)
    low, high = whole.interval(lambda x: x)
    assert low <= 0.7 <= high and high - low < 1e-4
    assert whole.mass_interval(-0.1) == pytest.approx((0.2, 0.2), abs=1e-5) and whole.mass_interval(0.0)[1] >= 0.2


def test_products_by_differences_keep_the_truth_inside() -> None:
    """Their error is no random vector's, so where all of the trace is taken exactly it has to be added."""
    torch.manual_seed(3)
    net, x, y = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)), torch.randn(50, 4), torch.randint(3, (50,))
    exact = copy.deepcopy(net).double()
    truth = float(hessian(lambda: nn.functional.cross_entropy(exact(x.double()), y), exact.parameters()).trace())
    objective = es.Objective(net, lambda net, batch: nn.functional.cross_entropy(net(batch[0]), batch[1]), (x, y))
    with objective.session():
        operator = HessianOperator(objective, "differences")
        whole = trace(operator, 64)
        assert whole.low <= truth <= whole.high and 1e-6 < (whole.high - whole.low) / truth < 0.01
        parts = [trace(operator, 20, seed=seed) for seed in range(20)]
    assert sum(t.low <= truth <= t.high for t in parts) >= 18


@pytest.mark.slow
def test_repeated_eigenvalues_widen_the_interval_and_do_not_spoil_it() -> None:
    """A head on features has every eigenvalue once for each class: a Krylov space sees it once."""
    values = torch.cat([harmonic(20)] * 9)
    found = [trace(diagonal(values), 12, seed=seed) for seed in range(SEEDS)]
    assert sum(t.low <= float(values.sum()) <= t.high for t in found) >= TWO_POINTS


def test_a_loaded_density_has_the_error_bars_that_were_saved(tmp_path: Path) -> None:
    found = density(diagonal(harmonic(50)), probes=3, steps=4)
    found.save(tmp_path / "density.json")
    again = Density.load(tmp_path / "density.json")
    assert again.interval(lambda x: x) == found.interval(lambda x: x) and str(again) == str(found)
    assert again.mass_below(0.1) == found.mass_below(0.1)
    blind = replace(found, probe=None, provenance={})
    assert math.isnan(blind.interval(lambda x: x)[0]) and blind.mass_interval(0.1) == (0.0, 1.0)
    assert blind.mean(lambda x: x)[0] == pytest.approx(found.mean(lambda x: x)[0])
    for odd in ({"dtype": "rand", "steps": "many"}, {"dtype": 3}, {"dtype": "int64", "steps": None}):
        low, high = replace(found, provenance=odd).mass_interval(0.1)
        assert low <= found.mass_below(0.1)[0] <= high


class Levels(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.ones(n, dtype=F64))


@pytest.mark.slow
def test_the_share_that_does_not_move_holds_the_truth() -> None:
    curves = torch.cat([torch.full((70,), 1e-5, dtype=F64), torch.linspace(0.5, 1, 30, dtype=F64)])
    net = Levels(100)
    objective = es.Objective(net, lambda net, x: 0.5 * (curves * net.place**2).sum(), torch.zeros(1))
    edge = edge_of(objective, torch.optim.SGD(net.parameters(), lr=0.5))
    scale, held, narrow = one_rule(edge), 0, 0
    assert scale is not None
    with objective.session():
        along = along_of(objective, edge, scale, curves, horizon=100, loss=5.0, top=0.5, steps=12, seed=0)
        for seed in range(200):
            found = slowness(edge, scale, along, top=0.5, probes=2, steps=12, seed=seed)
            low, high = found.stuck
            held += low <= 0.7 <= high
            narrow += high - low < 0.9
    assert held >= 187 and narrow == 200  # 187 of 200: 1 in 50 where 90% hold


HARD = {
    "1/i": lambda: harmonic(80),
    "one spike": spike,
    "four outliers": lambda: torch.cat([torch.tensor([20.0, 15.0, 10.0, 5.0], dtype=F64), harmonic(250)]),
    "power law": lambda: harmonic(3000, 1.5),
    "Wishart": lambda: wishart(200),
    "digits": lambda: digits(),
}


def wishart(n: int) -> Tensor:
    g = torch.Generator().manual_seed(7)
    x = torch.randn(n, 2 * n, generator=g, dtype=F64)
    return torch.linalg.eigvalsh(x @ x.T / (2 * n))


def digits() -> Tensor:
    """All eigenvalues of a trained 64-10-10 network's Hessian."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images[:600] / 16), torch.tensor(labels[:600])
    net = nn.Sequential(nn.Linear(64, 10), nn.Tanh(), nn.Linear(10, 10)).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return eigenvalues(lambda: nn.functional.cross_entropy(net(x), y), net.parameters()).flip(0)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(HARD))
def test_held_out_seeds_stay_within_two_points_of_the_level(name: str) -> None:
    """Seeds from 20,000 on, which nothing was chosen by."""
    values = HARD[name]()
    operator, total = diagonal(values), float(values.sum())
    traces = [trace(operator, 40, seed=20_000 + seed) for seed in range(SEEDS)]
    held = {"trace": sum(t.low <= total <= t.high for t in traces)}
    powers: dict[str, Callable[[Tensor], Tensor]] = {"x": lambda x: x, "x^2": lambda x: x * x}
    threefold = dict.fromkeys(powers, 0)
    held |= dict.fromkeys(powers, 0)
    for seed in range(SEEDS):
        found = density(operator, probes=8, steps=3, seed=20_000 + seed)
        for power, of in powers.items():
            truth = float(of(values).mean())
            (value, error), (low, high) = found.mean(of), found.interval(of)
            held[power] += low <= truth <= high
            threefold[power] += abs(value - truth) > 3 * error
    width = sum(t.high - t.low for t in traces) / SEEDS / 2 / total
    print(f"{name}: of {SEEDS} {held}; beyond three errors {threefold}; half-width of the trace {width:.2%}")
    assert min(held.values()) >= TWO_POINTS and max(threefold.values()) <= 0.03 * SEEDS
