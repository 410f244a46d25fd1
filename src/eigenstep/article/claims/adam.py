"""Claims about Adam: debiasing, the bound on its step, its first moment, delta, and whether it stops oscillating."""

import math

import torch

from eigenstep.article.claims.adaptive import forced_step
from eigenstep.article.claims.claim import Claim, Measured
from eigenstep.article.experiments import ETA_STAR, TOLERANCE, TURN
from eigenstep.problems import Quadratic, article
from eigenstep.rules import Adam, LinearRule, RMSProp
from eigenstep.spectrum import Spectrum
from eigenstep.theory import adam_step_bound, max_stable_lr, radii, tune

_ADAM = "Adaptive Learning Rate, Adam"


def correction(beta: float, updates: int) -> Measured:
    """By what part debiasing still changes an average after so many updates, 1 - sqrt(1 - beta^t) for the step."""
    moment = beta**updates
    step = 1 - math.sqrt(1 - beta**updates)
    counts = [math.ceil(math.log(gap) / math.log(beta)) for gap in (0.01, 1 - 0.99**2)]
    how = (
        f"t = {updates:,}: s by {moment:.2%}, the step by {step:.2%}; within 1% from {counts[0]:,} and {counts[1]:,} on"
    )
    return Measured(moment, how)


def largest_adam_step(betas: tuple[float, float], updates: int) -> Measured:
    """The step in units of lr after the gradients (b1 / b2)^(t - i), the worst that there are, by running Adam."""
    ratio = betas[0] / betas[1]
    gradients = ratio ** torch.arange(updates - 1, -1, -1, dtype=torch.float64)
    size = forced_step(Adam(betas=betas, eps=1e-150), gradients)  # the first gradients underflow
    at, ever = adam_step_bound(betas, updates), adam_step_bound(betas)
    return Measured(size, f"betas {betas}, update {updates:,}; bound there {at:.3f}, for ever {ever:.3f}; 1 if b1 = b2")


def step_near_minimum(betas: tuple[float, float]) -> Measured:
    """The step in units of lr once gradients have fallen by 1% an update for 500 updates."""
    size = forced_step(Adam(betas=betas), 0.99 ** torch.arange(500, dtype=torch.float64))
    return Measured(size, f"betas {betas}, gradients that fall by 1% an update, update 500")


def largest_late_loss(problem: Quadratic, updates: int) -> Measured:
    """The largest loss of the article's Adam from update 2,000 to the last.

    One lane, step by step, is four times faster than `simulate`, whose bookkeeping is for many.
    """
    rule, x, largest, first = Adam(lr=ETA_STAR), problem.start, 0.0, None
    state = rule.init(x)
    for t in range(updates + 1):
        loss, gradient = problem.loss_and_gradient(x)
        if t >= 2000:
            largest = max(largest, float(loss))
            first = t if first is None and largest > TOLERANCE else first
        x, state = rule.step(x, gradient, state, t + 1)
    burst = "never above 1e-6 again" if first is None else f"above 1e-6 again at update {first:,}"
    end = float(problem.distance(x))
    return Measured(largest, f"updates 2,000 to {updates:,}: {burst}; at the end {end:.2g} from the minimum")


def late_loss_turned(updates: int) -> Measured:
    """The same with the eigenvectors turned by 45 degrees."""
    return largest_late_loss(article().rotated(angle=TURN), updates)


def late_loss_at(minimum: tuple[float, float], updates: int) -> Measured:
    """The same with the minimum at another place, and equal errors."""
    start = [minimum[0] - 0.8, minimum[1] - 0.6]
    return largest_late_loss(Quadratic([1.0, 100.0], minimum, start=start), updates)


def ratio_of_limits(first_beta: float) -> Measured:
    """Adam's largest stable lr, P frozen, over that of RMSProp with as much momentum."""
    adam = max_stable_lr(Adam(betas=(first_beta, 0.999)), 1.0)
    other = max_stable_lr(RMSProp(momentum=first_beta), 1.0)
    return Measured(adam / other, f"lr a < {adam:.4g} for Adam, {other:.4g} for RMSProp with momentum {first_beta:g}")


def gain_of_constant_gradient(rule: LinearRule) -> Measured:
    """The momentum buffer over a constant gradient, after 500 updates."""
    x = torch.zeros(1, dtype=torch.float64)
    state, gradient = rule.init(x), torch.ones(1, dtype=torch.float64)
    for t in range(1, 501):
        x, state = rule.step(x, gradient, state, t)
    gain = float(state.buffers[0].abs())
    return Measured(gain, f"{rule.name}, 500 updates: m = {gain:.6f} g")


def updates_saved(first_beta: float, share: float | None) -> Measured:
    """What part of the updates Adam's first moment leaves, P frozen, condition 100.

    Each at its own best lr or, with `share`, both at that share of the best lr without a first moment.
    """
    spectrum = Spectrum.from_eigenvalues([1.0, 100.0])
    rules = [Adam(betas=(b, 0.999)) for b in (first_beta, 0.0)]
    best = [tune(rule, spectrum, unit=1.0).lr for rule in rules]
    lrs = best if share is None else [share * best[1]] * 2
    settled = [rule.replace(lr=lr) for rule, lr in zip(rules, lrs, strict=True)]
    rates = [float(radii(rule, spectrum.eigenvalues).max()) for rule in settled]
    part = math.log(rates[1]) / math.log(rates[0])
    small = (1 - math.sqrt(first_beta)) ** 2 / (1 - first_beta)
    pairs = [f"rate {rate:.4f} with η = {lr:.2g}" for rate, lr in zip(rates, lrs, strict=True)]
    how = f"{pairs[0]} at β1 = {first_beta:g} (heavy ball with η (1 - β1)), {pairs[1]} at β1 = 0"
    return Measured(part, f"{how}; a, curvature over P, from 1 to 100; (1 - √β1)² / (1 - β1) = {small:.2g}")


def ratio_of_units(gradient: float, guard: float) -> Measured:
    """The unit with delta inside the root over that with eps outside, both equal to guard."""
    square = torch.tensor([gradient], dtype=torch.float64) ** 2
    inside, outside = (float(rule.root(square)) for rule in (RMSProp(delta=guard), RMSProp(eps=guard)))
    return Measured(inside / outside, f"g = {gradient:g}, δ = eps = {guard:g}: units {inside:.4g} and {outside:.4g}")


CLAIMS = (
    Claim(
        "debiasing",
        _ADAM,
        "the effect of Adam's debiasing is negligible for large t",
        correction,
        "part by which it changes s",
        "at most",
        0.01,
        {"beta": 0.999, "updates": 116},
        "t is above 4,600, far beyond the article's 117",
        {"updates": 4603},
        quote="this effect becomes negligible",
    ),
    Claim(
        "jensen",
        _ADAM,
        "by Jensen's inequality Adam's step is at most η",
        largest_adam_step,
        "step, in η",
        "at most",
        1 + 1e-9,
        {"betas": (0.9, 0.999), "updates": 10_000},
        "both moments are estimated correctly, as it says: whatever the gradients, that takes β1 = β2",
        {"betas": (0.999, 0.999)},
        quote="if our first and second moments are estimated correctly",
        equation=9,
    ),
    Claim(
        "slower-near-minimum",
        _ADAM,
        "b2 > b1 lowers the effective lr near the minimum",
        step_near_minimum,
        "step, in η",
        "at most",
        0.5,
        {"betas": (0.9, 0.999)},
        quote="gradually reducing the effective learning rate",
    ),
    Claim(
        "adam-overcomes",
        _ADAM,
        "Adam overcomes the oscillation issue",
        late_loss_turned,
        "largest loss after it had converged",
        "at most",
        TOLERANCE,
        {"updates": 10_000},
        "one stops in time: it is only for a while",
        {"updates": 5_000},
        quote="is able to overcome the",
    ),
    Claim(
        "not-rmsprop",
        _ADAM,
        "Adam is not RMSProp plus momentum",
        ratio_of_limits,
        "ratio of the largest stable lrs",
        "at least",
        1.01,
        {"first_beta": 0.9},
        quote="A common misconception",
    ),
    Claim(
        "no-accumulation",
        _ADAM,
        "Adam's first moment does not accumulate a constant gradient",
        gain_of_constant_gradient,
        "m / g",
        "at most",
        1 + 1e-9,
        {"rule": Adam()},
        quote="it would not accumulate",
        equation=6,
    ),
    Claim(
        "only-smoothing",
        _ADAM,
        "the role of Adam's first moment is smoothing, not momentum",
        updates_saved,
        "updates needed with it, of those without",
        "at least",
        0.95,
        {"first_beta": 0.9, "share": None},
        "η is small, ηa << (1 - √β1)² / (1 - β1); at its best η it saves most updates, as momentum does",
        {"share": 0.05},
        quote="gradient smoothing over a potentially noisy training procedure",
    ),
    Claim(
        "delta-inside",
        _ADAM,
        "the formulas, δ inside the root, are those that torch runs",
        ratio_of_units,
        "ratio of the units",
        "at most",
        1.01,
        {"gradient": 1e-4, "guard": 1e-3},
        "gradients are far above √δ",
        {"gradient": 10.0},
        equation=5,
        inferred="the article runs torch.optim, and gives this formula",
    ),
)
