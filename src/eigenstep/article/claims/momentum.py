"""Claims about momentum: the rolling ball, its factors, conditioning, overshooting, Nesterov, torch's own forms."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from eigenstep.article.claims.claim import Claim, Measured
from eigenstep.problems import DoubleWell, Himmelblau, article
from eigenstep.rules import GradientDescent, HeavyBall, LinearRule, Nesterov
from eigenstep.simulation import simulate
from eigenstep.spectrum import Spectrum
from eigenstep.theory import max_stable_lr, radii, tune

_MOMENTUM, _SLOW_LR = "Momentum", 0.175 * 2 / 101


def departure_from_ball(scheme: str) -> Measured:
    """The largest distance between heavy ball and a ball with friction, on Himmelblau's function, over 200 updates."""
    problem, step, friction = Himmelblau(), 0.05, 2.0
    rule = HeavyBall(lr=step**2, momentum=1 - friction * step)
    run = simulate(rule, problem, steps=200, keep=("points",))
    x, v, ball = problem.start, torch.zeros(2, dtype=torch.float64), [problem.start]
    for _ in range(200):
        old = v
        v = v - step * (friction * v + problem.gradient(x))
        x = x + step * (v if scheme == "semi-implicit" else old)
        ball.append(x)
    worst = float((run.kept("points") - torch.stack(ball)).norm(dim=-1).max())
    how = f"friction c = {friction:g}, step h = {step:g}: β = 1 - ch = {rule.momentum:g}, η = h² = {rule.lr:g}"
    return Measured(worst, f"{how}; 200 updates on Himmelblau's function")


def departure_from_tenfold(eigenvalue: float, momentum: float) -> Measured:
    """How far momentum's speed-up of one slow eigencomponent is from 1 / (1 - momentum), relative."""
    value = torch.tensor([eigenvalue], dtype=torch.float64)
    rates = [float(radii(r, value)) for r in (HeavyBall(lr=_SLOW_LR, momentum=momentum), GradientDescent(lr=_SLOW_LR))]
    faster = math.log(rates[0]) / math.log(rates[1])
    promised = 1 / (1 - momentum)
    regime = f"ηλ = {_SLOW_LR * eigenvalue:.2g}, (1 - √β)² = {(1 - math.sqrt(momentum)) ** 2:.2g}"
    return Measured(abs(faster / promised - 1), f"{regime}: {faster:.2f} times as fast, 1 / (1 - β) = {promised:.0f}")


def departure_from_damping(signs: Sequence[float], momentum: float) -> Measured:
    """How far heavy ball's step is from lr g / (1 + momentum) after 500 gradients of alternating `signs`, relative."""
    rule = HeavyBall(lr=0.1, momentum=momentum)
    x = torch.zeros(1, dtype=torch.float64)
    state = rule.init(x)
    for t in range(1, 501):
        before = x
        x, state = rule.step(x, torch.full_like(x, signs[t % len(signs)]), state, t)
    size = float((x - before).abs()) / float(rule.lr)
    limits = [max_stable_lr(r, 1.0) for r in (rule, GradientDescent())]
    how = f"the step is {size:.6f} of η g; the largest stable lr grows by the inverse, {limits[0] / limits[1]:.6f}"
    return Measured(abs(size * (1 + momentum) - 1), how)


def updates_against_promise(momentum: float, condition: float) -> Measured:
    """How many times the updates promised by an improved condition number are needed at the best lr."""
    best = tune(HeavyBall(momentum=momentum), Spectrum.from_eigenvalues([1.0, condition])).rate
    improved = condition * (1 - momentum) / (1 + momentum)
    promised = (improved - 1) / (improved + 1)
    how = f"β = {momentum:g}, κ = {condition:g}: rate promised {promised:.3f}, the best possible {best:.3f}"
    return Measured(math.log(promised) / math.log(best), how)


def share_in_other_well(momentum: float) -> Measured:
    """The share of 400 starts from which heavy ball settles in another well than gradient descent with the same lr."""
    well, lr = DoubleWell(flat=4.0, sharp=100.0), 0.001
    starts = torch.linspace(-3, 3, 400, dtype=torch.float64).unsqueeze(-1)
    rule = HeavyBall(lr=lr, momentum=torch.tensor([[0.0], [momentum]], dtype=torch.float64))
    ends = simulate(rule, well, starts, steps=2000).final.squeeze(-1)
    other = float((ends[0].sign() != ends[1].sign()).double().mean())
    settled = float(((ends[1].abs() - 1).abs() < 1e-3).double().mean())
    how = f"two wells, sharpness 4 and 100, β = {momentum:g}, η = {lr:g}"
    return Measured(other, f"{how}: {settled:.0%} of the runs settle, {other:.0%} in another than gradient descent's")


def updates_left(tuned: bool) -> Measured:
    """What heavy ball needs of gradient descent's updates, condition 100: its best pair, or beta = .995 at that lr."""
    spectrum = Spectrum.from_eigenvalues([1.0, 100.0])
    alone = tune(GradientDescent(), spectrum)
    best = tune(HeavyBall(), spectrum, over=("lr", "momentum")).rule
    ball = best if tuned else HeavyBall(lr=alone.lr, momentum=0.995)
    rate = float(radii(ball, spectrum.eigenvalues).max())
    how = f"κ = 100: rate {rate:.4f} at β = {ball.as_dict()['momentum']:.3f}, gradient descent's best {alone.rate:.4f}"
    return Measured(math.log(alone.rate) / math.log(rate), how)


def updates_of_nesterov(momentum: float | None) -> Measured:
    """What Nesterov needs of heavy ball's updates, condition 100, each at its best lr; None: and its best momentum."""
    spectrum = Spectrum.from_eigenvalues([1.0, 100.0])
    over = "lr" if momentum is not None else ("lr", "momentum")
    start = 0.9 if momentum is None else momentum
    ball, ahead = (tune(kind(momentum=start), spectrum, over=over) for kind in (HeavyBall, Nesterov))
    betas = [ball.momentum, ahead.momentum]
    how = f"κ = 100: heavy ball's rate {ball.rate:.4f} at β = {betas[0]:.3f}, Nesterov's {ahead.rate:.4f}"
    return Measured(math.log(ball.rate) / math.log(ahead.rate), f"{how} at β = {betas[1]:.3f}")


def departure_of_torch(drop: float) -> Measured:
    """The largest distance over 100 updates between torch's momentum and the article's, lr dropped half-way."""
    first = 0.003
    lrs = [first] * 50 + [first * drop] * 50
    theirs = _torch(lrs, momentum=0.9)
    rule = HeavyBall(momentum=0.9)
    ours = _follow([rule.replace(lr=lr) for lr in lrs])
    worst = float((theirs - ours).norm(dim=-1).max())
    return Measured(worst, f"100 updates of torch.optim.SGD, lr {first:g}, times {drop:g} from update 51 on")


def departure_of_nesterov(read: str) -> Measured:
    """The largest distance over 100 updates between torch's stored point and the article's iterate, or look-ahead."""
    lr, momentum, problem = 0.003, 0.9, article()
    theirs = _torch([lr] * 100, momentum=momentum, nesterov=True)
    w, m, ours = problem.start, torch.zeros(2, dtype=torch.float64), []
    for _ in range(100):
        m = momentum * m - lr * problem.gradient(w + momentum * m)
        w = w + m
        ours.append(w if read == "iterate" else w + momentum * m)
    worst = float((theirs - torch.stack(ours)).norm(dim=-1).max())
    limits = [max_stable_lr(rule, 1.0) for rule in (HeavyBall(momentum=momentum), Nesterov(momentum=momentum))]
    how = f"torch's stored point against the article's {read}; nesterov=True cuts the largest stable lr from"
    return Measured(worst, f"{how} {limits[0]:.3f} / λ to {limits[1]:.3f} / λ")


def _torch(lrs: Sequence[float], **settings: Any) -> Tensor:
    """The points (k, 2) of torch.optim.SGD on the article's problem, with an lr for each update."""
    problem, points = article(), []
    w = torch.nn.Parameter(problem.start.clone())
    optimizer = torch.optim.SGD([w], lr=lrs[0], **settings)
    for lr in lrs:
        optimizer.param_groups[0]["lr"] = lr
        w.grad = problem.gradient(w.detach())
        optimizer.step()
        points.append(w.detach().clone())
    return torch.stack(points)


def _follow(rules: Sequence[LinearRule]) -> Tensor:
    """The points (k, 2) on the article's problem, with a rule for each update."""
    problem, points = article(), []
    x = problem.start
    state = rules[0].init(x)
    for t, rule in enumerate(rules, 1):
        x, state = rule.step(x, problem.gradient(x), state, t)
        points.append(x)
    return torch.stack(points)


CLAIMS = (
    Claim(
        "ball",
        "Introduction",
        "momentum is semi-implicit Euler on a ball with friction",
        departure_from_ball,
        "largest distance between the two paths",
        "at most",
        1e-10,
        {"scheme": "semi-implicit"},
        quote="Euler's method to a ball rolling down a hill",
    ),
    Claim(
        "amplified",
        _MOMENTUM,
        "momentum amplifies the slow components by 1 / (1 - β)",
        departure_from_tenfold,
        "relative departure of the speed-up",
        "at most",
        0.05,
        {"eigenvalue": 1.0, "momentum": 0.9},
        "ηλ << (1 - √β)², unlike in the article's own run",
        {"eigenvalue": 0.003},
        quote="amplify by a factor of 10",
        equation=5,
    ),
    Claim(
        "damped",
        _MOMENTUM,
        "momentum damps an alternating gradient by 1 / (1 + β)",
        departure_from_damping,
        "relative departure of the step",
        "at most",
        1e-9,
        {"signs": (1.0, -1.0), "momentum": 0.9},
        quote="momentum has a small damping effect on oscillations",
        equation=7,
    ),
    Claim(
        "both-factors",
        _MOMENTUM,
        "momentum improves the conditioning by both factors",
        updates_against_promise,
        "updates needed, of those promised",
        "at most",
        1.0,
        {"momentum": 0.9, "condition": 100.0},
        "β is below the optimal one",
        {"momentum": 0.5},
        quote="aid the ill-conditioning problem",
        inferred="the article names each factor, not what both do to κ",
    ),
    Claim(
        "alleviates",
        _MOMENTUM,
        "a well-set β alleviates the ill-conditioning",
        updates_left,
        "updates needed, of those without momentum",
        "at most",
        0.5,
        {"tuned": True},
        quote="alleviate the ill-conditioning problem",
    ),
    Claim(
        "overshoot",
        _MOMENTUM,
        "too high a β overshoots the minimum into another basin",
        share_in_other_well,
        "share of starts that end in another well",
        "at least",
        0.01,
        {"momentum": 0.99},
        quote="overshoots the local minimum and enters a new basin",
    ),
    Claim(
        "nesterov-sense",
        _MOMENTUM,
        "Nesterov's look-ahead makes much more sense",
        updates_of_nesterov,
        "updates needed, of heavy ball's",
        "at most",
        0.99,
        {"momentum": None},
        "momentum outweighs the gradient, as it says: β is above heavy ball's best; with both tuned it is slower",
        {"momentum": 0.9},
        quote="It makes much more sense",
        equation=3,
        inferred="'more sense' is read as fewer updates",
    ),
    Claim(
        "torch-momentum",
        _MOMENTUM,
        "torch's momentum, which the experiment runs, is m = βm - η∇L",
        departure_of_torch,
        "largest distance between the two",
        "at most",
        1e-12,
        {"drop": 0.1},
        "lr stays constant",
        {"drop": 1.0},
        quote="The exact form of the update rule with momentum",
        equation=1,
        inferred="the article runs torch.optim, and gives this formula",
    ),
    Claim(
        "torch-nesterov",
        _MOMENTUM,
        "Nesterov's variant takes the gradient at w + βm (and torch has it)",
        departure_of_nesterov,
        "largest distance between the two",
        "at most",
        1e-12,
        {"read": "iterate"},
        "what torch stores is read as w + βm",
        {"read": "look-ahead"},
        quote="evaluate the gradient where the momentum will take us",
        equation=3,
        inferred="the article gives the variant, and does not speak of torch's",
    ),
)
