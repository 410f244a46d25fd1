"""Claims about the article's experiment: its counts, its radius, its code, what rotation and tuning do to them."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch

from eigenstep.article.claims.adam import late_loss_at
from eigenstep.article.claims.claim import Claim, Measured
from eigenstep.article.experiments import ETA_MAX, ETA_STAR, EXPERIMENTS, PASSES, TOLERANCE, loop
from eigenstep.article.tuned import CONTENDERS, tuned
from eigenstep.problems import article
from eigenstep.rules import Adam, GradientDescent
from eigenstep.simulation import simulate

_EXPERIMENTS, _CONVERGENCE = "Experiments", "Convergence of Gradient Descent"
_TOO_HIGH, _SGD = f"{_EXPERIMENTS}, SGD - Learning Rate Too High", f"{_EXPERIMENTS}, SGD"
_MOMENTUM_RUN, _ADAM_RUN = f"{_EXPERIMENTS}, Momentum", f"{_EXPERIMENTS}, Adam"
_PRINTED = {e.name: e.printed for e in EXPERIMENTS if e.printed is not None}
_CONVERGING = tuple(e for e in EXPERIMENTS if e.name in _PRINTED)
_ALL = tuple(_PRINTED)
# What the article prints; its loop calls f(p).
_CODE = """
MINIMA = torch.Tensor([0.8, 0.6])
LAMBDA_MIN = 1
LAMBDA_MAX = 100

def f(p):
    H = torch.Tensor([[LAMBDA_MIN, 0], [0, LAMBDA_MAX]])
    delta = p - minima

    return delta @ H @ delta / 2
"""


def departure_from_print(scale: float) -> Measured:
    """The largest difference of the three counts from the printed ones, in both precisions, every lr times `scale`."""
    worst, words = 0, []
    for e in _CONVERGING:
        rule = e.rule.replace(lr=scale * float(e.rule.lr))
        counts = [int(loop(rule, article(), dtype=d).article_count or PASSES) for d in (torch.float32, torch.float64)]
        worst = max(worst, *(abs(count - _PRINTED[e.name]) for count in counts))
        words.append(f"{e.rule.name} {counts[0]} and {counts[1]}")
    return Measured(worst, f"passes in float32 and float64: {', '.join(words)}")


def distance_at_end(loss: float) -> Measured:
    """The largest distance to the minimum at which the loop stops, when told to stop at this loss."""
    ends = [float(article().distance(loop(e.rule, article(), loss=loss).final)) for e in _CONVERGING]
    real = [loop(e.rule, article(), loss=None, radius=1e-6).article_count for e in _CONVERGING]
    counts = " / ".join(str(count) for count in real)
    return Measured(max(ends), f"the code tests the loss; a radius of 1e-6 would take {counts} passes in float64")


def nearest(names: Sequence[str], dtype: str) -> Measured:
    """The nearest that these runs get to the minimum in 1,000 updates at this precision, that of the worst of them."""
    problem, worst, words = article(), 0.0, []
    start = problem.start.to(getattr(torch, dtype))
    for e in (e for e in _CONVERGING if e.name in names):
        least = float(simulate(e.rule, problem, start, steps=1000, keep=("radii",)).kept("radii").min())
        worst = max(worst, least)
        words.append(f"{e.rule.name} {least:.2g}")
    return Measured(worst, f"nearest in {dtype} over 1,000 updates: {', '.join(words)}")


def errors_of_code(**names: Any) -> Measured:
    """How many errors the printed code raises when its loss is evaluated, with these names defined besides."""
    scope: dict[str, Any] = {"torch": torch, **names}
    exec(_CODE, scope)
    try:
        loss = float(scope["f"](torch.zeros(2)))
    except NameError as error:
        return Measured(1, f"NameError: {error}; MINIMA is")
    return Measured(0, f"f(0, 0) = {loss:.6g}")


def pass_out_of_box(factor: float) -> Measured:
    """The pass after which gradient descent at factor * eta_max is outside the box, inf if it never is."""
    left = loop(GradientDescent(lr=factor * ETA_MAX), article()).left
    return Measured(math.inf if left is None else int(left), f"{factor:g} η_max, box |p| < 5, {PASSES:,} passes")


def change_of_amplitude(factor: float) -> Measured:
    """The relative change of the sharp eigencomponent after 2,001 updates at factor * eta_max."""
    problem = article()
    run = simulate(GradientDescent(lr=factor * ETA_MAX), problem, steps=2001)
    begin, end = (float(problem.components(x)[1]) for x in (problem.start, run.final))
    return Measured(abs(abs(end / begin) - 1), f"{factor:g} η_max: from {begin:.3g} to {end:.3g}")


def passes_of_adam(angle: float) -> Measured:
    """Adam's count with the eigenvectors turned by so many degrees."""
    problem = article()
    counts = [loop(Adam(lr=ETA_STAR), problem.rotated(angle=math.radians(a))).article_count for a in (angle, 45.0)]
    how = f"eigenvectors at {angle:g} degrees to the coordinates; at 45, with the same eigen-errors, {counts[1]}"
    return Measured(math.inf if counts[0] is None else int(counts[0]), how)


def change_by_rotation(names: Sequence[str]) -> Measured:
    """The largest change of the count by turning the eigenvectors by 15, 30, 45 and 60 degrees."""
    worst, words = 0, []
    for e in (e for e in _CONVERGING if e.name in names):
        turned = [article(), *(article().rotated(angle=math.radians(a)) for a in (15, 30, 45, 60))]
        counts = [int(loop(e.rule, problem).article_count or PASSES) for problem in turned]
        worst = max(worst, max(counts) - min(counts))
        words.append(f"{e.rule.name} {min(counts)} to {max(counts)}")
    return Measured(worst, ", ".join(words))


def updates_above_after(names: Sequence[str]) -> Measured:
    """The most updates between meeting the tolerance first and being above it last, over 1,000 updates."""
    worst, words = 0, []
    for e in (e for e in _CONVERGING if e.name in names):
        run = loop(e.rule, article(), steps=1000, settle=True)
        first, last = int(run.steps or 0), int(run.last_above or 0)
        worst = max(worst, last - first)
        words.append(f"{e.rule.name}: first met at update {first}, below from {last + 1} on")
    return Measured(worst, f"within 1,000 updates, {'; '.join(words)}")


@functools.cache  # two claims rest on it, and it takes seconds
def adam_against_heavy_ball(tuning: bool) -> Measured:
    """Adam's updates over heavy ball's: each tuned for the settled count, or as the article printed them."""
    if not tuning:
        counts = {e.name: int(loop(e.rule, article()).article_count or PASSES) for e in _CONVERGING}
        return Measured(
            counts["adam"] / counts["momentum"], f"as printed: {counts['adam']} against {counts['momentum']}"
        )
    ball_name, adam_name = "heavy ball, β*", "Adam, default betas"
    names = (ball_name, "gradient descent", adam_name)
    best = {c.name: tuned(c, within=1000, lrs=300) for c in CONTENDERS if c.name in names}
    words = ", ".join(f"{name} {found.measured}" for name, found in best.items())
    adam, ball = (best[name].measured or PASSES for name in (adam_name, ball_name))
    return Measured(adam / ball, f"updates until the loss stays below, within 1,000: {words}")


CLAIMS = (
    Claim(
        "counts",
        _SGD,
        "gradient descent takes 420 iterations, momentum 137, Adam 117",
        departure_from_print,
        "largest difference",
        "at most",
        0,
        {"scale": 1.0},
        quote="converged after 420 iterations",
    ),
    Claim(
        "diverges",
        _TOO_HIGH,
        "at 1.01 η_max training diverges",
        pass_out_of_box,
        "pass that ends outside the box",
        "at most",
        PASSES,
        {"factor": 1.01},
        quote="led to training that diverged",
    ),
    Claim(
        "eta-max-excluded",
        _CONVERGENCE,
        "at η_max itself it neither converges nor diverges",
        change_of_amplitude,
        "relative change of the amplitude after 2,001 updates",
        "at most",
        1e-9,
        {"factor": 1.0},
        quote="Which places a maximum value of",
        equation=15,
        inferred="the article gives the largest η, not what happens at it",
    ),
    Claim(
        "radius",
        _EXPERIMENTS,
        "the runs end within a radius of 1e-6",
        distance_at_end,
        "largest distance at the end",
        "at most",
        1e-6,
        {"loss": TOLERANCE},
        quote="radius of the global minimum",
    ),
    Claim(
        "float32",
        _EXPERIMENTS,
        "in its float32 a radius of 1e-6 can be reached",
        nearest,
        "nearest that the worst run gets",
        "at most",
        1e-6,
        {"names": _ALL, "dtype": "float32"},
        "the method is momentum or Adam: gradient descent stalls before",
        {"names": _ALL[1:]},
        quote="radius of the global minimum",
        inferred="the article sets the radius as the aim, and runs in torch's default precision",
    ),
    Claim(
        "code",
        _EXPERIMENTS,
        "the code runs as printed",
        errors_of_code,
        "errors raised",
        "at most",
        0,
        quote="delta = p - minima",
        inferred="the article prints it as the code of its runs",
    ),
    Claim(
        "adam-117",
        _ADAM_RUN,
        "with a diagonal Hessian Adam converges in 117 epochs",
        passes_of_adam,
        "passes",
        "at most",
        117,
        {"angle": 0.0},
        quote="was able to converge in 117 epcohs",
    ),
    Claim(
        "linear-rotated",
        _CONVERGENCE,
        "for gradient descent and momentum only eigenvalues and eigen-errors count",
        change_by_rotation,
        "largest change of the count by rotation",
        "at most",
        0,
        {"names": _ALL[:2]},
        quote="converge to zero independently",
        equation=11,
        inferred="the equation names no coordinates",
    ),
    Claim(
        "converged",
        _MOMENTUM_RUN,
        "after 420, 137 and 117 passes the runs have converged",
        updates_above_after,
        "most updates from first met to last above",
        "at most",
        0,
        {"names": _ALL},
        "the method is gradient descent; the others cross the tolerance and come back",
        {"names": _ALL[:1]},
        quote="was able to converge in 137 epochs",
        inferred="'converge' is read as staying below the tolerance",
    ),
    Claim(
        "adam-stays",
        _ADAM_RUN,
        "Adam's run converges to the minimum",
        late_loss_at,
        "largest loss after update 2,000",
        "at most",
        TOLERANCE,
        {"minimum": (0.0, 0.0), "updates": 11_000},
        "rounding parks it exactly on the minimum, as it does at (.8, .6)",
        {"minimum": (0.8, 0.6)},
        quote="was able to converge in 117 epcohs",
        inferred="'converge' is read as staying below the tolerance",
    ),
    Claim(
        "favourable-speed",
        "Adaptive Learning Rate, Adam",
        "Adam enjoys favourable convergence speed",
        adam_against_heavy_ball,
        "Adam's updates, of heavy ball's",
        "at most",
        1.0,
        {"tuning": True},
        "the others are left untuned",
        {"tuning": False},
        quote="enjoys favourable convergence speed",
        inferred="'favourable' is read as fewer updates than momentum",
    ),
    Claim(
        "momentum-optimal",
        "Recommendations",
        "plain momentum can end up being the optimal choice",
        adam_against_heavy_ball,
        "Adam's updates, of heavy ball's",
        "at least",
        1.0,
        {"tuning": True},
        quote="optimiser ends up being optimal",
    ),
)
