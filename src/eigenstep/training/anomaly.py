"""Jumps of the loss or the gradient, seen at each update; and whether curvature or the data are behind them."""

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from torch import Tensor

from eigenstep.lines import Record
from eigenstep.training.alarms import Alarm, Cause, Driver, RatioChange, Usual, ratio_change, where
from eigenstep.training.probe import Probe

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
    after an earlier jump its verdict stands, if it was one, and unless the ratio is past 1 by what no data do, a new lr
    or new settings; else the ratio was past 1 (curvature), or nothing tells.
    """
    grew = jump.probe_factor
    if grew is not None and math.isfinite(grew):
        batch = math.inf if math.isnan(jump.factor) else max(jump.factor, 1.0)
        if grew < min(batch, 1e6) ** PART:
            return "data", "gradient"
    past = jump.ratio is not None and jump.ratio >= 1
    driver = jump.moved.driver if jump.moved else None
    if jump.earlier is not None and jump.earlier[0] != "unclear" and not (past and driver in ("lr", "settings")):
        return jump.earlier
    return ("curvature", driver) if past else ("unclear", None)


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
        state, words = _worse(last or {}, after, record)
        ratio = state.get("stability_ratio")
        reference = self.below or last
        moved = ratio_change(reference, self.above or state) if reference and state else None
        earlier = self.verdict if in_episode else None
        cause, driver = judge(Jump(factor, probe_factor, ratio, earlier, moved))
        name, value = ("gradient's norm", gradient) if by_gradient else ("loss", loss)
        much = f", {factor:.3g} times its usual" if math.isfinite(factor) else ""
        seen = "gradient" if by_gradient else "loss"
        if (cause, driver) == earlier and cause != "unclear":
            why = f"{cause}, following the jump before"
        else:
            why = _why(cause, words, moved, state, f"{seen} shows no such jump{_times(probe_factor)}")
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


def _worse(last: Record, after: Record, record: Record) -> tuple[Record, str]:
    """The state of the larger ratio, and its words: after the update, or the last measured one at the update's lr."""
    before, now = last.get("stability_ratio"), after.get("stability_ratio")
    scaled = before * record["lr"] / last["lr"] if before is not None and last["lr"] else before
    if now is not None and (scaled is None or now >= scaled):
        return after, f"is {now:.3g} before update {after['step']}"
    if before is None or scaled is None:
        return {}, "is not known"
    at_lr = f" ({scaled:.3g} at the lr of this one)" if record["lr"] != last["lr"] else ""
    state = {**last, "step": record["step"], "lr": record["lr"], "stability_ratio": scaled}
    return state, f"was {before:.3g} before update {last['step']}{at_lr}"


def _why(cause: Cause, ratio: str, moved: RatioChange | None, state: Mapping[str, Any], on_probe: str) -> str:
    if cause == "data":
        return f"data: at the same weights the fixed probe's {on_probe}; look at this update's batch"
    if cause == "curvature":
        limit = state.get("max_stable_lr")
        below = f"; an lr below {limit:.3g} would be stable there" if limit and math.isfinite(limit) else ""
        grown = moved.words() if moved else "from the start"
        return f"curvature: the stability ratio {ratio}, {grown}{where(state)}{below}"
    return f"unclear: the weights had moved, {'yet' if state else 'and'} the stability ratio {ratio}"
