"""What a call of `recommend` asks for, checked before anything is done."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from eigenstep.bridge.param_groups import has_momentum
from eigenstep.errors import InvalidValue, Unsupported
from eigenstep.objective import Objective
from eigenstep.rehearsal import Budget, Loop, Schedule

FEWEST = 60  # training steps without which nothing can be said
LEAST, MOST = 1000, 4000  # training steps of a search, unless told otherwise: half the horizon, within these
SPENT = 0.9  # of its steps: a search that took fewer was ended by the time; dividing them leaves a few over
FAST_STEPS, FAST_SECONDS = 150, 16.0  # what fast=True may take, so that the answer is there in 20 s


@dataclass(frozen=True)
class Request:
    """The settings of a call that all optimizers and momenta share."""

    horizon: int
    budget: int | None
    seconds: float | None
    clip: float | None
    loop: Loop | None
    validation: Any
    fast: bool
    seed: int

    def steps(self, variants: int) -> int:
        """Training steps for each of so many settings, which are compared within one budget."""
        if self.budget is not None:
            each = self.budget // variants
        else:
            each = min(max(LEAST, self.horizon // 2), MOST // variants)
        return min(FAST_STEPS, each) if self.fast else each

    def allowed(self, variants: int) -> float | None:
        """Seconds for each of so many settings; None without a limit."""
        limits = [s for s in (self.seconds, FAST_SECONDS if self.fast else None) if s is not None]
        return min(limits) / variants if limits else None

    @property
    def bound(self) -> str:
        """What the number of training steps comes from."""
        if self.fast:
            return "fast=True"
        if self.budget is not None:
            return f"budget={self.budget}"
        return f"the default for a run of {self.horizon} updates"

    def bounded_by(self, budget: Budget) -> str:
        """What ended the rehearsals, in words: the steps, or the time where it left steps over."""
        if budget.until < math.inf and budget.used < SPENT * budget.steps:
            return f"the time ({'fast=True' if self.seconds is None else f'seconds={self.seconds:g}'})"
        return f"the {budget.steps} training steps ({self.bound})"

    def check(self) -> None:
        """Raise InvalidValue for a number that is none."""
        for name, count in (("horizon", self.horizon), ("budget", self.budget)):
            if name == "budget" and count is None:
                continue
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise InvalidValue(f"recommend: {name}={count!r} must be a whole number of updates, at least 1")
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise InvalidValue(f"recommend: seconds={self.seconds} must be a time in seconds above 0, or None")
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise InvalidValue(f"recommend: clip={self.clip} must be a positive norm, or None")
        if self.loop is not None and not callable(self.loop):
            raise InvalidValue(
                f"recommend: loop= is {type(self.loop).__name__}; give a function of model, optimizer and batch that "
                "trains on the batch and returns its loss"
            )
        if self.clip is not None and self.loop is not None:
            raise InvalidValue("recommend: clip= beside loop=; clip within the loop, which is run as it is")

    def check_variants(self, variants: int) -> None:
        """Raise InvalidValue where the budget is too small for so many settings."""
        if self.steps(variants) < FEWEST:
            raise InvalidValue(
                f"recommend: {self.bound} leaves {self.steps(variants)} training steps for each of {variants} "
                f"settings; at least {FEWEST} are needed: give budget={FEWEST * variants} or more, or fewer settings"
            )


def check_momenta(optimizer: torch.optim.Optimizer, schedule: Schedule, momentum: Sequence[float] | None) -> None:
    """Raise for momenta that an optimizer cannot have."""
    if momentum is None:
        return
    if not has_momentum(optimizer):
        raise Unsupported(f"recommend: {type(optimizer).__name__} has no momentum to choose; leave out momentum=")
    if schedule.momenta:
        raise InvalidValue(f"recommend: momentum= beside {schedule.name}, which moves the momentum; leave out one")
    for value in momentum:
        if not 0 <= value < 1:
            raise InvalidValue(f"recommend: momentum={value} must be at least 0 and below 1")


def batches_of(objective: Objective, train: Any) -> Any:
    """The mini-batches to train on; with a warning where the objective's only batch must do."""
    if train is not None:
        return train
    objective.batches.read()
    if len(objective.batches.counts) == 1:
        warnings.warn(
            "recommend: train= is not given and the objective's data are one batch: the rehearsals train on that batch "
            "alone, without the noise of mini-batches; pass train=loader, the loader that you train with",
            stacklevel=3,
        )
    return objective.batches.source
