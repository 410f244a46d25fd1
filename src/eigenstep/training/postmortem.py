"""After the fact: when the ratio crossed 1, what the loss did, what was behind it, and what to change."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from eigenstep.errors import InvalidValue
from eigenstep.result import Result, Words, number
from eigenstep.training.alarms import Alarm, RatioChange, is_excess, ratio_change, tells
from eigenstep.training.anomaly import Jump, judge
from eigenstep.training.course import Rise, course_of, rise_of
from eigenstep.training.record import Record

_EARLY = " once most second moments had begun"
JUMPS = ("non-finite", "loss-jump", "gradient-jump")


@dataclass(frozen=True, repr=False)
class Postmortem(Result):
    """What a run's records say.

    spike: the update at which the loss (else the gradient) first jumped or was not finite, None if it never did; by the
    alarms and, since these need some updates before they know what is usual, in hindsight by the recorded losses.
    cause: 'curvature', 'data' or 'unclear', None without a spike. driver: what moved: 'lr', 'sharpness',
    'preconditioner', 'settings' (momentum, nesterov, ...) or 'gradient'.
    crossed: (a, b): the ratio was below 1 before update a and not below before update b, the last such crossing before
    the spike (or of the run); all that is known, so that b - a is its uncertainty. a = 0: already at the first
    measurement. crossed_estimate: where in between, from the recorded lr at the sharpness of a; None if lr does not
    tell. lead: (fewest, most) updates from the crossing to the spike. layers: shares of the sharp direction. change:
    what to do, most telling first. reasons: why an answer is None.
    """

    kind: ClassVar[str] = "postmortem"

    spike: int | None
    cause: str | None
    driver: str | None
    crossed: tuple[int, int] | None
    crossed_estimate: int | None
    lead: tuple[int, int] | None
    ratio: float | None
    max_stable_lr: float | None
    layers: Mapping[str, float]
    change: tuple[str, ...]
    sentence: str
    reasons: Mapping[str, str] = field(default_factory=dict)

    def words(self) -> Words:
        """Return the sentence, the numbers, and what to change."""
        known = {"spike": self.spike, "cause": self.cause, "driver": self.driver, "crossed": self.crossed}
        brief = ", ".join(f"{name} {value}" for name, value in known.items() if value is not None) or self.sentence
        answers = {**known, "lead": self.lead, "ratio": number(self.ratio), "limit": number(self.max_stable_lr)}
        rows = [(name, str(value)) for name, value in answers.items() if value not in (None, "-")]
        rows += [(f"share of {name}", f"{share:.1%}") for name, share in self.layers.items()]
        notes = [*self.change, *(f"{name}: {reason}" for name, reason in self.reasons.items())]
        return Words(brief, self.sentence, rows, notes=notes)

    def plot(self, ax: Any = None) -> Any:
        """Draw between which updates the ratio crossed 1, and the spike; return the axes."""
        from eigenstep import draw

        rows = {}
        if self.crossed is not None:
            rows["ratio crosses 1"] = (self.crossed_estimate or self.crossed[1], *self.crossed)
        ax = draw.ranges(rows, ax)
        if self.spike is not None:
            draw.line_at(self.spike, ax, text="spike", color=draw.VERMILION)
        return draw.describe(ax, "update", "", "" if rows or self.spike else self.sentence)

    def __str__(self) -> str:
        """The sentence, and what to change."""
        return "\n".join([self.sentence, *(f"- {line}" for line in self.change)])


def after_the_fact(records: Sequence[Record], alarms: Sequence[Alarm | Record]) -> Postmortem:
    """Return what a monitor's records (or `read_log`'s) and alarms tell. Raises InvalidValue without records.

    >>> below = {"step": 1, "lr": 0.1, "stability_ratio": 0.5, "max_stable_lr": 0.2, "sharpness": 10.0}
    >>> above = {**below, "step": 9, "lr": 0.3, "stability_ratio": 1.5}
    >>> found = after_the_fact([below, {"step": 5, "lr": 0.3}, above], [])
    >>> found.crossed, found.crossed_estimate, found.driver
    ((1, 9), 5, 'lr')
    """
    steps = [r for r in records if "lr" in r and "alarm" not in r]
    if not steps:
        raise InvalidValue("diagnose: nothing has been recorded yet; take some updates first")
    told = [alarm.as_record() if isinstance(alarm, Alarm) else alarm for alarm in alarms]
    jump = next((a for a in told if a["alarm"] in JUMPS), None)
    rise = rise_of(steps)
    if rise is not None and (jump is None or rise.step < jump["step"]):
        jump = _in_hindsight(rise, steps)
    spike = int(jump["step"]) if jump else None
    if spike is None:
        measured = [r for r in steps if tells(r)]
    else:
        measured = [r for r in steps if r.get("stability_ratio") is not None and r["step"] <= spike]
    if jump and (jump["evidence"].get("after") or {}).get("stability_ratio") is not None:
        measured.append({**jump["evidence"]["after"], "step": spike + 1 if spike else 0})
    crossed, below, above = _crossing(measured)
    reasons = {} if crossed else {"crossed": "the ratio never rose past 1" if measured else "nothing was measured"}
    estimate = _by_lr(steps, crossed, below)
    lead = None
    if crossed and spike is not None:
        lead = (max(spike - crossed[1], 0), spike - crossed[0])
    else:
        reasons["lead"] = "no spike" if spike is None else reasons["crossed"]
    last = above or (measured[-1] if measured else None)
    moved = ratio_change(below, above) if below and above else None
    cause = jump["cause"] if jump else None
    driver = jump["driver"] if jump else (moved.driver if moved else None)
    if cause == "curvature" and driver is None and moved is not None:
        driver = moved.driver
    if spike is None:
        reasons["spike"] = "no jump of the loss was seen"
    limit = (below or last or {}).get("max_stable_lr")
    shares = (last or {}).get("layers") or {}
    return Postmortem(
        spike=spike,
        cause=cause,
        driver=driver,
        crossed=crossed,
        crossed_estimate=estimate,
        lead=lead,
        ratio=last["stability_ratio"] if last else None,
        max_stable_lr=last["max_stable_lr"] if last else None,
        layers=shares,
        change=tuple(_remedies(cause, driver, crossed, limit, shares, spike, moved)),
        sentence=_sentence(jump, crossed, estimate, lead, measured, moved, steps),
        reasons=reasons,
    )


def _in_hindsight(rise: Rise, steps: list[Record]) -> Record:
    """A rise that no alarm told of, as an alarm would have: with what the measurements up to it say of its cause."""
    seen = [r for r in steps if r["step"] <= rise.step and r.get("stability_ratio") is not None]
    ratio = seen[-1]["stability_ratio"] if seen else None
    probes = [r["probe_loss"] for r in seen if r.get("probe_loss")]
    at_it = len(probes) > 1 and seen[-1]["step"] == rise.step  # the probe at the very weights
    factor = probes[-1] / probes[-2] if at_it else None
    cause, driver = judge(Jump(rise.factor, factor, ratio, None, None))
    known = "was not measured before" if ratio is None else f"was last measured at {ratio:.3g}"
    why = {
        "data": "data: at the same weights the fixed probe's loss shows no such rise",
        "curvature": f"curvature: the stability ratio {known}",
        "unclear": f"unclear: the stability ratio {known}",
    }
    told = {"alarm": "loss-jump", "sentence": f"{rise.words()}: {why[cause]}", "evidence": {}}
    return {"step": rise.step, "cause": cause, "driver": driver, **told}


def _crossing(measured: list[Record]) -> tuple[tuple[int, int] | None, Record | None, Record | None]:
    """The last rise of the ratio past 1, and the records on its two sides."""
    found: tuple[tuple[int, int] | None, Record | None, Record | None] = (None, None, None)
    before: Record | None = None
    for record in measured:
        if record["stability_ratio"] >= 1 and (before is None or before["stability_ratio"] < 1):
            found = ((before["step"] if before else 0, record["step"]), before, record)
        before = record
    return found


def _by_lr(steps: list[Record], crossed: tuple[int, int] | None, below: Record | None) -> int | None:
    """The first update within the crossing whose lr alone, at the sharpness measured below, is past the limit."""
    if crossed is None or below is None or not below.get("max_stable_lr"):
        return None
    inside = (r for r in steps if crossed[0] < r["step"] <= crossed[1])
    return next((r["step"] for r in inside if r["lr"] >= below["max_stable_lr"]), None)


def _sentence(
    jump: Record | None,
    crossed: tuple[int, int] | None,
    estimate: int | None,
    lead: tuple[int, int] | None,
    measured: list[Record],
    moved: RatioChange | None,
    steps: list[Record],
) -> str:
    parts = [jump["sentence"].rstrip(".") if jump else f"{len(steps)} updates without a jump of the loss"]
    if course := course_of(steps):
        parts.append(course)
    if crossed and crossed[0] == 0:
        parts.append(f"the ratio was past 1 at the first measurement, before update {crossed[1]}")
    elif crossed:
        by = f", by lr at {estimate}" if estimate is not None else ""
        why = f" because {moved.words()}" if moved else ""
        parts.append(f"the ratio rose past 1 between updates {crossed[0]} and {crossed[1]}{by}{why}")
    elif measured:
        early = "" if all(tells(r) for r in steps if r.get("stability_ratio") is not None) else _EARLY
        parts.append(f"the ratio stayed below 1{early}, last at {measured[-1]['stability_ratio']:.3g}")
    if crossed and lead:
        few, most = lead
        parts.append(f"{few if few == most else f'{few} to {most}'} updates before the jump")
    if crossed and measured[-1]["stability_ratio"] < 1:
        parts.append(f"last measured it was below 1 again, at {measured[-1]['stability_ratio']:.3g}")
    if crossed and not jump:
        highest = max(measured, key=lambda record: record["stability_ratio"])
        parts.append(f"at its highest the ratio was {highest['stability_ratio']:.3g}, before update {highest['step']}")
        usual = highest["stability_ratio"] <= is_excess(highest)
        parts.append(f"about 1 is the edge of stability, and normal{'' if usual else ', so high is not'}")
    return "; ".join(parts) + "."


def _remedies(
    cause: str | None,
    driver: str | None,
    crossed: tuple[int, int] | None,
    limit: float | None,
    shares: Mapping[str, float],
    spike: int | None,
    moved: RatioChange | None,
) -> list[str]:
    below = f" below {limit:.3g}" if limit and math.isfinite(limit) else ""
    if cause == "data":
        return [
            f"look at the batch of update {spike}: its labels, its scale, how its loss was reduced",
            "clip gradients (torch.nn.utils.clip_grad_norm_), so that no single batch moves the weights far",
        ]
    if crossed is None or (cause is None and crossed[0] != 0):
        return []
    first = {
        "lr": f"keep lr{below}, or raise it more slowly: the schedule outran the limit",
        "sharpness": f"lower lr{below}, or cap it with StabilityLR: the loss grew sharper under a fixed lr",
        "preconditioner": "the second moments shrank: raise eps or betas[1], or lower lr" + below,
        "settings": f"the optimizer's settings changed the limit: with them, keep lr{below}",
    }
    lines = [first.get(driver or "", f"start with an lr{below}, or warm up: StabilityLR does both")]
    if shares:
        name, share = next(iter(shares.items()))
        if share >= 0.5:
            lines.append(f"{share:.0%} of the sharp direction lies in {name!r}: normalise it, or give it a lower lr")
    return lines
