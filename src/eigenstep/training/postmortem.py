"""After the fact: when the ratio crossed 1, what the loss did, what was behind it, and what to change."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from eigenstep.errors import InvalidValue
from eigenstep.lines import Record
from eigenstep.result import Result, Words, number
from eigenstep.training.alarms import Alarm, RatioChange, is_excess, ratio_change, tells
from eigenstep.training.course import course_of
from eigenstep.training.failure import failure_of

_EARLY = " once most second moments had begun"
_CREPT = 1.5  # times its first value: an lr that a schedule raised, however little it did between two measurements


@dataclass(frozen=True, repr=False)
class Postmortem(Result):
    """What a run's records say.

    - spike: the update at which the jump began (of the loss, else of the gradient) that ended the run, its loss not
      being finite from then on; in a run that ends finite, that of the highest rise over the usual; None if nothing
      jumped. By the alarms and, since these need some updates before they know what is usual, in hindsight by the
      recorded losses.
    - cause: 'curvature', 'data' or 'unclear', None without a spike.
    - driver: what moved: 'lr', 'sharpness', 'preconditioner', 'settings' (momentum, nesterov, ...) or 'gradient'.
    - crossed: (a, b): the ratio was below 1 before update a and not below before update b: the first such crossing
      since the loss left its usual, else the last before the spike, else the first after it (without a spike, the
      last); all that is known, so that b - a is its uncertainty. a = 0: already at the first measurement.
    - crossed_estimate: where in between, from the recorded lr at the sharpness of a; None if lr does not tell.
    - lead: (fewest, most) updates from the crossing to the spike.
    - ratio, max_stable_lr: before update b, else as last measured.
    - layers: shares of the sharp direction, then.
    - change: what to do, most telling first.
    - sentence: all of it in words.
    - reasons: why an answer is None.
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
    failure = failure_of(steps, told)
    jump = failure.jump if failure else None
    spike = int(jump["step"]) if jump else None
    measured = [r for r in steps if (tells(r) if jump is None else r.get("stability_ratio") is not None)]
    after = (jump["evidence"].get("after") or {}) if jump else {}
    if spike is not None and after.get("stability_ratio") is not None and not _has(measured, spike + 1):
        measured = sorted([*measured, {**after, "step": spike + 1}], key=lambda r: int(r["step"]))
    crossed, below, above = _crossing(measured, failure.since if failure else None, spike)
    reasons = {} if crossed else {"crossed": "the ratio never rose past 1" if measured else "nothing was measured"}
    estimate = _by_lr(steps, crossed, below)
    lead = None
    if crossed and spike is not None and crossed[0] <= spike:
        lead = (max(spike - crossed[1], 0), spike - crossed[0])
    else:
        late = "the ratio rose past 1 only after the spike" if crossed else reasons.get("crossed", "")
        reasons["lead"] = "no spike" if spike is None else late
    last = above or (measured[-1] if measured else None)
    moved = _moved(measured[0], below, above) if below and above else None
    cause = jump["cause"] if jump else None
    driver = jump.get("driver") if jump else None
    if cause != "data" and moved is not None:
        driver = moved.driver or driver
    if spike is None:
        reasons["spike"] = "no jump of the loss was seen"
    limit = min((r["max_stable_lr"] for r in (below, last) if r and r.get("max_stable_lr")), default=None)
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
        change=tuple(_remedies(jump, driver, crossed, limit, shares)),
        sentence=_sentence(jump, crossed, estimate, lead, measured, moved, steps, failure.words() if failure else ""),
        reasons=reasons,
    )


def _has(measured: list[Record], step: int) -> bool:
    return any(r["step"] == step for r in measured)


Crossing = tuple[tuple[int, int] | None, Record | None, Record | None]


def _crossing(measured: list[Record], since: int | None, spike: int | None) -> Crossing:
    """The rise of the ratio past 1 to tell of (see Postmortem), and the records on its two sides."""
    found: list[tuple[tuple[int, int], Record | None, Record]] = []
    before: Record | None = None
    for record in measured:
        if record["stability_ratio"] >= 1 and (before is None or before["stability_ratio"] < 1):
            found.append(((before["step"] if before else 0, record["step"]), before, record))
        before = record
    if not found:
        return None, None, None
    if spike is None or since is None:
        return found[-1]
    until = [one for one in found if one[0][1] <= spike + 1]
    within = [one for one in until if one[0][1] > since]
    return within[0] if within and since < spike else until[-1] if until else found[0]


def _moved(first: Record, below: Record, above: Record) -> RatioChange:
    """What moved the ratio past 1; where lr creeps, its growth is told from the first measurement on."""
    near, far = ratio_change(below, above), ratio_change(first, above)
    return far if near.lr > 1 and far.lr > _CREPT * near.lr and far.driver == "lr" else near


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
    others: str,
) -> str:
    parts = [jump["sentence"].rstrip(".") if jump else f"{len(steps)} updates without a jump of the loss"]
    if course := course_of(steps):
        parts.append(course)
    if crossed and crossed[0] == 0:
        parts.append(f"the ratio was past 1 at the first measurement, before update {crossed[1]}")
    elif crossed:
        by = f", by lr at {estimate}" if estimate is not None else ""
        why = f" because {moved.words(crossed)}" if moved else ""
        parts.append(f"the ratio rose past 1 between updates {crossed[0]} and {crossed[1]}{by}{why}")
    elif measured:
        early = _EARLY if len(measured) < sum(r.get("stability_ratio") is not None for r in steps) else ""
        parts.append(f"the ratio stayed below 1{early}, {_last(measured)}")
    if crossed and lead:
        few, most = lead
        parts.append(f"{few if few == most else f'{few} to {most}'} updates before the jump")
    elif crossed and jump:
        parts.append("that is after the jump")
    if crossed:
        highest = max(measured, key=lambda record: record["stability_ratio"])
        parts.append(f"at its highest the ratio was {highest['stability_ratio']:.3g}, before update {highest['step']}")
        again = "below 1 again, " if measured[-1]["stability_ratio"] < 1 else ""
        parts.append(f"{again}{_last(measured)}")
        if not jump:
            usual = highest["stability_ratio"] <= is_excess(highest)
            parts.append(f"about 1 is the edge of stability, and normal{'' if usual else ', so high is not'}")
    if others:
        parts.append(others)
    return "; ".join(parts) + "."


def _last(measured: list[Record]) -> str:
    return f"last measured at {measured[-1]['stability_ratio']:.3g}, before update {measured[-1]['step']}"


def _remedies(
    jump: Record | None,
    driver: str | None,
    crossed: tuple[int, int] | None,
    limit: float | None,
    shares: Mapping[str, float],
) -> list[str]:
    below = f" below {limit:.3g}" if limit and math.isfinite(limit) else ""
    if jump is not None and jump["cause"] == "data":
        look = f"look at the batch of update {jump['step']}: its labels, its scale, how its loss was reduced"
        if jump["alarm"] == "non-finite":
            return [
                look,
                "skip an update whose loss or gradient is not finite: clip_grad_norm_ with error_if_nonfinite=True "
                "raises before the weights take it; clipping alone makes every gradient nan",
            ]
        return [look, "clip gradients (torch.nn.utils.clip_grad_norm_), so that no single batch moves the weights far"]
    if crossed is None or (jump is None and crossed[0] != 0):
        return []
    first = {
        "lr": f"keep lr{below}, or raise it more slowly: the schedule outran the limit",
        "sharpness": f"lower lr{below}, or cap it with StabilityLR: the loss grew sharper",
        "preconditioner": "the second moments shrank: raise eps or betas[1], or lower lr" + below,
        "settings": f"the optimizer's settings changed the limit: with them, keep lr{below}",
    }
    lines = [first.get(driver or "", f"start with an lr{below}, or warm up: StabilityLR does both")]
    if shares:
        name, share = next(iter(shares.items()))
        if share >= 0.5:
            lines.append(f"{share:.0%} of the sharp direction lies in {name!r}: normalise it, or give it a lower lr")
    return lines
