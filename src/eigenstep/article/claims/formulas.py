"""Claims that are formulas with a slip of sign or of η: each recomputed from its own definition."""

import math
from collections.abc import Sequence

import torch

from eigenstep.article.claims.claim import Claim, Measured
from eigenstep.article.experiments import ETA_STAR
from eigenstep.problems import Quadratic
from eigenstep.rules import HeavyBall

_MOMENTUM = "Momentum"


def departure_of_sum(signs: Sequence[float], factor: float) -> Measured:
    """How far the article's m is from `factor` g^(t) / (1 -+ beta), relative, for gradients of these signs by turns.

    The gradient at w^(t) is signs[t] g, and m^(t) is made of those at w^(0) to w^(t-1), as the article defines it.
    """
    rule, updates = HeavyBall(lr=0.1, momentum=0.9), 500
    x = torch.zeros(1, dtype=torch.float64)
    state = rule.init(x)
    for t in range(1, updates + 1):
        before = x
        x, state = rule.step(x, torch.full_like(x, signs[(t - 1) % len(signs)]), state, t)
    printed = signs[updates % len(signs)] / (1 - 0.9 * signs[0] * signs[-1])
    share = float(x - before) / printed
    right = "η" if share > 0 else "-η"
    return Measured(
        abs(share / factor - 1),
        f"η = .1, β = .9, {updates} updates: m is {share:.6g} of what is printed, {right} of it",
    )


def departure_of_step(factor: float) -> Measured:
    """The largest relative difference of a step of gradient descent along an eigenvector from -`factor` u'grad L."""
    problem = Quadratic(torch.logspace(-1, 1, 10, dtype=torch.float64), seed=1)
    gradient = problem.vectors.T @ problem.gradient(problem.start)
    step = -ETA_STAR * problem.components(problem.start) * problem.eigenvalues  # the right side, as printed
    worst = float((-factor * gradient / step - 1).abs().max())
    share = float((-gradient / step).mean())
    return Measured(worst, f"η = {ETA_STAR:.4g}: the left side is {share:.6g} times the right, 1 / η; -η u·∇L is meant")


def slope_of_factor(magnitude: bool) -> Measured:
    """The slope in lr of r(lambda_max), or of its magnitude, over that of |r(lambda_min)|, where r(lambda_max) < 0."""

    def factor(eigenvalue: float, lr: float) -> float:
        problem = Quadratic([eigenvalue])
        ratio = float((problem.start - lr * problem.gradient(problem.start)) / problem.start)
        return abs(ratio) if magnitude else ratio

    low, high = 0.015, 0.019  # between 1 / 100 and 2 / 100
    slopes = [(factor(value, high) - factor(value, low)) / (high - low) for value in (1.0, 100.0)]
    what = "|r|" if magnitude else "r"
    return Measured(slopes[1] / abs(slopes[0]), f"{what} for λ = 1 and 100: slopes {slopes[0]:.4g} and {slopes[1]:.4g}")


def violations_of_order(lr: float) -> Measured:
    """How many of r(lambda_max) <= r(lambda_i) <= r(lambda_min) < 1 fail, for 10 eigenvalues."""
    problem = Quadratic(torch.logspace(-1, 1, 10, dtype=torch.float64), seed=1)
    x = problem.start - lr * problem.gradient(problem.start)
    r = problem.components(x) / problem.components(problem.start)
    flattest, sharpest = r[0], r[-1]
    count = int((r < sharpest - 1e-12).sum() + (r > flattest + 1e-12).sum() + (flattest >= 1).sum())
    return Measured(count, f"η = {lr:g}: r(λ_max) = {float(sharpest):.4g}, r(λ_min) = {float(flattest):.4g}")


def departure_of_inverse(mean: float) -> Measured:
    """How far g^-1(g(E(X))) is from E(X), relative, for g = x² with its root, over 10,000 seeded samples."""
    noise = torch.randn(10_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    average = float((mean + 0.1 * noise).mean())
    back = math.sqrt(average**2)
    return Measured(abs(back - average) / abs(average), f"E(X) = {average:.4f}, and back through the square {back:.4f}")


CLAIMS = (
    Claim(
        "slow-sum",
        _MOMENTUM,
        "a constant gradient g makes m = g / (1 - β)",
        departure_of_sum,
        "relative departure of m",
        "at most",
        1e-3,
        {"signs": (1.0,), "factor": 1.0},
        quote="amplify by a factor of 10",
        equation=5,
    ),
    Claim(
        "alternating-sum",
        _MOMENTUM,
        "an alternating gradient (-1)^t g makes m = (-1)^t g / (1 + β)",
        departure_of_sum,
        "relative departure of m",
        "at most",
        1e-3,
        {"signs": (1.0, -1.0), "factor": 1.0},
        quote="momentum has a small damping effect on oscillations",
        equation=7,
    ),
    Claim(
        "step-along",
        "Adaptive Learning Rate, Motivation",
        "the step along an eigenvector is -u·∇L = -ηαλ",
        departure_of_step,
        "relative difference of the two sides",
        "at most",
        1e-9,
        {"factor": 1.0},
        quote="the step size along a given eigenvector",
        equation=1,
    ),
    Claim(
        "slope-of-r",
        "The Steep Valley Problem (ill-conditioning)",
        "past its zero r(λ_max) has a positive, larger slope in η",
        slope_of_factor,
        "its slope, of the size of r(λ_min)'s",
        "at least",
        1.0,
        {"magnitude": False},
        "|r(λ_max)| is meant: r itself falls",
        {"magnitude": True},
        quote="has a positive and larger magnitude gradient than",
    ),
    Claim(
        "r-order",
        "Convergence of Gradient Descent",
        "for nonzero η, r(λ_max) <= r(λ_i) <= r(λ_min) < 1",
        violations_of_order,
        "inequalities that fail",
        "at most",
        0,
        {"lr": -0.1},
        "η > 0: a negative η turns the order round",
        {"lr": 0.1},
        quote="Importantly, for nonzero",
        equation=14,
    ),
    Claim(
        "jensen-root",
        "Adaptive Learning Rate, Adam",
        "E(X) = g⁻¹(g(E(X))), with g the square",
        departure_of_inverse,
        "relative departure",
        "at most",
        1e-9,
        {"mean": -1.0},
        "the mean is not negative; else it is |E(X)|, which the bound on a step's size needs",
        {"mean": 1.0},
        quote="use Jensen's inequality to further our analysis",
        equation=8,
    ),
)
