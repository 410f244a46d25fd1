"""Claims about adaptive methods before Adam: what gradients reveal, the scaled step, AdaGrad, RMSProp."""

import math

import torch
from torch import Tensor

from eigenstep.article.claims.claim import Claim, Measured
from eigenstep.article.experiments import ETA_STAR, EXPERIMENTS, loop
from eigenstep.problems import Quadratic, article
from eigenstep.rules import AdaGrad, Adam, GradientDescent, LinearRule, RMSProp, Rule, SignDescent
from eigenstep.simulation import simulate
from eigenstep.theory import converging_eps

_MOTIVATION, _ADAGRAD = "Adaptive Learning Rate, Motivation", "Adaptive Learning Rate, AdaGrad"
_MOMENTUM_RUN = next(e.rule for e in EXPERIMENTS if e.name == "momentum")


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


def departure_from_exact(along: str) -> Measured:
    """The largest difference of eigencomponents from (1 - lr)^t, gradients over their curvature along these axes."""
    lr, problem = 0.1, Quadratic(torch.logspace(-1, 1, 10, dtype=torch.float64), seed=1)
    axes = problem.vectors if along == "eigenvectors" else torch.eye(10, dtype=torch.float64)
    x, worst = problem.start, 0.0
    curvature = (axes * (problem.hessian(x) @ axes)).sum(0)  # u' H u of each axis u
    for t in range(1, 101):
        x = x - lr * (axes @ ((axes.T @ problem.gradient(x)) / curvature))
        worst = max(worst, float((problem.components(x) - (1 - lr) ** t).abs().max()))
    return Measured(worst, f"100 updates, η = {lr:g}, 10 eigenvalues from .1 to 10, each gradient along the {along}")


def radius_of_sign_descent(components: int) -> Measured:
    """The farthest that sign descent along n eigenvectors is from the minimum late in 2,000 updates, in lr."""
    lr = 0.001
    aligned = Quadratic(torch.linspace(1, 100, components, dtype=torch.float64))
    turned = article().rotated(angle=math.radians(30))
    runs = [(p, simulate(SignDescent(lr=lr), p, steps=2000, keep=("radii",)).radii) for p in (aligned, turned)]
    late, along_coordinates = (float(radii[-500:].max()) / lr for _, radii in runs if radii is not None)
    how = f"{components} component(s), α - sign(α) η each; the article's problem scaled along coordinates that its"
    return Measured(late, f"{how} eigenvectors meet at 30 degrees: {along_coordinates:.1f} η")


def passes_of_momentum(angle: float) -> Measured:
    """Adam's passes of the article's loop, of momentum's 137, with the eigenvectors turned by so many degrees."""
    problem = article().rotated(angle=math.radians(angle))
    passes, momentum = (loop(rule, problem).article_count for rule in (Adam(lr=ETA_STAR), _MOMENTUM_RUN))
    if passes is None or momentum is None:
        return Measured(math.inf, f"eigenvectors at {angle:g} degrees: it does not get there")
    return Measured(
        int(passes) / int(momentum), f"eigenvectors at {angle:g} degrees: Adam {passes}, momentum {momentum} passes"
    )


def lr_against_descent(scale: float) -> Measured:
    """The largest best lr of Adam, RMSProp and AdaGrad over that of gradient descent, the loss times `scale`.

    Best: the fewest updates until the error stays below a hundredth of its start, among 101 lrs over five decades.
    """
    problem = Quadratic([scale, 100 * scale], [0.8, 0.6], start=[0.0, 0.0])
    grid, best = torch.logspace(-4, 1, 101, dtype=torch.float64), []
    for rule in (GradientDescent(), Adam(), RMSProp(), AdaGrad()):
        lr = grid if rule.adaptive else grid / scale
        run = simulate(rule.replace(lr=lr), problem, radius=0.01, steps=500, ball=1e6, settle=True)
        counts = torch.as_tensor(run.settled, dtype=torch.float64)
        best.append((rule.name, float(lr[int(torch.where(counts >= 0, counts, torch.inf).argmin())])))
    (_, descent), *adaptive = best
    words = ", ".join(f"{name} {lr:.2g}" for name, lr in best)
    return Measured(
        max(lr for _, lr in adaptive) / descent, f"eigenvalues {scale:g} and {100 * scale:g}, best η: {words}"
    )


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
        _MOTIVATION,
        "α and λ cannot be told apart from gradients",
        compatible_eigenvalues,
        "ratio of eigenvalues that agree with what was seen",
        "at least",
        1.01,
        {"gradients": 2},
        "a single gradient is seen",
        {"gradients": 1},
        quote="there is no way to disentangle",
    ),
    Claim(
        "scaled-step",
        _MOTIVATION,
        "a perfectly scaled step oscillates within a radius of about η",
        radius_of_sign_descent,
        "farthest, in η",
        "at most",
        2.0,
        {"components": 100},
        "the radius is meant per eigencomponent: of n together it is up to √n η",
        {"components": 1},
        quote="it would let us get within a",
        equation=2,
    ),
    Claim(
        "exact-scaling",
        _MOTIVATION,
        "gradients divided by each λ shrink all components by 1 - η",
        departure_from_exact,
        "largest difference",
        "at most",
        1e-12,
        {"along": "eigenvectors"},
        quote="divide our gradient updates by this estimate",
    ),
    Claim(
        "smaller-eta",
        _MOTIVATION,
        "adaptive methods want smaller values of η than gradient descent",
        lr_against_descent,
        "largest best η of an adaptive method, of gradient descent's",
        "at most",
        1.0,
        {"scale": 1.0},
        "curvature is low: gradient descent's best η goes as 1 / λ, an adaptive method's does not change",
        {"scale": 0.001},
        quote="are typically recommended for methods using adaptive learning rates",
        inferred="'recommended' is read as having its best η there",
    ),
    Claim(
        "direct-step",
        _MOTIVATION,
        "η of an adaptive method is akin to a direct step size",
        first_step,
        "step, in η",
        "at most",
        1.01,
        {"rule": RMSProp(), "updates": 1},
        "the average has filled up and the gradient is steady",
        {"updates": 2000},
        quote="much more akin to a direct step size",
    ),
    Claim(
        "any-coordinates",
        _ADAGRAD,
        "scaling along whatever coordinates the parameters have works well",
        passes_of_momentum,
        "Adam's passes, of momentum's",
        "at most",
        1.0,
        {"angle": 45.0},
        "the eigenvectors lie along the coordinates",
        {"angle": 0.0},
        quote="has empirically been shown to work well",
        inferred="'well' is read as in no more passes than momentum, which coordinates do not change",
    ),
    Claim(
        "adagrad-oscillation",
        _ADAGRAD,
        "AdaGrad's cumulative scale overcomes the oscillation",
        farthest_left,
        "largest part of the error left",
        "at most",
        1e-6,
        {"rule": AdaGrad()},
        quote="the cumulative scale overcomes the",
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
        quote="too aggresive and leads to training hatling",
    ),
    Claim(
        "rmsprop-cures",
        "Adaptive Learning Rate, RMSProp",
        "RMSProp cures the halting: it reaches a minimum that moved",
        distance_kept,
        "distance it keeps from the minimum that moved, in η",
        "at most",
        1e-3,
        {"rule": RMSProp(lr=0.01, alpha=0.9)},
        "eps > ηλ / 2; else it arrives and cycles, η / 2 away",
        {"rule": RMSProp(lr=0.01, alpha=0.9, eps=0.0055)},
        quote="This fixes the issue regarding training halting",
        inferred="'fixes' is read as reaching the minimum",
    ),
)
