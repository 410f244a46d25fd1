"""Alarms that know the edge of stability: about 1 is normal; what lasts, jumps or is not finite is said, and why."""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

from eigenstep.lines import Record
from eigenstep.stability.result import MOSTLY

Cause = Literal["curvature", "data", "unclear"]
Driver = Literal["lr", "sharpness", "preconditioner", "settings", "gradient"]

WINDOW = 50  # updates that 'usual' is the median of
FEW = 10  # updates or so before anything counts as unusual
EXCESS = 1.4  # at the edge of stability the ratio hovers about 1; on the digits network for long at 1.1 to 1.3
EXCESS_ADAPTIVE = 2.0  # a frozen-P ratio: Adam stays bounded far beyond 1, for it adapts
LASTING, SPAN = 5, 20  # measurements, over at least so many updates, that make an excess a lasting one
JUMP = 3.0  # times the usual ratio
PART = 0.2  # of the first losses: a jump by less is no matter, however small the loss has become
SPREADS = 10  # robust standard deviations, and a new high by a fifth, that make a loss or gradient unusual


@dataclass(frozen=True)
class Alarm:
    """Something a person should look at, with what drives it.

    code: 'non-finite', 'loss-jump', 'gradient-jump', 'ratio-jump' or 'lasting-excess'. sentence: the same in words.
    cause: 'curvature' or 'data', 'unclear' where the evidence does not tell. driver: what moved. evidence: the numbers.
    """

    step: int
    code: str
    sentence: str
    cause: Cause
    driver: Driver | None
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def as_record(self) -> dict[str, Any]:
        """Return the alarm as a record of the log."""
        return {
            "step": self.step,
            "alarm": self.code,
            "sentence": self.sentence,
            "cause": self.cause,
            "driver": self.driver,
            "evidence": dict(self.evidence),
        }


class Usual:
    """What a number usually is: the median and spread of its last WINDOW finite values."""

    def __init__(self) -> None:
        self.values: deque[float] = deque(maxlen=WINDOW)
        self.first = math.nan  # the first FEW values' median, the scale below which a jump is no matter

    def jumps(self, value: float, factor: float) -> bool:
        """Whether a finite value is unusually large; one that is not finite always is."""
        if not math.isfinite(value):
            return True
        if len(self.values) < FEW or value <= 1.2 * max(self.values) or value <= 0:
            return False
        middle = median(self.values)
        spread = 1.4826 * median(abs(v - middle) for v in self.values)
        return value > factor * middle and value - middle > max(SPREADS * spread, PART * abs(self.first))

    def add(self, value: float) -> None:
        """Take a value in."""
        if math.isfinite(value):
            self.values.append(value)
            if len(self.values) == FEW:
                self.first = median(self.values) if math.isnan(self.first) else self.first

    @property
    def middle(self) -> float:
        """The median, nan without values."""
        return median(self.values) if self.values else math.nan


@dataclass(frozen=True)
class RatioChange:
    """By what factors the ratio's parts have changed between two measurements; `driver` is the one that grew most.

    span: the updates that the two were made before.
    """

    lr: float
    sharpness: float
    preconditioner: float
    settings: bool
    span: tuple[int, int] | None = None

    @property
    def driver(self) -> Driver | None:
        """What grew most, if anything grew by a tenth; changed settings are named where the rest explains less."""
        parts: dict[Driver, float] = {
            "lr": self.lr,
            "sharpness": self.sharpness,
            "preconditioner": self.preconditioner,
        }
        name = max(parts, key=lambda part: parts[part])
        if self.settings and parts[name] < 1.5:
            return "settings"
        return name if parts[name] > 1.1 else None

    def words(self, span: tuple[int, int] | None = None) -> str:
        """The factors in words, with the updates that they are from and to; not if these are `span`, named already."""
        during = f" between updates {self.span[0]} and {self.span[1]}" if self.span and self.span != span else ""
        if self.driver == "settings":
            return f"the optimizer's settings changed{during}"
        names = {
            "lr": "lr",
            "sharpness": "the sharpness",
            "preconditioner": "the preconditioner's share of the curvature",
        }
        grew = [f"{names[n]} grew {getattr(self, n):.3g} times" for n in names if getattr(self, n) > 1.1]
        if not grew:
            return f"neither lr nor the sharpness grew{during}: they were too large before"
        return f"{' and '.join(grew)}{during}"


def ratio_change(old: Mapping[str, Any], new: Mapping[str, Any]) -> RatioChange:
    """Return what moved the ratio from one measured record to another."""
    lr, sharp = _factor(old, new, "lr"), _factor(old, new, "sharpness")
    scaled = _factor(old, new, "preconditioned_sharpness")
    anew = old.get("settings") != new.get("settings")
    return RatioChange(lr, sharp, scaled / sharp if scaled != 1 else 1.0, anew, (int(old["step"]), int(new["step"])))


def tells(record: Mapping[str, Any]) -> bool:
    """Whether a measured ratio tells anything about the run: not one past the edge in what has no P of its own yet.

    A token that comes for the first time, an adapter's first updates, a gate that opens: there P follows the next
    gradient, small as it may be by chance, and an adaptive method's update stays of the size of lr whatever the ratio.
    """
    ratio = record.get("stability_ratio")
    return ratio is not None and (ratio < 1 or (record.get("provisional") or 0.0) <= MOSTLY)


def is_excess(record: Mapping[str, Any]) -> float:
    """The ratio above which this measured record's optimizer is past the edge, beyond the usual hovering."""
    return EXCESS if record.get("preconditioned_sharpness") is None else EXCESS_ADAPTIVE


class RatioWatch:
    """Looks at each measurement for a lasting excess or a jump of the ratio; one alarm an episode."""

    def __init__(self) -> None:
        self.measured: deque[Record] = deque(maxlen=64)
        self.quiet = False

    def suspects(self, record: Record) -> str | None:
        """The alarm that a new measured record would raise, if any; `look` raises it."""
        ratio = record.get("stability_ratio")
        usual = [r["stability_ratio"] for r in self.measured][-LASTING:]
        if ratio is None or not tells(record) or not usual or ratio <= is_excess(record):
            return None
        if len(usual) >= 3 and ratio > JUMP * median(usual) and record["ratio_low"] > is_excess(record):
            return "ratio-jump"
        run = [*list(self.measured)[-(LASTING - 1) :], record]
        for older in reversed(list(self.measured)[: -(LASTING - 1)]):
            if run[-1]["step"] - run[0]["step"] >= SPAN:
                break
            run.insert(0, older)
        if len(run) < LASTING or run[-1]["step"] - run[0]["step"] < SPAN:
            return None
        mean = math.exp(sum(math.log(max(r["stability_ratio"], 1e-300)) for r in run) / len(run))
        low = min(r["stability_ratio"] for r in run)
        return "lasting-excess" if mean > is_excess(record) and low > 1 else None

    def look(self, record: Record) -> Alarm | None:
        """Return the alarm that this measured record raises, and remember the record."""
        code = self.suspects(record)
        before = self._below()
        if tells(record):
            self.measured.append(record)
            if record["stability_ratio"] < 0.9 * is_excess(record):
                self.quiet = False
        if code is None or self.quiet:
            return None
        self.quiet = True
        moved = ratio_change(before or self.measured[0], record)
        ratio, limit, step = record["stability_ratio"], record["max_stable_lr"], record["step"]
        what = (
            f"the stability ratio jumped to {ratio:.3g}"
            if code == "ratio-jump"
            else f"the stability ratio has stayed above the edge, now at {ratio:.3g}"
        )
        sentence = (
            f"step {step}: {what} ({record['ratio_low']:.3g} to {record['ratio_high']:.3g}; 1 is the edge): "
            f"{moved.words()}{where(record)}. An lr below {limit:.3g} would be stable now{_adapts(record)}."
        )
        return Alarm(
            step, code, sentence, "curvature", moved.driver, {"stability_ratio": ratio, "max_stable_lr": limit}
        )

    def _below(self) -> Record | None:
        """The last measured record before the ratio rose above the edge."""
        return next((r for r in reversed(self.measured) if 0 < r["stability_ratio"] < 1), None)


def where(record: Mapping[str, Any]) -> str:
    """Words for where the sharp direction lies."""
    shares: Mapping[str, float] = record.get("layers") or {}
    if not shares:
        return ""
    name, share = next(iter(shares.items()))
    return f"; {share:.0%} of the sharp direction lies in {name!r}"


def _adapts(record: Mapping[str, Any]) -> str:
    return "" if record.get("preconditioned_sharpness") is None else " (with P frozen; the method adapts)"


def _factor(old: Mapping[str, Any], new: Mapping[str, Any], name: str) -> float:
    before, now = old.get(name), new.get(name)
    return now / before if before and now and before > 0 and now > 0 else 1.0
