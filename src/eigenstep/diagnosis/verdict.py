"""The plain verdict: one code and one sentence from the measurements, each threshold with its reason."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from eigenstep.diagnosis.rates import updates_told
from eigenstep.plain import key
from eigenstep.stability.zero_gradient import DEAD_FROM, DOWNWARDS, ZeroGradient

VERDICTS = {
    "safe": "below the edge, and moving",
    "edge": "at the edge of stability: normal late in training",
    "unstable": "above the edge: it diverges",
    "adapts": "above the limit as it stands, and the optimizer adapts: not a prediction of divergence",
    "warm-up": "above the edge in the first updates: a warm-up is needed",
    "crawling": "far below the edge, and slow for that reason",
    "saddle": "the gradient has nothing to offer, and the loss falls to the side",
    "dead": "nothing reaches most of the parameters",
    "done": "nothing left to do",
    "clipped": "above the edge, held by gradient clipping",
    "noisy": "below the edge on all the data, above it on single mini-batches",
    "waiting": "lr = 0: nothing moves yet",
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
    trial_rises: bool | None = None
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
    edge_to = EDGE_TO_WITH_MEMORY if f.memory else EDGE_TO
    if f.ratio is not None and f.low > edge_to:
        return _above(f)
    if f.lowest is not None and not convex and f.possible < STATIONARY:
        return "saddle"
    if finished or (convex and f.possible < NOTHING_LEFT):
        return "done"
    if f.ratio is None:
        return "waiting"
    if f.high == 0:  # nothing curves upwards
        return "safe"
    if f.high >= EDGE_FROM:
        return "edge"
    if f.batch_high is not None and f.batch_high > edge_to:
        return "noisy"
    if f.high < CRAWLING_BELOW * (YOUNG if f.young else 1.0) and not (convex and f.progress >= ALL * f.possible):
        return "crawling"
    return "safe"


def _above(f: VerdictInputs) -> str:
    if f.decay_term > 1:
        return "unstable"
    if f.only_grows:
        return "adapts"
    if f.adaptive:
        return "warm-up" if f.young and f.trial_rises else "adapts"
    if f.clip is not None and f.clip * f.high < 1:
        return "clipped"
    return "unstable"


def sentence_of(code: str, f: VerdictInputs, lr: float, limit: float) -> str:
    """Return the verdict in words: what to do first, then the number that says so, then why."""
    r = "" if f.ratio is None else f"{f.ratio:.3g}"
    here = f"lr {lr:.3g} is {r} of the largest stable one, {limit:.3g}"
    above = f"lr {lr:.3g} is {r} times the largest stable one, {limit:.3g}"
    label, action, rest = {
        "safe": ("Stable", "keep the lr", f"{here}." if f.high else _NOTHING_LIMITS),
        "edge": (
            "At the edge",
            "keep the lr late in training and lower it at the start",
            f"{here}. Late in training this is normal (the edge of stability); at its start sharpness usually rises, "
            "and a lower lr is safer.",
        ),
        "unstable": ("Unstable", _lower(f, limit), f"{above}.{_above_the_edge(f)}"),
        "adapts": (
            "Adapting",
            "keep the lr while the loss falls and lower it if the loss rises for long",
            f"{above} as the optimizer stands. The preconditioner moves and makes room above this frozen limit: expect "
            f"oscillation; this is no prediction of divergence.{_tried(f)}",
        ),
        "warm-up": (
            "Needs a warm-up",
            f"begin below lr {limit:.3g} and raise it over the first updates",
            f"{above}. Second moments are young, and some updates tried on copies raise the loss; the lr may rise "
            "while sharpness falls.",
        ),
        "crawling": ("Crawling", f"raise the lr, up to about {limit / 2:.3g}", f"{here}. {_raise_it(f)}"),
        "saddle": (
            "Stuck",
            "perturb the weights or choose an unsymmetrical initialisation",
            "no lr helps. This is a saddle: the gradient has almost nothing to offer while the curvature goes down.",
        ),
        "dead": (
            "Dead",
            "look at the initialisation, the activations and the inputs",
            "the lr is irrelevant. Neither gradient nor curvature reaches "
            f"{f.zero_gradient.share - f.zero_gradient.revives:.0%} of the parameters, nor does a gradient once the "
            "others have moved.",
        ),
        "done": (
            "Nothing left to do",
            "stop or go on as you like",
            f"what the loss can still lose here is negligible{'; any stable lr will do' if f.orbit is None else ''}.",
        ),
        "clipped": (
            "Held by clipping",
            f"keep clipping or lower the lr below {limit:.3g}",
            f"{above}, but clipping shortens the update to {_percent(f.clip)}. Where the gradient becomes small it no "
            "longer does, and the optimizer diverges again.",
        ),
        "noisy": (
            "Noisy",
            f"lower the lr below {lr / (f.batch_high or 1.0):.3g} or take larger mini-batches",
            f"{here}, on all the data; on single mini-batches it is up to {f.batch_high or 0.0:.3g} times what is "
            "stable there. The true edge lies lower.",
        ),
        "waiting": (
            "Waiting for an lr above 0",
            "begin your warm-up",
            f"the largest stable lr is {limit:.3g}." if limit < math.inf else _NOTHING_LIMITS,
        ),
    }[code]
    head = f"{label}, so {action}: {rest}"
    if f.bottomless is not None:
        head = f"No lr is right, so mend the loss first: it has no floor. {label}: {rest}"
    return head + "".join(f" {hint}" for hint in _hints(code, f))


def _lower(f: VerdictInputs, limit: float) -> str:
    """What makes an unstable setting stable: a lower lr, or less decay where decay alone is too much."""
    if f.decay_term > 1:
        return "lower the lr or the weight decay until lr * weight_decay is well below 2"
    return f"lower the lr below {limit:.3g}"


def _hints(code: str, f: VerdictInputs) -> Iterator[str]:
    """What else a reader should know at once."""
    if f.orbit is not None:
        yield f.orbit if code == "done" else f"Near a minimum: {f.orbit[0].lower()}{f.orbit[1:]}"
    if f.bottomless is not None:
        yield f"{f.bottomless[0].upper()}{f.bottomless[1:]}."
    if f.zero_gradient.revives >= DEAD_FROM:
        yield (
            f"{f.zero_gradient.revives:.0%} of the parameters have no gradient yet, but come alive as soon as the "
            "others have moved; the limit may be another one then: diagnose again after some updates."
        )
    if code in ("unstable", "adapts", "warm-up", "clipped"):
        if f.where and f.decay_term <= 1:
            yield f"The sharp direction lies {f.where}, put there by {f.origin}."
        if len(f.alone) > 1 and max(f.alone) < 1:
            yield "Each group alone would be stable; together they are not."
        if f.nesterov_off is not None and f.nesterov_off < 1:
            yield f"Without nesterov it would stand at {f.nesterov_off:.3g} of the limit."
    if code in ("safe", "crawling", "edge", "noisy") and f.clip is not None and f.clip < 1:
        yield f"Clipping shortens the update to {_percent(f.clip)} here, on top of that."
    if code in ("safe", "crawling", "edge") and f.batch_times is not None and f.batch_times > NOISE:
        yield f"Single mini-batches differ by {f.batch_times:.3g} times; noise makes the true edge lower."


def one_step_sentence(name: str, multiple: float | None, reason: str | None) -> str:
    """Return in words what the one real step says of an optimizer without a linear limit."""
    if multiple is None:
        head = f"{name} could not be judged, so mend this first: {reason}."
    elif multiple == math.inf:
        head = "Keep the lr: the loss does not rise along the next update however long it is made."
    elif multiple <= 1:
        head = "Lower the lr: the next update raises the loss as it is."
    else:
        head = f"Keep the lr for now: the next update raises the loss only once made {multiple:.3g} times as long."
    tail = "A one-step quantity: it says nothing of the steps after."
    return f"{head} {name} has no linear limit, so it was judged by one real step. {tail}"


def _raise_it(f: VerdictInputs) -> str:
    """How much sooner half the limit would be there: by the table of changes, where its direction curves upwards."""
    if f.raised is None:
        times = 0.5 / (f.ratio or 0.5)
        return f"At half the limit each update is {times:,.0f} times as long."
    lr, there, here = f.raised
    return (
        f"At half the limit, lr {lr:.3g}, the error in the direction of the gradient's median curvature shrinks to a "
        f"tenth in {updates_told(there)}, as it is in {updates_told(here)}."
    )


def _tried(f: VerdictInputs) -> str:
    if f.trial_rises is False:
        return " Second moments this young say little; no update tried on copies raised the loss above its start."
    return ""


def _above_the_edge(f: VerdictInputs) -> str:
    if f.decay_term > 1:
        return " Decoupled weight decay alone overshoots: lr * weight_decay is above 2."
    if f.clip is not None and f.clip < 1:
        return " Clipping does not shorten the update enough to hold it."
    if not f.memory and f.ratio is not None and f.ratio < FLATTER_TO:
        return " Gradient descent leaves this region, often for a flatter one; above twice the limit it diverges."
    return " The loss will grow along the sharp direction; a brief excess may pass, a lasting one does not."


def _percent(value: float | None) -> str:
    return "an unknown part" if value is None else f"{value:.1%}"
