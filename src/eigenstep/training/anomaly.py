"""Jumps of the loss or the gradient, seen at each update; and whether curvature or the data are behind them."""

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from torch import Tensor

from eigenstep.training.alarms import Alarm, Cause, Driver, RatioChange, Usual, ratio_change, where
from eigenstep.training.probe import Probe
from eigenstep.training.record import Record

WINDOW = 50  # updates for which a jump's verdict stands for what follows from it
LOSS_JUMP, GRADIENT_JUMP = 1.5, 4.0  # times the usual
PART = 0.3  # of the batch's jump, in logarithms: a probe that shows less did not jump, so that the batch did


@dataclass(frozen=True)
class Jump:
    """What is known when a loss or gradient jumps at an update.

    factor: the batch's loss, or its gradient's norm, over the usual one. probe_factor: the probe's at the very weights,
    its loss over its usual, its gradient's norm over the batches' usual.
    ratio: the stability ratio, the larger one of the last measurement's, scaled to the present lr, and of the state
    after the update. earlier: the verdict on a jump shortly before. moved: what moved the ratio.
    """

    factor: float
    probe_factor: float | None
    ratio: float | None
    earlier: tuple[Cause, Driver | None] | None
    moved: RatioChange | None


def judge(jump: Jump) -> tuple[Cause, Driver | None]:
    """Tell curvature from data.

    At the same weights the batch jumped and the fixed probe did not: data. Both did, so that the weights had moved:
    after an earlier jump its verdict stands; else the ratio was past 1 (curvature), or nothing tells.
    """
    grew = jump.probe_factor
    if grew is not None and math.isfinite(grew):
        batch = math.inf if math.isnan(jump.factor) else max(jump.factor, 1.0)
        if grew < min(batch, 1e6) ** PART:
            return "data", "gradient"
    if jump.earlier is not None:
        return jump.earlier
    if jump.ratio is not None and jump.ratio >= 1:
        return "curvature", jump.moved.driver if jump.moved else None
    return "unclear", None


@dataclass
class Anomalies:
    """Looks at each update's loss and gradient; one alarm an episode. `probe` is asked only when something jumps."""

    probe: Probe
    losses: Usual = field(default_factory=Usual)
    grads: Usual = field(default_factory=Usual)
    quotients: deque[float] = field(default_factory=lambda: deque(maxlen=5))  # probe loss over the usual batch loss
    below: Record | None = None  # the last measured record whose ratio was below 1,
    above: Record | None = None  # and the first one since whose ratio was not
    until: int = 0  # the last update of the present episode
    verdict: tuple[Cause, Driver | None] | None = None
    broken: bool = False  # a loss that was not finite has been told

    def measured(self, record: Mapping[str, Any]) -> None:
        """Take a measurement in."""
        if 0 < (record.get("stability_ratio") or 0) < 1:
            self.below, self.above = dict(record), None
        elif record.get("stability_ratio") and self.above is None:
            self.above = dict(record)
        value = record.get("probe_loss")
        if value is not None and math.isfinite(value) and record["step"] > self.until:
            self.quotients.append(value / self._scale())

    def look(
        self,
        record: Record,
        weights: Callable[[], dict[int, Tensor]],
        last: Record | None,
        measure: Callable[[], Record],
    ) -> Alarm | None:
        """Return the alarm that an update's record raises.

        `weights` gives those that its loss was computed at, `measure` the state after it; both are asked only then.
        """
        loss, gradient = record["loss"], record["grad_norm"]
        code = self._code(loss, gradient)
        alarm = None
        if code is not None:
            in_episode = record["step"] <= self.until
            if not in_episode or (code == "non-finite" and not self.broken):
                alarm = self._alarm(code, record, weights(), last, measure(), in_episode)
                self.broken = self.broken or code == "non-finite"
                self.verdict = (alarm.cause, alarm.driver)
            self.until = record["step"] + WINDOW
        for usual, value in ((self.losses, loss), (self.grads, gradient)):
            if value is not None:
                usual.add(value)
        return alarm

    def _code(self, loss: float | None, gradient: float | None) -> str | None:
        if any(v is not None and not math.isfinite(v) for v in (loss, gradient)):
            return "non-finite"
        self.broken = False
        if loss is not None and self.losses.jumps(loss, LOSS_JUMP):
            return "loss-jump"
        if gradient is not None and self.grads.jumps(gradient, GRADIENT_JUMP):
            return "gradient-jump"
        return None

    def _alarm(
        self,
        code: str,
        record: Record,
        weights: dict[int, Tensor],
        last: Record | None,
        after: Record,
        in_episode: bool,
    ) -> Alarm:
        loss, gradient = record["loss"], record["grad_norm"]
        by_gradient = code == "gradient-jump" or ((loss is None or math.isfinite(loss)) and code == "non-finite")
        probe_factor = None
        if weights and by_gradient:
            probe_factor = _over(self.probe.gradient_norm(weights), self.grads.middle)
        elif weights:
            usual = median(self.quotients) if self.quotients else math.nan
            probe_factor = self.probe.loss(weights) / self._scale() / usual
        factor = _over(gradient, self.grads.middle) if by_gradient else _over(loss, self.losses.middle)
        before, scaled, now = (last or {}).get("stability_ratio"), None, after.get("stability_ratio")
        if last is not None and before is not None:
            scaled = before * record["lr"] / last["lr"] if last["lr"] else before
        ratio = max((r for r in (scaled, now) if r is not None), default=None)
        worse = after if ratio is not None and ratio == now else {**(last or {}), "lr": record["lr"]}
        reference = self.below or last
        moved = ratio_change(reference, self.above or worse) if reference else None
        cause, driver = judge(Jump(factor, probe_factor, ratio, self.verdict if in_episode else None, moved))
        name, value = ("gradient's norm", gradient) if by_gradient else ("loss", loss)
        much = f", {factor:.3g} times its usual" if math.isfinite(factor) else ""
        seen = "gradient" if by_gradient else "loss"
        why = _why(cause, ratio, moved, after, f"{seen} shows no such jump{_times(probe_factor)}", in_episode)
        sentence = f"step {record['step']}: the {name} is {value:.4g}{much}: {why}."
        evidence = {"factor": factor, "probe_factor": probe_factor, "stability_ratio": ratio, "after": after}
        return Alarm(record["step"], code, sentence, cause, driver, evidence)

    def _scale(self) -> float:
        middle = self.losses.middle
        return middle if math.isfinite(middle) and middle > 0 else 1.0


def _over(value: float | None, usual: float) -> float:
    return math.inf if value is None or usual == 0 else value / usual


def _times(factor: float | None) -> str:
    return f" ({factor:.3g} times the usual)" if factor and math.isfinite(factor) else ""


def _why(
    cause: Cause,
    ratio: float | None,
    moved: RatioChange | None,
    after: Mapping[str, Any],
    on_probe: str,
    in_episode: bool,
) -> str:
    if in_episode and cause != "unclear":
        return f"{cause}, following the jump before"
    if cause == "data":
        return f"data: at the same weights the fixed probe's {on_probe}; look at this update's batch"
    if cause == "curvature":
        limit = after.get("max_stable_lr")
        below = f"; an lr below {limit:.3g} would be stable now" if limit and math.isfinite(limit) else ""
        grown = moved.words() if moved else "from the start"
        return f"curvature: the stability ratio stands at {ratio:.3g}, {grown}{where(after)}{below}"
    known = "is not known" if ratio is None else f"stood at {ratio:.3g}"
    return f"unclear: the weights had moved, yet the stability ratio {known}"
