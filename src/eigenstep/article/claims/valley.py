"""Claims about the steep valley: the best lr, its rate, what it does to the sharpest component, how slow it gets."""

import math

import torch

from eigenstep.article.claims.claim import Claim, Measured
from eigenstep.article.claims.descent import SPECTRA
from eigenstep.article.experiments import ETA_STAR
from eigenstep.article.tuned import settled_counts
from eigenstep.problems import Quadratic, article
from eigenstep.rules import GradientDescent, Rule
from eigenstep.simulation import simulate
from eigenstep.spectrum import Spectrum
from eigenstep.theory import predict, radii, tune

_VALLEY = "The Steep Valley Problem (ill-conditioning)"


def best_lr_against_eta_star(rule: Rule) -> Measured:
    """The largest relative difference between 2 / (mu + L) and the lr with the smallest rate, found by searching."""
    found = [tune(rule, Spectrum.from_eigenvalues(values)).lr for values in SPECTRA]
    worst = max(abs(lr * (min(v) + max(v)) / 2 - 1) for lr, v in zip(found, SPECTRA, strict=True))
    return Measured(worst, f"best lr by search on {len(SPECTRA)} spectra, no formula used")


def rate_against_formula(factor: float) -> Measured:
    """The largest difference of the error's factor per update, by running at factor * eta*, from (k - 1) / (k + 1)."""
    worst = 0.0
    for values in SPECTRA:
        low, high = min(values), max(values)
        problem = Quadratic(values)
        run = simulate(GradientDescent(lr=factor * 2 / (low + high)), problem, steps=400, keep=("radii",))
        distances = run.kept("radii")
        rate = float(distances[-1] / distances[-3]) ** 0.5
        worst = max(worst, abs(rate - (high - low) / (high + low)))
    return Measured(worst, f"error per update over the last of 400, on {len(SPECTRA)} spectra")


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
        at_star = float(radii(GradientDescent(lr=ETA_STAR), spectrum.eigenvalues).max())
        return Measured(math.log(at_star) / math.log(best.rate), f"smallest rate {best.rate:.6f} at lr {best.lr:.6f}")
    lr = ETA_STAR * torch.linspace(0.95, 1.0, 501, dtype=torch.float64)
    counts = settled_counts(GradientDescent(), lr, 1000)
    fewest, at_star = float(counts.min()), float(counts[-1])
    where = float(lr[int(counts.argmin())]) / ETA_STAR
    exact = predict(GradientDescent(lr=ETA_STAR), spectrum, start=start, loss=1e-6).settled
    return Measured(
        fewest / at_star, f"{fewest:.0f} updates at {where:.3f} η*, {at_star:.0f} at η* (predicted {exact})"
    )


def factor_of_sharpest(eigenvalues: tuple[float, float]) -> Measured:
    """The factor by which the sharpest component changes in an update, by running at the best lr found by searching."""
    lr = tune(GradientDescent(), Spectrum.from_eigenvalues(eigenvalues)).lr
    factors = []
    for value in eigenvalues:
        run = simulate(GradientDescent(lr=lr), Quadratic([value]), steps=1)
        factors.append(float(run.final / Quadratic([value]).start))
    return Measured(factors[1], f"best lr {lr:.6f}: the flattest component shrinks by {factors[0]:.4f} an update")


def left_at_best_lr(condition: float) -> Measured:
    """The part of the error that is left after 2,000 updates at eta*."""
    problem = Quadratic([1.0, condition])
    run = simulate(GradientDescent(lr=2 / (1 + condition)), problem, steps=2000)
    left = float(problem.distance(run.final) / problem.distance(problem.start))
    return Measured(left, f"κ = {condition:g}, η*, 2,000 updates: R = {(condition - 1) / (condition + 1):.6f}")


CLAIMS = (
    Claim(
        "eta-star",
        _VALLEY,
        "η* = 2 / (λ_min + λ_max) has the smallest rate",
        best_lr_against_eta_star,
        "largest relative difference to the best lr found",
        "at most",
        1e-6,
        {"rule": GradientDescent()},
        quote="will represent the minimum value for",
        equation=4,
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
        quote="The associated value of",
        equation=5,
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
        quote="As a concrete example, consider",
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
        quote="We notice that for an ill-conditioned problem we have",
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
        quote="are indeed the optimal values",
        inferred="the article calls η* optimal for the rate R",
    ),
    Claim(
        "oscillates-at-best",
        _VALLEY,
        "at the best η the sharpest component oscillates",
        factor_of_sharpest,
        "its factor per update",
        "at most",
        -0.1,
        {"eigenvalues": (1.0, 100.0)},
        quote="it is desirable for optimal convergence",
    ),
    Claim(
        "stalls",
        _VALLEY,
        "a very large condition number practically stalls convergence",
        left_at_best_lr,
        "part of the error left after 2,000 updates",
        "at least",
        0.5,
        {"condition": 1e6},
        quote="completely stall convergence for practical purposes",
    ),
)
