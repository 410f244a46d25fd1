"""The verdict in words: what to do first, then the number that says so, then why."""

import math
from collections.abc import Iterator

from eigenstep.diagnosis.evidence.rates import updates_told
from eigenstep.diagnosis.verdict import FLATTER_TO, NOISE, VerdictInputs
from eigenstep.stability.zero_gradient import DEAD_FROM

_ALIKE = 0.01  # relative; lrs that count as one
_NOTHING_LIMITS = "nothing limits it here. No direction curves upwards."


def sentence_of(code: str, f: VerdictInputs, lr: float, limit: float | None) -> str:
    """Return the verdict in words: what to do first, then the number that says so, then why."""
    here, above, bound = _here(f, lr, limit), _above(f, lr, limit), limit or 0.0
    stable = bound if f.settled is None else f.settled[2]
    label, action, rest = {
        "safe": ("Stable", _other(f) or "keep the lr", _safe(f, here)),
        "edge": (
            "At the edge",
            "keep the lr late in training and lower it at the start",
            f"{here}. Late in training this is normal (the edge of stability); at its start sharpness usually rises, "
            "and a lower lr is safer.",
        ),
        "unstable": ("Unstable", _lower(f, bound), _unstable(f, here, above)),
        "adapts": (
            "Adapting",
            "keep the lr while the loss falls and lower it if the loss rises for long",
            f"{above} as the optimizer stands. The preconditioner moves and makes room above this frozen limit: expect "
            f"oscillation; this is no prediction of divergence.{_tried(f)}",
        ),
        "settles": (
            "Settling",
            "keep the lr",
            f"{above} here and now, but the updates themselves lead to where a larger lr is stable.{_tried(f)}",
        ),
        "warm-up": (
            "Needs a warm-up",
            f"begin below lr {bound:.3g} and raise it over the first updates",
            f"{above}. {_tried(f).strip() or 'The first updates raise the loss.'} The lr may rise while sharpness "
            "falls.",
        ),
        "crawling": ("Crawling", _raised(f, stable), f"{here}. {_raise_it(f)}"),
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
            f"keep clipping or lower the lr below {bound:.3g}",
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
            _rest_of_waiting(limit),
        ),
        "unknown": (
            "Not judged",
            "give more seconds= or mend what `reasons` names",
            "neither the largest stable lr nor an update on copies was to be had.",
        ),
    }[code]
    head = f"{label}, so {action}: {rest}"
    if f.bottomless is not None:
        head = f"No lr is right, so mend the loss first: it has no floor. {label}: {rest}"
    return head + "".join(f" {hint}" for hint in _hints(code, f))


def _rest_of_waiting(limit: float | None) -> str:
    """How far an lr of 0 may rise."""
    if limit is None:
        return "how far it may rise was not measured."
    return f"the largest stable lr is {limit:.3g}." if limit < math.inf else _NOTHING_LIMITS


def _safe(f: VerdictInputs, here: str) -> str:
    return f"{here}." if f.ratio is None or f.high else _NOTHING_LIMITS


def _here(f: VerdictInputs, lr: float, limit: float | None) -> str:
    """Where the lr stands, below the limit or at it; by what was tried where no limit is known."""
    if f.settled is not None:
        updates, ratio, stable = f.settled
        young = ""
        if f.ratio is not None:
            young = f"; now, while they are young, it is {f.ratio:.3g} {'times' if f.ratio > 1 else 'of'} it"
        return (
            f"lr {ratio * stable:.3g} is {ratio:.3g} of the largest stable one, {stable:.3g}, once second moments have "
            f"settled ({updates_told(updates)} on copies{young})"
        )
    if f.ratio is None or limit is None:
        return _course(f) or "nothing is known of its limit"
    return f"lr {lr:.3g} is {f.ratio:.3g} of the largest stable one, {limit:.3g}"


def _above(f: VerdictInputs, lr: float, limit: float | None) -> str:
    """How far the lr lies above the limit of now."""
    return f"lr {lr:.3g} is {f.ratio or 0.0:.3g} times the largest stable one, {limit or 0.0:.3g}"


def _course(f: VerdictInputs) -> str:
    """What the loss did on copies, as part of a sentence; '' where nothing was tried."""
    if not f.played:
        return ""
    if not math.isfinite(f.late_loss):
        return f"tried on copies, the loss diverges from {f.start:.4g} within {updates_told(f.played)}"
    first = f"rises from {f.start:.4g} to {f.high_loss:.4g} first and" if f.rises else f"begins at {f.start:.4g} and"
    return f"tried on copies, the loss {first} stands at {f.late_loss:.4g} after {updates_told(f.played)}"


def _tried(f: VerdictInputs) -> str:
    """What the loss did on copies, as a sentence of its own."""
    course = _course(f)
    return f" {course[0].upper()}{course[1:]}." if course else ""


def _unstable(f: VerdictInputs, here: str, above: str) -> str:
    """Why it is unstable: the limit where that says so, and what was tried."""
    past = f.ratio is not None and f.ratio > 1
    why = f"{above}.{_above_the_edge(f)}" if past else f"{_course(f)}."
    if past and f.fails:
        why += _tried(f)
    elif not past and f.ratio is not None:
        why += f" {here[0].upper()}{here[1:]}: the limit of now allows it, and the updates lead beyond it."
    if f.instead is not None:
        why += f" At lr {f.instead[0]:.3g} it goes from {f.start:.4g} to {f.instead[1]:.4g}."
    return why


def _other(f: VerdictInputs) -> str | None:
    """The rehearsed lr in place of one outside its interval; None where there is none, or the lr lies inside."""
    if f.rehearsed is None:
        return None
    best, lr = f.rehearsed
    return f"{'raise' if best > lr else 'lower'} the lr to {best:.3g}, which rehearsal found best"


def _lower(f: VerdictInputs, limit: float) -> str:
    """What makes an unstable setting stable: a lower lr, or less decay where decay alone is too much."""
    if f.decay_term > 1:
        return "lower the lr or the weight decay until lr * weight_decay is well below 2"
    if f.rehearsed is not None and f.rehearsed[0] < f.rehearsed[1]:
        return _other(f) or "lower the lr"
    if f.instead is not None:
        return f"lower the lr to about {f.instead[0]:.3g}"
    return f"lower the lr below {limit:.3g}" if f.ratio is not None and f.ratio > 1 else "lower the lr"


def _raised(f: VerdictInputs, stable: float) -> str:
    """What a crawling lr is raised to: the rehearsed one, else one that was tried, else half the limit."""
    if f.rehearsed is not None and f.rehearsed[0] > f.rehearsed[1]:
        return _other(f) or "raise the lr"
    to = f.instead[0] if f.instead is not None else stable / 2 if f.raised is None else f.raised[0]
    return f"raise the lr, up to about {to:.3g}"


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
    if code in ("unstable", "adapts", "settles", "warm-up", "clipped"):
        if f.where and f.decay_term <= 1 and (f.ratio or 0.0) > 1:
            yield f"The sharp direction lies {f.where}, put there by {f.origin}."
        if len(f.alone) > 1 and max(f.alone) < 1:
            yield "Each group alone would be stable; together they are not."
        if f.nesterov_off is not None and f.nesterov_off < 1:
            yield f"Without nesterov it would stand at {f.nesterov_off:.3g} of the limit."
    if code in ("safe", "crawling", "edge", "noisy") and f.clip is not None and f.clip < 1:
        yield f"Clipping shortens the update to {_percent(f.clip)} here, on top of that."
    if code in ("safe", "crawling", "edge") and f.batch_times is not None and f.batch_times > NOISE:
        yield f"Single mini-batches differ by {f.batch_times:.3g} times; noise makes the true edge lower."


def one_step_sentence(name: str, multiple: float | None, reason: str | None, f: VerdictInputs | None = None) -> str:
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
    return f"{head} {name} has no linear limit, so it was judged by one real step. {tail}{_tried(f) if f else ''}"


def _raise_it(f: VerdictInputs) -> str:
    """How much sooner it would go: by the table of changes where its direction curves upwards, and as tried."""
    tried = ""
    if f.instead is not None:
        tried = (
            f" Tried on copies at lr {f.instead[0]:.3g}, the loss goes from {f.start:.4g} to {f.instead[1]:.4g}; as it "
            f"is, to {f.late_loss:.4g} after {updates_told(f.played)}."
        )
        if f.raised is None or abs(f.instead[0] / f.raised[0] - 1) > _ALIKE:
            return tried.strip()
    if f.raised is None:
        times = 0.5 / (f.ratio or 0.5)
        return f"At half the limit each update is {times:,.0f} times as long."
    lr, there, here = f.raised
    return (
        f"At half the limit, lr {lr:.3g}, the error in the direction of the gradient's median curvature shrinks to a "
        f"tenth in {updates_told(there)}, as it is in {updates_told(here)}.{tried}"
    )


def _above_the_edge(f: VerdictInputs) -> str:
    if f.decay_term > 1:
        return " Decoupled weight decay alone overshoots: lr * weight_decay is above 2."
    if f.clip is not None and f.clip < 1:
        return " Clipping does not shorten the update enough to hold it."
    if f.played:
        return ""
    if not f.memory and f.ratio is not None and f.ratio < FLATTER_TO:
        return " Gradient descent leaves this region, often for a flatter one; above twice the limit it diverges."
    return " The loss will grow along the sharp direction; a brief excess may pass, a lasting one does not."


def _percent(value: float | None) -> str:
    return "an unknown part" if value is None else f"{value:.1%}"
