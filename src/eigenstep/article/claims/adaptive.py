"""Claims about adaptive methods before Adam: what gradients reveal, the scaled step, AdaGrad, RMSProp."""

import math

import torch
from torch import Tensor

from eigenstep.article.claims.claim import Claim, Measured
from eigenstep.problems import Quadratic, article
from eigenstep.rules import AdaGrad, LinearRule, RMSProp, Rule, SignDescent
from eigenstep.simulation import simulate
from eigenstep.theory import converging_eps

_ADAPTIVE, _ADAGRAD = "Adaptive Learning Rate", "AdaGrad"


def compatible_eigenvalues(gradients: int) -> Measured:
    """By what factor the eigenvalues differ that give the same first gradients as lambda = 4, alpha = .5 does."""
    lr, alpha, truth = 0.1, 0.5, 4.0
    tried = torch.cat([torch.logspace(-2, 2, 401, dtype=torch.float64), torch.tensor([truth]).double()])
    errors = alpha * truth / tried  # each makes the same first gradient
    agree = torch.ones_like(tried, dtype=torch.bool)
    seen = []
    for _ in range(gradients):
        slope = tried * errors
        seen.append(float(slope[-1]))
        agree &= (slope - slope[-1]).abs() <= 1e-12 * slope[-1].abs()
        errors = errors - lr * slope
    spread = float(tried[agree].max() / tried[agree].min())
    how = f"{gradients} gradient(s) seen, {int(agree.sum())} of {len(tried)} eigenvalues agree with them"
    if gradients > 1:  # dg / dw, with dw = - lr g
        how += f"; dg / dw = {(seen[1] - seen[0]) / (-lr * seen[0]):.6g}, and λ = {truth:g}"
    return Measured(spread, how)


def radius_of_sign_descent(angle: float) -> Measured:
    """The farthest that sign descent is from the minimum over the last 500 of 2,000 updates, in units of lr."""
    lr = 0.001
    problem = article().rotated(angle=math.radians(angle))
    run = simulate(SignDescent(lr=lr), problem, steps=2000, keep=("radii",))
    assert run.radii is not None  # kept
    return Measured(float(run.radii[-500:].max()) / lr, f"eigenvalues 1 and 100, eigenvectors at {angle:g} degrees")


def first_step(rule: LinearRule, updates: int) -> Measured:
    """The size of the step at this update of a constant gradient, in units of lr."""
    size = forced_step(rule, torch.ones(updates, dtype=torch.float64))
    return Measured(size, f"{rule.name}, update {updates:,} of a constant gradient")


def farthest_left(rule: Rule) -> Measured:
    """The largest part of the error that is left after 3,000 updates, over lrs from .1 to 1e6."""
    problem = article()
    lr = 10.0 ** torch.arange(-1, 7, dtype=torch.float64)
    run = simulate(rule.replace(lr=lr), problem, steps=3000)
    left = problem.distance(run.final) / problem.distance(problem.start)
    return Measured(float(left.max()), f"{rule.name}, {len(lr)} lrs from .1 to 1e6, 3,000 updates")


def left_of_move(rule: LinearRule, moves: bool) -> Measured:
    """The part of the error that is left 1,000 updates after the minimum moved by 1, to a flatter place."""
    steep, flat = Quadratic([100.0], [0.0]), Quadratic([1.0], [1.0 if moves else 0.0])
    x = torch.ones(1, dtype=torch.float64)
    state, begin = rule.init(x), 1.0
    for t in range(1, 1401):
        problem = steep if t <= 400 or not moves else flat
        x, state = rule.step(x, problem.gradient(x), state, t)
        if t == 400 and moves:
            begin = float(flat.distance(x))
    left = float(problem.distance(x)) / begin
    where = "the minimum moves by 1 at update 400, and λ falls from 100 to 1" if moves else "the minimum stays"
    return Measured(left, f"{rule.name}, lr {rule.lr:g}; {where}")


def distance_kept(rule: RMSProp) -> Measured:
    """How far the rule stays from a minimum that moved, the farthest of the last 200 of 3,000 updates, in lr."""
    steep, flat = Quadratic([100.0], [1.0]), Quadratic([1.0], [0.0])
    x, farthest = torch.full((1,), 2.0, dtype=torch.float64), 0.0
    state = rule.init(x)
    for t in range(1, 3001):
        problem = steep if t <= 400 else flat
        x, state = rule.step(x, problem.gradient(x), state, t)
        if t > 2800:
            farthest = max(farthest, float(flat.distance(x)))
    needed = converging_eps(rule, 1.0)
    how = f"{rule.name}, eps {rule.eps:g}; it would converge above {needed:.3g}, else its orbit is lr / 2 wide"
    return Measured(farthest / float(rule.lr), how)


def forced_step(rule: LinearRule, gradients: Tensor) -> float:
    """The size of the last step in units of lr, when these gradients (k,) are given, whatever the point."""
    x = before = torch.zeros(1, dtype=torch.float64)
    state = rule.init(x)
    for t, gradient in enumerate(gradients, 1):
        before = x
        x, state = rule.step(x, gradient.unsqueeze(0), state, t)
    return float((x - before).abs()) / float(rule.lr)


CLAIMS = (
    Claim(
        "alpha-lambda",
        _ADAPTIVE,
        "α and λ cannot be told apart from gradients",
        compatible_eigenvalues,
        "ratio of eigenvalues that agree with what was seen",
        "at least",
        1.01,
        {"gradients": 2},
        "a single gradient is seen",
        {"gradients": 1},
    ),
    Claim(
        "scaled-step",
        _ADAPTIVE,
        "a perfectly scaled step oscillates within about η of the minimum",
        radius_of_sign_descent,
        "farthest, in η",
        "at most",
        2.0,
        {"angle": 30.0},
        "it is meant per coordinate and the Hessian is axis-aligned",
        {"angle": 0.0},
    ),
    Claim(
        "direct-step",
        _ADAPTIVE,
        "η of an adaptive method is akin to a direct step size",
        first_step,
        "step, in η",
        "at most",
        1.01,
        {"rule": RMSProp(), "updates": 1},
        "the average has filled up and the gradient is steady",
        {"updates": 2000},
    ),
    Claim(
        "adagrad-oscillation",
        _ADAGRAD,
        "AdaGrad's cumulative scale overcomes the oscillation, at any η",
        farthest_left,
        "largest part of the error left",
        "at most",
        1e-6,
        {"rule": AdaGrad()},
    ),
    Claim(
        "adagrad-halts",
        _ADAGRAD,
        "AdaGrad brings training to a halt",
        left_of_move,
        "part of the error left",
        "at least",
        0.5,
        {"rule": AdaGrad(lr=0.1), "moves": False},
        "the minimum moves after large gradients",
        {"moves": True},
    ),
    Claim(
        "rmsprop-cures",
        "RMSProp",
        "RMSProp cures the halting: it reaches a minimum that moved",
        distance_kept,
        "distance it keeps from the minimum that moved, in η",
        "at most",
        1e-3,
        {"rule": RMSProp(lr=0.01, alpha=0.9)},
        "eps > ηλ / 2; else it arrives and cycles, η / 2 away",
        {"rule": RMSProp(lr=0.01, alpha=0.9, eps=0.0055)},
    ),
)
