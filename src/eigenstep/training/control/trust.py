"""Whether the lr that is asked for may be left alone: tried on copies before it is used, watched while it is."""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch

from eigenstep.bridge.param_groups import first_moving, relative
from eigenstep.stability.trial import Trial, trial
from eigenstep.training.probe import Probe

# Found on the advice benchmark's development tasks. A trial's loss, in parts of its start: one that rises by less than
# CALM is calm; the best lrs rise to at most 10 times the first loss, ten times the diverging ones to at least 48.
CALM, WILD = 0.1, 20.0
BELOW = (1.0, 0.71, 0.5)  # parts of what is asked for that are tried at first; less is left to the limit
AHEAD = (2.0, 1.41, 1.19, 1.06)  # times what is trusted, as what is asked for rises: if all is well, a trial a doubling
# What failed is tried anew after WAIT updates, a run's first places being often its sharpest, then at twice that
# distance. Where nothing is trusted it is given up after GIVE_UP trials: they say less and less against an lr, since
# where the loss has come near zero, so have the gradients, until the next odd batch.
WAIT, GIVE_UP = 20, 4
# The probe's loss is looked at every LOOK updates. Under the best lrs and peaks it is never for 50 updates in a row
# a tenth above where the run began, and never 100 times that.
LOOK, LASTING, FAR = 5, 10, 100.0


class Trust:
    """What speaks for and against the lr that is asked for.

    lr: up to where it is trusted, of the first group that moves; 0 where nothing is. lost: a trial went wild at the
    start, or the run itself has failed, so that nothing more is tried.
    """

    def __init__(self, probe: Probe, optimizer: torch.optim.Optimizer) -> None:
        self.probe, self.optimizer = probe, optimizer
        self.lr, self.lost, self.before = 0.0, False, 0.0
        self.first = math.nan  # the probe's loss where the run began
        self.wild = False  # whether the last trial's loss rose out of all measure
        self.wait, self.failures = 0, 0
        self.looked, self.above = 0, 0

    def allows(self, asked: Sequence[float], held: Sequence[float]) -> float | None:
        """Return up to where the next update's lr is trusted, None where it is not.

        asked: the lrs that are asked for; held: those that the optimizer has now, or would have otherwise.
        """
        if self.lr and not self.lost and self._suffers():
            self.lost = True
        first, before, self.before = first_moving(asked), self.before, first_moving(asked)
        self.wait -= 1
        if not self.lost and first > self.lr and self.wait < 0:
            top = math.inf if first > before > 0 else first
            parts = [self.lr * f for f in AHEAD] if self.lr else [first * f for f in BELOW]
            self._try([min(lr, top) for lr in parts], asked, held)
        return self.lr if self.lr and not self.lost else None

    def _try(self, lrs: Sequence[float], asked: Sequence[float], held: Sequence[float]) -> None:
        """Trust lr up to the first of these at which a trial goes well, asked's ratios kept."""
        end = cache(lambda: self._trial(held).end)
        for lr in dict.fromkeys(lrs):
            if self._goes_well([lr * part for part in relative(asked)], end):
                self.lr, self.wait = lr, 0 if lr >= first_moving(asked) else WAIT
                return
        self.wait, self.failures = WAIT * 2**self.failures, self.failures + 1
        self.lost = not self.lr and (self.wild or self.failures >= GIVE_UP)

    def _goes_well(self, lrs: Sequence[float], held_end: Callable[[], float]) -> bool:
        """Whether a trial at these lrs stays calm; or is not wild, and falls by half as much as at the held ones."""
        tried = self._trial(lrs)
        if math.isnan(self.first):
            self.first = tried.start
        self.wild = not tried.highest + tried.start < self.first + WILD * abs(self.first)
        if self.wild or tried.start > self.first + CALM * abs(self.first):  # from a spike every lr leads down
            return False
        return tried.highest < CALM * abs(tried.start) or tried.end <= min(held_end() / 2, 0.0)

    def _trial(self, lrs: Sequence[float]) -> Trial:
        return trial(self.probe.objective, self.optimizer, lrs)

    def _suffers(self) -> bool:
        """Whether the probe's loss, looked at now and then, has risen out of all measure, or stays above its first."""
        self.looked += 1
        if self.looked % LOOK:
            return False
        rise = (self.probe.loss() - self.first) / max(abs(self.first), 1e-30)
        self.above = self.above + 1 if rise > CALM else 0
        return self.above >= LASTING or not rise < FAR

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers."""
        return {name: value for name, value in vars(self).items() if name not in ("probe", "optimizer")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        vars(self).update(state)
