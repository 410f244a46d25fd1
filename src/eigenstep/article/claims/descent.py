"""Claims about gradient descent: Taylor's theorem, when it converges, which minima it selects."""

import math

import torch

from eigenstep.article.claims.claim import Claim, Measured
from eigenstep.article.wells import well_shares
from eigenstep.problems import DoubleWell, Quadratic
from eigenstep.rules import GradientDescent, Rule
from eigenstep.simulation import simulate

SPECTRA = ((1.0, 5.0), (1.0, 100.0), (0.3, 2.0, 7.0), (1e-3, 1e-2, 1.0))
_DERIVING, _CONVERGENCE = "Deriving Gradient Descent", "Convergence of Gradient Descent"


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


def error_of_first_order(lr: float, eigenvalue: float) -> Measured:
    """The relative error of -lr g², what the first order promises, against the loss's true change in an update."""
    problem = Quadratic([eigenvalue])
    before, gradient = problem.loss_and_gradient(problem.start)
    x, _ = GradientDescent(lr=lr).step(problem.start, gradient, GradientDescent().init(problem.start), 1)
    promised, true = -lr * float(gradient.square().sum()), float(problem.loss(x) - before)
    how = f"λ = {eigenvalue:g}, η = {lr:g}, ηλ = {lr * eigenvalue:g}: promised {promised:.3g}, the change is {true:.3g}"
    return Measured(abs(true / promised - 1), f"{how}; the error is ηλ / 2, and from ηλ = 2 on the loss rises")


def departure_from_powers(rule: Rule) -> Measured:
    """The largest difference of the eigencomponents from (1 - lr λ)^t α, on a rotated quadratic of 10 dimensions."""
    values = torch.logspace(-1, 1, 10, dtype=torch.float64)
    problem = Quadratic(values, seed=1)
    run = simulate(rule, problem, steps=100, keep=("points",))
    t = torch.arange(101, dtype=torch.float64).unsqueeze(-1)
    expected = (1 - rule.lr * values) ** t
    worst = float((problem.components(run.kept("points")) - expected).abs().max())
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
    for values in SPECTRA:
        problem = Quadratic(values, seed=2)
        lr = 2 / max(values) * torch.linspace(0.98, 1.02, 401, dtype=torch.float64)
        top = problem.from_components([0.0] * (len(values) - 1) + [1.0])
        final = simulate(rule.replace(lr=lr), problem, top, steps=1000).final
        back = problem.distance(final) < 1
        edge = float(lr[back].max()) if bool(back.any()) else 0.0
        worst = max(worst, abs(edge * max(values) / 2 - 1))
    return Measured(worst, f"on {len(SPECTRA)} spectra, rotated, each with 401 lrs within 2% of 2 / λ_max")


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
        quote="continuous in its first derivative",
        equation=1,
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
        quote="Assuming second order continuity of our loss function",
        equation=1,
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
        "the length of a step is Euclidean, as Cauchy-Schwarz presumes",
        {"norm": 2.0},
        quote="pointing our perturbation in the opposite direction of the gradient",
    ),
    Claim(
        "eta-small",
        _DERIVING,
        "η << 1 keeps the first-order step valid",
        error_of_first_order,
        "relative error of the first-order change",
        "at most",
        0.1,
        {"lr": 0.05, "eigenvalue": 100.0},
        "λ is not large: it is ηλ that must be << 1",
        {"eigenvalue": 1.0},
        quote="while ensuring our first order approximation valid",
        equation=5,
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
        quote="converge to zero independently",
        equation=11,
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
        quote="we achieve convergence if and only if",
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
        quote="Which places a maximum value of",
        equation=15,
    ),
    Claim(
        "selects-minima",
        "Adaptive Learning Rate, Motivation",
        "η selects which minima can be converged to",
        share_in_sharp_well,
        "share of starts that settle in a well too sharp for η",
        "at most",
        0.0,
        {"lr": 0.0202},
        quote="selecting some subset of minima",
    ),
)
