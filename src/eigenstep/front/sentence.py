"""What to do about the lr, in words: the diagnosis and the recommendation joined to one story."""

import math

from eigenstep.diagnosis import Diagnosis
from eigenstep.recommendation import Recommendation

KEEP = "Keep the lr"  # how a sentence begins that changes nothing
AS_IT_STANDS = {
    "unstable": "diverges",
    "warm-up": "raises the loss in its first updates",
    "crawling": "crawls",
    "clipped": "is held by gradient clipping alone",
    "noisy": "is stable on all the data, yet not on single mini-batches",
    "edge": "runs at the edge of stability",
    "waiting": "does not move yet",
}


def sentence_of(diagnosis: Diagnosis, recommendation: Recommendation, now: float) -> str:
    """Return what to do first, then the number, then why; `now` is the lr as it stands."""
    if diagnosis.verdict == "diverged" or recommendation.lr is None or recommendation.interval is None:
        text = diagnosis.sentence
        if recommendation.lr is None and diagnosis.verdict not in ("diverged", "dead", "done"):
            text = f"No lr to recommend: {recommendation.reason}. {text}"
        return text
    low, high = recommendation.interval
    keep = low <= now <= high and not diagnosis.failing
    return f"{_do(recommendation, (low, high), now, keep)} {_why(diagnosis, recommendation, now)}"


def _do(found: Recommendation, interval: tuple[float, float], now: float, keep: bool) -> str:
    """What to do with the lr."""
    low, high = interval
    lr, within = found.lr or 0.0, f"{low:.2g} to {high:.2g}"
    if keep:
        return f"{KEEP} at {now:.3g}: it lies among those that train best here, {within}, {lr:.3g} in the middle."
    if now == 0:
        return f"Set the lr to {lr:.3g} ({within})."
    return f"{'Raise' if now < lr else 'Lower'} the lr from {now:.3g} to {lr:.3g} ({within})."


def _why(diagnosis: Diagnosis, found: Recommendation, now: float) -> str:
    """Why: what was tried, what the optimizer does as it stands, how the limit here belongs to the lr."""
    run = max((c for c in found.candidates if c.lr == found.lr), key=lambda c: c.steps, default=None)
    tried = ""
    if run is not None and math.isfinite(run.losses[-1]):
        fell = f"it brought the loss from {found.start:.3g} to {run.losses[-1]:.3g}"
        tried = f"Tried on copies for {run.steps:,} update{'' if run.steps == 1 else 's'}, {fell}."
    state = AS_IT_STANDS.get(diagnosis.verdict)
    as_it_is = f" As it stands, at lr {now:.3g}, the run {state}." if state is not None else ""
    return f"{tried}{as_it_is} {diagnosis.story()}".strip()
