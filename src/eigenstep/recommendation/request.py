"""What a call of `recommend` asks for, checked before anything is done."""

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch

from eigenstep.bridge.param_groups import has_momentum
from eigenstep.errors import InvalidValue, Unsupported, refuse_count, refuse_positive, refuse_seed
from eigenstep.objective import Objective
from eigenstep.rehearsal import Budget, Loop, Schedule
from eigenstep.rehearsal.loop import refuse_loop
from eigenstep.rehearsal.schedule import updates
from eigenstep.rehearsal.stream import refuse_batches

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
        return f"the default for a run of {updates(self.horizon)}"

    def bounded_by(self, budget: Budget) -> str:
        """What ended the rehearsals, in words: the steps, or the time where it left steps over."""
        if budget.until < math.inf and budget.used < SPENT * budget.steps:
            return f"the time ({'fast=True' if self.seconds is None else f'seconds={self.seconds:g}'})"
        return f"the {budget.steps} training steps ({self.bound})"

    def check(self) -> None:
        """Raise InvalidValue for a number that is none."""
        refuse_count("recommend", "horizon", self.horizon)
        if self.budget is not None:
            refuse_count("recommend", "budget", self.budget)
        if self.seconds is not None:
            refuse_positive("recommend", "seconds", self.seconds, "a time in seconds above 0, or None")
        if self.clip is not None:
            refuse_positive("recommend", "clip", self.clip, "a positive norm, or None")
        if not isinstance(self.fast, bool):
            raise InvalidValue(f"recommend: fast={self.fast!r:.40} must be True or False")
        refuse_seed("recommend", self.seed)
        refuse_loop("recommend", self.loop)
        if self.validation is not None:
            refuse_batches("recommend: validation", self.validation)
        if self.clip is not None and self.loop is not None:
            raise InvalidValue("recommend: clip= beside loop=; clip within the loop, which is run as it is")

    def check_variants(self, variants: int) -> None:
        """Raise InvalidValue where the budget is too small for so many settings."""
        if self.steps(variants) < FEWEST:
            raise InvalidValue(
                f"recommend: {self.bound} leaves {self.steps(variants)} training steps for each of {variants} "
                f"settings; at least {FEWEST} are needed: give budget={FEWEST * variants} or more, or fewer settings"
            )


def momenta_of(momentum: Sequence[float] | float | None) -> tuple[float, ...]:
    """The momenta to choose among, a number as the only one; none where the optimizer's own stays."""
    if momentum is None:
        return ()
    given = momentum if isinstance(momentum, Iterable) and not isinstance(momentum, str) else (momentum,)
    values = tuple(given)
    if not values:
        raise InvalidValue("recommend: momentum= is empty; give values to choose among ([0.0, 0.9]), or leave it out")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < 1:
            raise InvalidValue(f"recommend: momentum={value!r:.40} must be a number of at least 0 and below 1")
    return tuple(map(float, values))


def others_of(optimizers: Iterable[torch.optim.Optimizer] | None) -> tuple[torch.optim.Optimizer, ...]:
    """The optimizers to compare with; what each of them is, is checked later."""
    if optimizers is None:
        return ()
    if isinstance(optimizers, torch.optim.Optimizer) or not isinstance(optimizers, Iterable):
        raise InvalidValue(
            f"recommend: optimizers= is {type(optimizers).__name__}; give a list of the optimizers to compare with"
        )
    others = tuple(optimizers)
    if not others:
        raise InvalidValue("recommend: optimizers= is empty; give those to compare with, or leave it out")
    return others


def check_momenta(optimizer: torch.optim.Optimizer, schedule: Schedule, momenta: Sequence[float]) -> None:
    """Raise for momenta where an optimizer has none to choose."""
    if not momenta:
        return
    if not has_momentum(optimizer):
        raise Unsupported(f"recommend: {type(optimizer).__name__} has no momentum to choose; leave out momentum=")
    if schedule.momenta:
        raise InvalidValue(f"recommend: momentum= beside {schedule.name}, which moves the momentum; leave out one")


def batches_of(objective: Objective, train: Any) -> Any:
    """The mini-batches to train on; with a warning where the objective's only batch must do."""
    if train is not None:
        refuse_batches("recommend: train", train)
        return train
    objective.batches.read()
    if len(objective.batches.counts) == 1:
        warnings.warn(
            "recommend: train= is not given and the objective's data are one batch: the rehearsals train on that batch "
            "alone, without the noise of mini-batches; pass train=loader, the loader that you train with",
            stacklevel=3,
        )
    return objective.batches.source
