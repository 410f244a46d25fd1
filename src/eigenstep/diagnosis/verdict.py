"""The plain verdict: one code from the measurements, each threshold with its reason."""

from dataclasses import dataclass, field

from eigenstep.plain import key
from eigenstep.stability.zero_gradient import DOWNWARDS, ZeroGradient

VERDICTS = {
    "safe": "below the edge, and moving",
    "edge": "at the edge of stability: normal late in training",
    "unstable": "above the edge: it diverges",
    "adapts": "above the limit as it stands, and the optimizer adapts: not a prediction of divergence",
    "settles": "above the limit as it stands, which rises at once: it trains",
    "warm-up": "above the edge in the first updates: a warm-up is needed",
    "crawling": "far below the edge, and slow for that reason",
    "saddle": "the gradient has nothing to offer, and the loss falls to the side",
    "dead": "nothing reaches most of the parameters",
    "done": "nothing left to do",
    "clipped": "above the edge, held by gradient clipping",
    "noisy": "below the edge on all the data, above it on single mini-batches",
    "waiting": "lr = 0: nothing moves yet",
    "unknown": "not judged: neither a limit nor updates on copies",
    "one-step": "no linear limit: judged by one real step",
    "diverged": "the loss is not finite already",
}

# Full-batch runs at the edge of stability read .97 to 1.03 of the limit on average (examples/edge_of_stability.py).
# They come to it from below and stray above, gradient descent to 1.2, methods with a memory to 1.1, then turn back.
EDGE_FROM, EDGE_TO, EDGE_TO_WITH_MEMORY = 0.9, 1.25, 1.1
# Gradient descent from a trained point stayed bounded up to twice the local limit, momentum to 1.1 times.
FLATTER_TO = 2.0
CRAWLING_BELOW = 0.02  # people train at some hundredths of the limit at the least
YOUNG = 0.01  # of that while second moments are young, which may yet fall: by 1 / sqrt(1 - b2), 32 at .999, and more
ALL = 0.99  # of what half the limit would bring within the horizon: then the lr is small, but not slow
NOTHING_LEFT = 1e-3  # of the loss, within the horizon; or of the loss of a model without parameters
STATIONARY = 1e-2  # the gradient's part of the loss within the horizon, below which negative curvature rules
NOISE = 2.0  # times between mini-batches
_NOTHING_LIMITS = "nothing limits it here. No direction curves upwards."


@dataclass(frozen=True)
class VerdictInputs:
    """What the verdict rests on; see the fields' homes. None where it is not known.

    - ratio, low, high: of the largest stable lr; the stability ratio and its interval.
    - decay_term: of the largest stable lr; the part of the ratio that decoupled decay alone makes.
    - progress, possible: parts of the loss within the horizon, at this lr and at half the limit.
    - remaining: a part; the loss over that of the model with all parameters at zero.
    - lowest: a part; the most negative eigenvalue over the largest.
    - clip: a factor; what clipping puts on the update.
    - batch_high, batch_times: a ratio, a factor; the highest of mini-batches, and how far they lie apart.
    - horizon: updates.
    - where, origin: words for the sharp direction.
    - alone: (groups,), ratios; each group's own.
    - nesterov_off: a ratio; without Nesterov's look-ahead, where there is one.
    - played: updates tried on copies; 0 where there were none.
    - fails, rises, trains: of those; see Play.
    - start, high_loss, late_loss: losses; at the play's start, its highest, and where it stands.
    - settled: (updates, ratio, largest stable lr); at its last look, where second moments are young at the start.
    - instead: (lr, loss); one that did not fail on copies, and where the loss stands there.
    - rehearsed: (lr, lr); that of a recommendation, and the one played, where it lies outside its interval.
    - orbit: words for what an optimizer that does not converge ends in.
    - raised: (lr, updates, updates); half the limit, the updates to a tenth there, and those as it is.
    - bottomless: words for a loss that falls without a floor along the next update.
    """

    ratio: float | None = None
    low: float = 0.0
    high: float = 0.0
    moving: bool = True
    adaptive: bool = False
    only_grows: bool = False
    young: bool = False
    played: int = 0
    fails: bool | None = None
    rises: bool | None = None
    trains: bool = False
    start: float = 0.0
    high_loss: float = 0.0
    late_loss: float = 0.0
    settled: tuple[int, float, float] | None = None
    instead: tuple[float, float] | None = None
    rehearsed: tuple[float, float] | None = None
    memory: bool = False
    decay_term: float = field(default=0.0, metadata=key("pull"))
    progress: float = 1.0
    possible: float = 1.0
    remaining: float | None = field(default=None, metadata=key("left"))
    lowest: float | None = None
    zero_gradient: ZeroGradient = field(default_factory=ZeroGradient, metadata=key("silence"))
    clip: float | None = None
    batch_high: float | None = None
    batch_times: float | None = None
    horizon: int = 1000
    where: str = ""
    origin: str = ""
    alone: tuple[float, ...] = ()
    nesterov_off: float | None = None
    bottomless: str | None = None
    orbit: str | None = None
    raised: tuple[float, float, float] | None = None


def code_of(f: VerdictInputs) -> str:
    """Return the verdict's code; the first that applies, the gravest first.

    >>> code_of(VerdictInputs(ratio=3.0, low=2.9, high=3.1)), code_of(VerdictInputs(ratio=1.0, low=0.99, high=1.01))
    ('unstable', 'edge')
    """
    convex = f.lowest is not None and f.lowest > -DOWNWARDS
    finished = f.remaining is not None and f.remaining < NOTHING_LEFT
    if finished and (f.adaptive or f.ratio is None):  # an adaptive rule only circles there, whatever its ratio
        return "done"
    if f.zero_gradient.flat and not finished:
        return "dead"
    if f.zero_gradient.downwards and not finished:
        return "saddle"
    if f.fails:
        return "unstable"
    edge_to = EDGE_TO_WITH_MEMORY if f.memory else EDGE_TO
    if f.ratio is not None and f.low > edge_to and (f.settled is None or f.rises or f.settled[1] > edge_to):
        return _above(f)
    if f.lowest is not None and not convex and f.possible < STATIONARY and not f.trains:
        return "saddle"
    if finished or (convex and f.possible < NOTHING_LEFT and not f.trains):
        return "done"
    if f.ratio is None:
        return "waiting" if not f.moving else "safe" if f.played else "unknown"
    if f.high == 0:  # nothing curves upwards
        return "safe"
    if (f.high if f.settled is None else f.settled[1]) >= EDGE_FROM:
        return "edge"
    if f.batch_high is not None and f.batch_high > edge_to and not f.trains:
        return "noisy"
    slow = f.high < CRAWLING_BELOW * (YOUNG if f.young else 1.0)
    if slow and not (convex and f.progress >= ALL * f.possible):
        return "crawling"
    return "safe"


def _above(f: VerdictInputs) -> str:
    if f.decay_term > 1:
        return "unstable"
    if f.only_grows:
        return "adapts"
    if f.adaptive:
        return "warm-up" if f.young and f.rises else "adapts"
    if f.clip is not None and f.clip * f.high < 1:
        return "clipped"
    if f.fails is None:
        return "unstable"
    return "warm-up" if f.rises else "settles"
