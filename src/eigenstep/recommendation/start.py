"""What `recommend` measures beside its rehearsals: the limit at the start and later, the critical sharpness."""

import math
import time

import torch

from eigenstep.bridge.param_groups import lr_of
from eigenstep.curvature.lanczos import Aim
from eigenstep.errors import InvalidValue, Unsupported
from eigenstep.objective import Objective
from eigenstep.progress import FORWARD, PRODUCT
from eigenstep.recommendation.parts import Later
from eigenstep.recommendation.search import LrSearch
from eigenstep.rehearsal import Lane, Rehearsal
from eigenstep.stability.critical import PASSES, CriticalSharpness, bottomless, critical_sharpness
from eigenstep.stability.limit import limit_now
from eigenstep.stability.result import Limit
from eigenstep.stability.zero_gradient import share_of, zero_gradient_names

_SHARE = 0.25  # of the time that is left, where it is limited: what each piece of evidence may take
_CHEAP = 3.0  # seconds: only where the first limit took less is it followed through the rehearsals


def _seconds_of_a_loss(objective: Objective) -> float:
    """How long it takes to evaluate the loss."""
    began = time.perf_counter()
    objective.value()
    return time.perf_counter() - began


class StartMeasurements:
    """What was measured beside the rehearsals."""

    def __init__(self, was_zero: bool) -> None:
        self.limit: Limit | None = None
        self.critical: CriticalSharpness | None = None
        self.later: list[Later] = []
        self.bottomless: str | None = None
        self.zero_gradient_share: float | None = None
        self.notes = ["every lr was 0: read as the start of a warm-up"] if was_zero else []
        self._rehearsal: Rehearsal | None = None

    def look(self, rehearsal: Rehearsal, fast: bool) -> None:
        """Measure the critical sharpness and the limit at the start; the limit not where it would take too long."""
        self._rehearsal = rehearsal
        start = rehearsal.probe.on(rehearsal.model)
        if not math.isfinite(rehearsal.start):
            return
        one = _seconds_of_a_loss(start) if rehearsal.budget.until < math.inf else 0.0
        if self._fits("critical sharpness", one * PASSES, rehearsal):
            self._find_critical(start, rehearsal, fast)
        if not self._fits("limit", one * Aim().expected * PRODUCT / FORWARD, rehearsal):
            return
        try:
            self.limit = limit_now(start, rehearsal.optimizer, quick=fast, sharpness=False)
        except (Unsupported, InvalidValue) as error:
            self.notes.append(f"no linear limit, so judged by critical sharpness and rehearsal: {error}")

    def _fits(self, what: str, expected: float, rehearsal: Rehearsal) -> bool:
        """Whether some seconds are no more than evidence may take of the time that is left; noted if not."""
        left = max(rehearsal.budget.until - time.perf_counter(), 0.0)
        if expected <= _SHARE * left:
            return True
        self.notes.append(
            f"the {what} at the start was not measured: it would take about {expected:.2g} s of the {left:.2g} s left"
        )
        return False

    def _find_critical(self, start: Objective, rehearsal: Rehearsal, fast: bool) -> None:
        """The critical sharpness, what a sensible first step takes off the loss, and whether the loss has a floor."""
        self.critical = critical_sharpness(start, rehearsal.optimizer, tol=0.1 if fast else 0.01)
        if self.critical.multiple == math.inf:
            self.bottomless = bottomless(start, rehearsal.optimizer)
        elif self.critical.multiple:
            rehearsal.fall = abs(self.critical.slope) * self.critical.multiple
        if self.critical.reason is not None:
            self.notes.append(f"no critical sharpness: {self.critical.reason}")

    def first_guess(self, optimizer: torch.optim.Optimizer) -> float:
        """Where the search begins: the critical lr, else the limit, else the lr that is set."""
        guesses = (
            None if self.critical is None else self.critical.lr,
            None if self.limit is None else self.limit.max_stable_lr,
            lr_of(optimizer),
        )
        return next(lr for lr in guesses if lr is not None and 0 < lr < math.inf)

    def follow(self, lane: Lane) -> None:
        """Measure the limit where a rehearsal stands, from the first one's vectors, if that is cheap."""
        if self.limit is None or self.limit.seconds > _CHEAP or self._rehearsal is None or lane.copies is None:
            return
        if any((each.steps, each.lr) == (lane.step, lane.lr) for each in self.later):
            return
        model, optimizer = lane.copies
        try:
            found = limit_now(self._rehearsal.probe.on(model), optimizer, start=self.limit, quick=True, sharpness=False)
        except (Unsupported, InvalidValue):
            return
        if math.isfinite(found.max_stable_lr):
            self.later.append(Later(lane.step, lane.lr, found.max_stable_lr))

    def find_zero_gradient(self, search: LrSearch) -> None:
        """The share of the coordinates in parameters without a gradient, at the start and where the longest run ends.

        Whole parameters only, and by their gradient on the probe: rare rows of an embedding stand still and are alive,
        dead ones under weight decay move, and what gets a gradient after the first updates is not dead.
        """
        lane = search.order[0] if search.order else None
        if lane is None or lane.copies is None or lane.diverged:
            return
        probe = search.rehearsal.probe
        ends = probe.on(search.rehearsal.model), probe.on(lane.copies[0])
        first, last = (set(zero_gradient_names(on, on.gradient())) for on in ends)
        self.zero_gradient_share = share_of(ends[0], first & last)
