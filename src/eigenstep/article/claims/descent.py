"""Claims of the article's first half: Taylor's theorem, gradient descent, its best lr, which minima it selects."""

import math

import torch

from eigenstep.article.claims.claim import Claim, Measured
from eigenstep.article.experiments import ETA_STAR
from eigenstep.article.tuned import settled_counts
from eigenstep.article.wells import well_shares
from eigenstep.problems import DoubleWell, Quadratic, article
from eigenstep.rules import GradientDescent, Rule
from eigenstep.simulation import simulate
from eigenstep.spectrum import Spectrum
from eigenstep.theory import predict, tune

_SPECTRA = ((1.0, 5.0), (1.0, 100.0), (0.3, 2.0, 7.0), (1e-3, 1e-2, 1.0))
_DERIVING, _CONVERGENCE, _VALLEY = "Deriving Gradient Descent", "Convergence of Gradient Descent", "Steep Valley"


def remainder_order(power: float, order: int) -> Measured:
    """The power of |dw| with which Taylor's remainder of |w|^power at 0 falls, all derivatives by autograd."""
    dw = torch.logspace(-4, -1, 13, dtype=torch.float64)
    w = torch.zeros((), dtype=torch.float64, requires_grad=True)
    term, expansion, factor = w.abs() ** power, torch.zeros_like(dw), 1.0
    for k in range(order):
        expansion = expansion + float(term.detach()) * dw**k / factor
        (term,) = torch.autograd.grad(term, w, create_graph=True)
        factor *= k + 1
    remainder = (dw**power - expansion).abs()
    slope = float((remainder[-1] / remainder[0]).log() / (dw[-1] / dw[0]).log())
    return Measured(slope, f"|w|^{power:g}, {order - 1} times continuously differentiable: it falls as δw^{slope:.3g}")


def best_direction(norm: float) -> Measured:
    """What a step of length 1 in this norm along -g gains, relative to the best of 3,600 directions."""
    g = torch.tensor([1.0, 10.0], dtype=torch.float64)
    turn = torch.arange(3600, dtype=torch.float64) * (2 * math.pi / 3600)
    fan = torch.stack([turn.cos(), turn.sin()], -1)
    fan = fan / torch.linalg.vector_norm(fan, norm, dim=-1, keepdim=True)
    gains = -(fan @ g)
    along = float(g @ g / torch.linalg.vector_norm(g, norm))
    best = fan[int(gains.argmax())].tolist()
    share = along / float(gains.max())
    return Measured(share, f"for g = (1, 10) the best step is along ({best[0]:.2f}, {best[1]:.2f})")


def factor_of_small_lr(lr: float, eigenvalue: float) -> Measured:
    """The factor by which gradient descent's error changes in an update, at this lr and curvature, by running."""

    def factor(lr: float, eigenvalue: float) -> float:
        run = simulate(GradientDescent(lr=lr), Quadratic([eigenvalue]), steps=10, keep=("radii",))
        assert run.radii is not None  # kept
        return float(run.radii[-1] / run.radii[-2])

    other = factor(lr * 300, eigenvalue / 1000)
    return Measured(
        factor(lr, eigenvalue),
        f"λ = {eigenvalue:g}, η = {lr:g}; at λ = {eigenvalue / 1000:g} even η = {lr * 300:g} converges (factor "
        f"{other:.2g}): the condition is ηλ < 2",
    )


def departure_from_powers(rule: Rule) -> Measured:
    """The largest difference of the eigencomponents from (1 - lr λ)^t α, on a rotated quadratic of 10 dimensions."""
    values = torch.logspace(-1, 1, 10, dtype=torch.float64)
    problem = Quadratic(values, seed=1)
    run = simulate(rule, problem, steps=100, keep=("points",))
    assert run.points is not None  # kept
    t = torch.arange(101, dtype=torch.float64).unsqueeze(-1)
    expected = (1 - rule.lr * values) ** t
    worst = float((problem.components(run.points) - expected).abs().max())
    return Measured(worst, "100 updates, 10 eigenvalues from .1 to 10, seeded rotation")


def left_of_error(eigenvalues: tuple[float, ...]) -> Measured:
    """The part of the error that is left after 2,000 updates at half of eta_max, where r(lambda_max) = 0."""
    problem = Quadratic(eigenvalues)
    lr = 1 / max(eigenvalues)
    run = simulate(GradientDescent(lr=lr), problem, steps=2000)
    left = float(problem.distance(run.final) / problem.distance(problem.start))
    listed = ", ".join(f"{value:g}" for value in eigenvalues)
    return Measured(left, f"eigenvalues {listed}; r(λ_max) = {1 - lr * max(eigenvalues):g}")


def edge_against_eta_max(rule: Rule) -> Measured:
    """The largest relative difference between 2 / lambda_max and the edge found by running 401 lrs around it."""
    worst = 0.0
    for values in _SPECTRA:
        problem = Quadratic(values, seed=2)
        lr = 2 / max(values) * torch.linspace(0.98, 1.02, 401, dtype=torch.float64)
        top = problem.from_components([0.0] * (len(values) - 1) + [1.0])
        final = simulate(rule.replace(lr=lr), problem, top, steps=1000).final
        back = problem.distance(final) < 1
        edge = float(lr[back].max()) if bool(back.any()) else 0.0
        worst = max(worst, abs(edge * max(values) / 2 - 1))
    return Measured(worst, f"on {len(_SPECTRA)} spectra, rotated, each with 401 lrs within 2% of 2 / λ_max")


def best_lr_against_eta_star(rule: Rule) -> Measured:
    """The largest relative difference between 2 / (mu + L) and the lr with the smallest rate, found by searching."""
    found = [tune(rule, Spectrum.from_eigenvalues(values)).lr for values in _SPECTRA]
    worst = max(abs(lr * (min(v) + max(v)) / 2 - 1) for lr, v in zip(found, _SPECTRA, strict=True))
    return Measured(worst, f"best lr by search on {len(_SPECTRA)} spectra, no formula used")


def rate_against_formula(factor: float) -> Measured:
    """The largest difference of the error's factor per update, by running at factor * eta*, from (k - 1) / (k + 1)."""
    worst = 0.0
    for values in _SPECTRA:
        low, high = min(values), max(values)
        problem = Quadratic(values)
        run = simulate(GradientDescent(lr=factor * 2 / (low + high)), problem, steps=400, keep=("radii",))
        assert run.radii is not None  # kept
        rate = float(run.radii[-1] / run.radii[-3]) ** 0.5
        worst = max(worst, abs(rate - (high - low) / (high + low)))
    return Measured(worst, f"error per update over the last of 400, on {len(_SPECTRA)} spectra")


def example(eigenvalues: tuple[float, float]) -> Measured:
    """How far the article's example, eta* = 1/3 and R = 2/3, is from the best lr and its rate, found by searching."""
    best = tune(GradientDescent(), Spectrum.from_eigenvalues(eigenvalues))
    worst = max(abs(best.lr - 1 / 3), abs(best.rate - 2 / 3))
    return Measured(worst, f"best lr {best.lr:.6f}, rate {best.rate:.6f}")


def gap_of_eta_star(condition: float) -> Measured:
    """By what part eta* lies below eta_max, both found by searching, at this condition number."""
    best = tune(GradientDescent(), Spectrum.from_eigenvalues([1.0, condition]))
    gap = 1 - best.lr / best.lr_limit
    return Measured(gap, f"κ = {condition:g}: ratio {1 - gap:.4f}, κ / (κ + 1) = {condition / (condition + 1):.4f}")


def share_of_count(by: str) -> Measured:
    """What the best lr needs of what eta* needs on the article's problem: 'updates', or as their 'rate' says."""
    problem = article()
    spectrum, start = problem.spectrum(), problem.components(problem.start)
    if by == "rate":
        best = tune(GradientDescent(), spectrum)
        at_star = predict(GradientDescent(lr=ETA_STAR), spectrum).rate
        assert at_star is not None  # the spectrum is whole
        return Measured(math.log(at_star) / math.log(best.rate), f"smallest rate {best.rate:.6f} at lr {best.lr:.6f}")
    lr = ETA_STAR * torch.linspace(0.95, 1.0, 501, dtype=torch.float64)
    counts = settled_counts(GradientDescent(), lr, 1000)
    fewest, at_star = float(counts.min()), float(counts[-1])
    where = float(lr[int(counts.argmin())]) / ETA_STAR
    exact = predict(GradientDescent(lr=ETA_STAR), spectrum, start=start, loss=1e-6).settled
    return Measured(
        fewest / at_star, f"{fewest:.0f} updates at {where:.3f} η*, {at_star:.0f} at η* (predicted {exact})"
    )


def share_in_sharp_well(lr: float) -> Measured:
    """The share of 400 starts from which gradient descent settles in a well of sharpness 100, beside one of 4."""
    lrs = torch.tensor([lr, 0.018], dtype=torch.float64)
    shares = well_shares(DoubleWell(flat=4.0, sharp=100.0), lrs, updates=1500)
    share, below = shares.sharp.tolist()
    return Measured(share, f"η = {lr:g}, above 2 / 100 = .02; at η = .018 the share is {below:.0%}")


CLAIMS = (
    Claim(
        "remainder-c1",
        _DERIVING,
        "with a continuous first derivative, Taylor's remainder is O(δw²)",
        remainder_order,
        "power of δw with which it falls",
        "at least",
        1.99,
        {"power": 1.5, "order": 2},
    ),
    Claim(
        "remainder-c2",
        _CONVERGENCE,
        "with a continuous second derivative, Taylor's remainder is O(δw³)",
        remainder_order,
        "power of δw with which it falls",
        "at least",
        2.99,
        {"power": 2.5, "order": 3},
    ),
    Claim(
        "steepest",
        _DERIVING,
        "minus the gradient is the direction that lowers the loss most",
        best_direction,
        "its gain, of the best step of equal length",
        "at least",
        1 - 1e-5,
        {"norm": math.inf},
        "the length of a step is Euclidean",
        {"norm": 2.0},
    ),
    Claim(
        "eta-small",
        _DERIVING,
        "η << 1 keeps the first-order step valid",
        factor_of_small_lr,
        "factor per update at a small η",
        "at most",
        1.0,
        {"lr": 0.05, "eigenvalue": 100.0},
    ),
    Claim(
        "eigencomponents",
        _CONVERGENCE,
        "eigencomponents shrink independently, by (1 - ηλ)^t",
        departure_from_powers,
        "largest difference",
        "at most",
        1e-12,
        {"rule": GradientDescent(lr=0.15)},
    ),
    Claim(
        "converges-iff",
        _CONVERGENCE,
        "it converges if and only if r(λ_max) > -1",
        left_of_error,
        "part of the error left after 2,000 updates",
        "at most",
        1e-6,
        {"eigenvalues": (0.0, 100.0)},
        "λ_min > 0 as well",
        {"eigenvalues": (1.0, 100.0)},
    ),
    Claim(
        "eta-max",
        _CONVERGENCE,
        "η_max = 2 / λ_max",
        edge_against_eta_max,
        "largest relative difference to the edge found by running",
        "at most",
        2e-4,
        {"rule": GradientDescent()},
    ),
    Claim(
        "eta-star",
        _VALLEY,
        "η* = 2 / (λ_min + λ_max) has the smallest rate",
        best_lr_against_eta_star,
        "largest relative difference to the best lr found",
        "at most",
        1e-6,
        {"rule": GradientDescent()},
    ),
    Claim(
        "rate",
        _VALLEY,
        "at η* the rate is R = (κ - 1) / (κ + 1)",
        rate_against_formula,
        "largest difference to the factor per update measured",
        "at most",
        1e-6,
        {"factor": 1.0},
    ),
    Claim(
        "example-1-5",
        _VALLEY,
        "for eigenvalues 1 and 5, η* = 1/3 and R = 2/3",
        example,
        "largest difference to those found",
        "at most",
        1e-6,
        {"eigenvalues": (1.0, 5.0)},
    ),
    Claim(
        "eta-star-near-eta-max",
        "Momentum",
        "for an ill-conditioned problem η* is about η_max",
        gap_of_eta_star,
        "1 - η* / η_max",
        "at most",
        0.05,
        {"condition": 100.0},
    ),
    Claim(
        "eta-star-fewest",
        _VALLEY,
        "η* is optimal: no lr converges faster",
        share_of_count,
        "what the best lr needs, of what η* needs",
        "at least",
        1 - 1e-6,
        {"by": "updates"},
        "judged by the asymptotic rate, not by the count",
        {"by": "rate"},
    ),
    Claim(
        "selects-minima",
        "Adaptive Learning Rate",
        "η selects which minima can be converged to",
        share_in_sharp_well,
        "share of starts that settle in a well too sharp for η",
        "at most",
        0.0,
        {"lr": 0.0202},
    ),
)
