"""Which of a run's jumps is to be explained: the one that ended it, else the largest; others are told beside it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from eigenstep.lines import Record
from eigenstep.training.alarms import WINDOW
from eigenstep.training.anomaly import Jump, judge
from eigenstep.training.course import Rise, broke_at, height, recovers, rises_of

JUMPS = ("non-finite", "loss-jump", "gradient-jump")
_TOLD = 5  # other jumps that a sentence names


@dataclass(frozen=True)
class Failure:
    """The jump to explain, as an alarm's record; `since`: the update at which the loss began to leave its usual.

    others: the jumps that are not explained.
    """

    jump: Record
    since: int
    others: tuple[Record, ...]

    def words(self) -> str:
        """The other jumps in words; empty without any."""
        named = [f"{a['step']} ({a['cause']})" for a in self.others[:_TOLD]]
        more = f" and {len(self.others) - _TOLD} more" if len(self.others) > _TOLD else ""
        plural = "s" if len(self.others) > 1 else ""
        return f"other jump{plural} at update{plural} {', '.join(named)}{more}" if named else ""


def failure_of(steps: Sequence[Record], alarms: Sequence[Record]) -> Failure | None:
    """Return the jump to explain, None for a run without one.

    Where loss or gradient are not finite at the end: the jump that led there, that is the first since the loss was last
    back at its usual which has the cause and driver of the last one. Else the jump after which the loss rose highest
    over its usual.
    """
    jumps = _jumps(steps, alarms)
    if not jumps:
        return None
    end, last = broke_at(steps), int(steps[-1]["step"])
    if end is None:
        until = [int(jump["step"]) for jump in jumps[1:]] + [last + 1]
        chosen = max(range(len(jumps)), key=lambda k: _height(steps, jumps[k], until[k]))
        since = chosen
    else:
        chosen = since = max((k for k, jump in enumerate(jumps) if jump["step"] <= end), default=0)
    joined = True
    while since and not recovers(steps, jumps[since - 1]["step"], jumps[since]["step"]):
        since -= 1
        joined = joined and end is not None and _same(jumps[since], jumps[chosen])
        chosen = since if joined else chosen
    others = tuple(jump for k, jump in enumerate(jumps) if k != chosen)
    return Failure(jumps[chosen], int(jumps[since]["step"]), others)


def _jumps(steps: Sequence[Record], alarms: Sequence[Record]) -> list[Record]:
    """The jumps that alarms told of, and in hindsight the rises of the loss that none did, in order."""
    told = [{"evidence": {}, "cause": "unclear", **alarm} for alarm in alarms if alarm["alarm"] in JUMPS]
    missed = [
        _in_hindsight(rise, steps)
        for rise in rises_of(steps)
        if not any(rise.step - WINDOW < a["step"] <= rise.step for a in told if _as_bad(a, rise))
    ]
    return sorted([*told, *missed], key=lambda jump: int(jump["step"]))


def _as_bad(alarm: Record, rise: Rise) -> bool:
    """Whether an alarm shortly before tells of a rise: not one of a finite loss of one that is not."""
    return math.isfinite(rise.loss) or alarm["alarm"] == "non-finite"


def _height(steps: Sequence[Record], jump: Record, end: int) -> float:
    """How far the loss rose after a jump; without losses, how far the gradient did."""
    rose = height(steps, int(jump["step"]), end)
    if rose is None:
        rose = float(jump["evidence"].get("factor") or 0.0)
    return math.inf if math.isnan(rose) else rose


def _same(one: Record, other: Record) -> bool:
    """Whether two jumps have one known cause."""
    known = (one["cause"], one.get("driver"))
    return one["cause"] != "unclear" and known == (other["cause"], other.get("driver"))


def _in_hindsight(rise: Rise, steps: Sequence[Record]) -> Record:
    """A rise that no alarm told of, as an alarm would have: with what the measurements up to it say of its cause."""
    seen = [r for r in steps if r["step"] <= rise.step and r.get("stability_ratio") is not None]
    ratio = seen[-1]["stability_ratio"] if seen else None
    probes = [r["probe_loss"] for r in seen if r.get("probe_loss")]
    at_it = len(probes) > 1 and seen[-1]["step"] == rise.step  # the probe at the very weights
    factor = probes[-1] / probes[-2] if at_it else None
    cause, driver = judge(Jump(rise.factor, factor, ratio, None, None))
    known = "was not measured before" if ratio is None else f"was {ratio:.3g} before update {seen[-1]['step']}"
    why = {
        "data": "data: at the same weights the fixed probe's loss shows no such rise",
        "curvature": f"curvature: the stability ratio {known}",
        "unclear": f"unclear: the stability ratio {known}",
    }
    code = "loss-jump" if math.isfinite(rise.loss) else "non-finite"
    told = {"alarm": code, "sentence": f"{rise.words()}: {why[cause]}", "evidence": {}}
    return {"step": rise.step, "cause": cause, "driver": driver, **told}
