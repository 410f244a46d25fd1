"""The probe: the limit now, on fixed data, warm-started; and when the time budget lets it be measured."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eigenstep.errors import EigenstepError, InvalidValue, Unsupported
from eigenstep.objective import Objective
from eigenstep.stability import CriticalSharpness, Limit, critical_sharpness, limit_now

CONFIRM_EVERY = 10  # of the refreshes at the cadence, one in so many is certified, the others go by residuals alone
LAYERS = 5  # shares of the sharp direction that a record names
CRITICAL_TOL = 0.3  # the bracket of a critical lr: it moves more than that between two updates


@dataclass(frozen=True, eq=False)
class Reading:
    """What one look at the probe found: `limit`, or None and the `reason`.

    critical: where it was asked for, and always for an optimizer that has no limit. probe_loss: the loss there. layers:
    the largest shares of the sharp direction, by module. seconds: all that it took.
    """

    limit: Limit | None
    critical: CriticalSharpness | None
    reason: str | None
    probe_loss: float
    layers: dict[str, float]
    seconds: float

    def as_record(self, lr: float | None = None) -> dict[str, Any]:
        """The fields of a log's record; at another lr than measured, all groups' ratios kept, ratios scale with it."""
        limit = self.limit
        ratio, low, high = (None, None, None) if limit is None else _ratios(limit, limit.lr if lr is None else lr)
        record: dict[str, Any] = {
            "stability_ratio": ratio,
            "ratio_low": low,
            "ratio_high": high,
            "sharpness": limit.sharpness if limit else None,
            "preconditioned_sharpness": limit.preconditioned_sharpness if limit else None,
            "max_stable_lr": limit.max_stable_lr if limit else None,
            "provisional": round(limit.provisional, 4) if limit else None,
            "certified": limit.certified if limit else False,
            "products": limit.products if limit else 0,
            "probe_loss": self.probe_loss,
            "layers": self.layers,
            "seconds": round(self.seconds, 6),
        }
        if self.critical is not None:
            record |= {"critical_sharpness": self.critical.value, "critical_lr": self.critical.lr}
        reason = self.reason or (limit.reasons.get("ratio") if limit and ratio is None else None)
        return record | ({"reason": reason} if reason else {})


def _ratios(limit: Limit, lr: float) -> tuple[float | None, float | None, float | None]:
    """The ratio and its interval at an lr; exact, since the edge is linear in a common factor of all lr."""
    if lr == 0:
        return None, None, None
    if limit.lr > 0 and limit.ratio is not None and limit.interval is not None:
        scale = lr / limit.lr
        return limit.ratio * scale, limit.interval[0] * scale, limit.interval[1] * scale
    low, high = limit.max_stable_lr_interval
    return lr / limit.max_stable_lr, lr / high, lr / low if low > 0 else math.inf


class Probe:
    """Measures an optimizer's limit on an objective again and again, each time from the last one's vectors.

    The first measurement is certified (residual and extremality), and so is one in CONFIRM_EVERY after it
    unless the caller says otherwise; the others state the residual only. Weights or a probe loss that are not finite,
    an optimizer without a linear limit (Lion), and whatever else fails once training is under way, give a Reading
    with no limit and with the reason.
    The first measurement raises what limit_now does: then the objective or the optimizer are not what they should be.
    `last` is the newest limit, `newest` the newest Reading that says how far lr may go; critical: measure that, too.
    """

    def __init__(self, objective: Objective, optimizer: torch.optim.Optimizer, seed: int = 0) -> None:
        self.objective, self.optimizer, self.seed = objective, optimizer, seed
        self.last: Limit | None = None
        self.newest: Reading | None = None
        self.critical = False
        self.count = 0
        self.unconfirmed = 0  # measurements since the last one that was to be certified
        self.refused: str | None = None  # why this optimizer has no limit (Lion), or none yet (RAdam's first updates)

    @property
    def confirms(self) -> bool:
        """Whether the next measurement is one to be certified."""
        return self.refused is None and (self.last is None or self.unconfirmed >= CONFIRM_EVERY - 1)

    def measure(self, *, confirm: bool) -> Reading:
        """Return the limit now, certified or not (the first one always is); nothing of the user's changes."""
        began = time.perf_counter()
        self.objective = self.objective.per_update()
        probe_loss = self.loss()
        limit, critical, reason = None, None, None
        if not math.isfinite(probe_loss):
            sick = "the weights are" if not self._finite_weights() else "the loss on the probe is"
            reason = f"not measured: {sick} not finite"
        else:
            limit, reason = self._limit(confirm or self.last is None)
            if self.critical or self.refused:
                critical = self._critical()
        shares = layer_shares(self.objective, limit) if limit else {}
        reading = Reading(limit, critical, reason, probe_loss, shares, time.perf_counter() - began)
        if limit is not None or critical is not None:
            self.newest = reading
        return reading

    def _critical(self) -> CriticalSharpness | None:
        """The critical sharpness; None where the optimizer cannot be copied or its step fails."""
        try:
            with self._full_precision():
                return critical_sharpness(self.objective, self.optimizer, tol=CRITICAL_TOL, progress=False)
        except (EigenstepError, RuntimeError, ArithmeticError):
            return None

    def _limit(self, confirm: bool) -> tuple[Limit | None, str | None]:
        try:
            with self._full_precision():
                self.last = limit_now(
                    self.objective,
                    self.optimizer,
                    start=self.last,
                    quick=not confirm,
                    seed=self.seed + self.count,
                    progress=False,
                )
        except Unsupported as error:
            self.refused = f"not measured: {error}"
            return None, self.refused
        except Exception as error:
            if self.count == 0 and self.refused is None:
                raise  # a mistake in the objective or the optimizer, and no training lost
            return None, f"not measured: {error}"
        self.refused = None
        self.count += 1
        self.unconfirmed = 0 if confirm else self.unconfirmed + 1
        return self.last, None

    def loss(self, weights: dict[int, Tensor] | None = None) -> float:
        """The probe's loss, at `weights` (by id of the parameter) where given; nan where it cannot be computed."""
        with self.objective.session(), self._full_precision():
            try:
                return self.objective.value(weights)
            except InvalidValue:  # the objective's own check of a loss that is not finite
                return math.nan

    def gradient_norm(self, weights: dict[int, Tensor]) -> float:
        """The norm of the probe's gradient at `weights` (by id of the parameter); nan where it cannot be computed."""
        with self.objective.session(), self._full_precision():
            here = {id(p): weights.get(id(p), p).detach().clone().requires_grad_() for p in self.objective.params}
            try:
                return float(self.objective.gradient(here).norm())
            except InvalidValue:
                return math.nan

    def _full_precision(self) -> torch.autocast:
        """An autocast that happens to be around the optimizer's step is not the loss's own: that one stays."""
        return torch.autocast(self.objective.device.type, enabled=False)

    def _finite_weights(self) -> bool:
        return all(bool(p.isfinite().all()) for p in self.objective.model.parameters())


def layer_shares(objective: Objective, limit: Limit) -> dict[str, float]:
    """The shares of a limit's direction in the modules, the largest LAYERS: squared norms, of 1 in all."""
    shares: dict[str, float] = {}
    for name, part in objective.named(limit.direction).items():
        module = name.rpartition(".")[0] or name
        shares[module] = shares.get(module, 0.0) + float(part.double().square().sum())
    largest = sorted(shares.items(), key=lambda item: -item[1])[:LAYERS]
    return {name: round(share, 4) for name, share in largest}


@dataclass
class Cadence:
    """When to measure: at each of the first `dense` updates; then `every` updates at the soonest, within the budget.

    The budget is the monitor's part of the whole time since the dense start: its norms and records count, but half of
    the budget is always left to measurements. Of two bounds the budget wins, and `postponed` counts the updates that
    it made wait. Anomalies and changed settings (at most every `rest` updates) are measured at once, on credit: while
    the budget is not overdrawn by more than one measurement.
    """

    every: int
    budget: float
    dense: int = 20
    rest: int = 5
    began: float | None = None
    measuring: float = 0.0
    keeping: float = 0.0
    cost: float = 0.0  # of the last measurement that was not certified,
    certified_cost: float = 0.0  # and of the last that was
    last: int = -(10**9)
    postponed: int = 0

    def due(self, step: int, urgent: bool, clock: float) -> bool:
        """Whether the state before update `step` (counted from 1) is to be measured."""
        if step <= self.dense:
            return True
        if self.began is None:
            self.began = clock
        if urgent and step - self.last >= self.rest and self.affordable(clock, credit=True):
            return True
        if step - self.last < self.every:
            return False
        if self.affordable(clock):
            return True
        self.postponed += 1
        return False

    def affordable(self, clock: float, *, credit: bool = False, certified: bool = False) -> bool:
        """Whether a measurement as costly as the last fits the budget; on credit: overdraws it by two at most."""
        if self.began is None or self.budget >= 1:
            return True
        elapsed = clock - self.began
        left = max(self.budget * elapsed - self.keeping, self.budget * elapsed / 2)
        cost = self.certified_cost if certified else self.cost
        return self.measuring - cost <= left if credit else self.measuring + cost <= left

    def took(self, step: int, seconds: float, *, certified: bool = False) -> None:
        """Book a measurement before update `step`."""
        self.last = step
        if certified:
            self.certified_cost = seconds
        if not certified or not self.cost:
            self.cost = seconds
        if step > self.dense:
            self.measuring += seconds

    def kept(self, step: int, seconds: float) -> None:
        """Book the norms and the record of an update."""
        if step > self.dense:
            self.keeping += seconds

    def spacing(self, step: int, clock: float) -> float | None:
        """The updates between two measurements that the budget pays for at the present cost; None while not known."""
        if self.began is None or step <= self.dense + 1 or clock <= self.began:
            return None
        update = (clock - self.began - self.measuring) / (step - self.dense)
        return self.cost / (update * max(self.budget - self.keeping / (clock - self.began), self.budget / 2))

    def words(self, step: int, clock: float) -> str:
        """Say that the budget is what sets the distance of measurements."""
        spacing = self.spacing(step, clock)
        allowed = "" if spacing is None else f", which allows about one in {spacing:.0f} updates"
        return (
            f"every={self.every} was asked for; a measurement takes {self.cost:.3g} s, and the budget is "
            f"{self.budget:.0%} of the time{allowed}"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        kept = {name: getattr(self, name) for name in ("measuring", "keeping", "cost", "last")}
        training = 0.0 if self.began is None else time.perf_counter() - self.began
        return {"cadence": {**kept, "dear": self.certified_cost}, "training": training}

    def load_state_dict(self, state: Mapping[str, Any], clock: float) -> None:
        """Go on where `state_dict` was taken."""
        kept = dict(state["cadence"])
        vars(self).update(kept | {"certified_cost": kept.pop("dear")})
        if int(state["count"]) > self.dense:
            self.began = clock - float(state["training"])
