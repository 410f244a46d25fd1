"""What a diagnosis tries on copies: the next updates as they are, and another lr where that one fails or crawls."""

import math
from collections.abc import Callable

from eigenstep.bridge.param_groups import adapts
from eigenstep.diagnosis.allowance import Allowance
from eigenstep.diagnosis.evidence.loop_gradient import loop_factor
from eigenstep.diagnosis.evidence.play import Play, Playing
from eigenstep.errors import InvalidValue, Unsupported
from eigenstep.rehearsal import Rehearsal

_LESS = (0.5, 0.25, 0.1, 0.03, 0.01)  # of an lr that fails, or of the limit below it, what is tried in its place
_MORE = (0.5, 0.125, 0.03)  # of the limit, what is tried where an lr crawls
_CALM = 2.0  # times the start that the loss may rise to at a lower lr: what rises further may come down by chance
_TRIED, _TRIED_LESS = 50, 200  # updates of those, at most
_FALLS_MORE = 0.1  # of the loss at the start, for a higher lr to count as better


class Trials:
    """Plays of one diagnosis, within its time. lr: the peak that is played towards.

    play: of the lr as it is; instead: of another that does better; None where there is none. reasons: why. factor: what
    the user's loop multiplies the objective's gradient by, see `loop_factor`; None without a loop.
    """

    def __init__(self, rehearsal: Rehearsal, allowance: Allowance, lr: float, seed: int) -> None:
        self.rehearsal, self.allowance, self.lr, self.seed = rehearsal, allowance, lr, seed
        self.play: Play | None = None
        self.instead: Play | None = None
        self.factor: float | None = None
        self.reasons: dict[str, str] = {}
        self.products = 0
        self._nothing = math.nan

    def run(self, nothing: float) -> None:
        """Play the lr as it is. nothing: the loss with all measured parameters at zero."""
        self._nothing = nothing
        playing = Playing(self.rehearsal, self.allowance, self.lr, seed=self.seed)
        if self.rehearsal.loop is not None:
            self.factor = loop_factor(self.rehearsal, self.lr)
        try:
            self.play = playing.run(nothing, looks=self.scaled is None)
        except (InvalidValue, Unsupported) as error:  # a loss or an optimizer that copies do not have
            if self.rehearsal.loop is not None:
                raise
            self.reasons["play"] = str(error)
        self.products = playing.products

    @property
    def scaled(self) -> str | None:
        """Why the objective's limit is not the loop's: its gradients are a fixed multiple; None where they are not."""
        if self.factor is None or math.isnan(self.factor) or self.factor == 1:
            return None
        return (
            f"the loop's gradients are {self.factor:.4g} times the objective's, whose limit is not the loop's; let the "
            "objective's loss be the one that the loop differentiates"
        )

    def lower(self) -> None:
        """Look for a lower lr that does not fail, where this one does."""
        if self.play is not None and self.play.fails:
            adaptive = adapts(self.rehearsal.optimizer)
            bound = self.lr if adaptive else min(self.lr, self.play.limits.get(0, self.lr))
            most = self.play.losses[0] * _CALM
            self._try([bound * part for part in _LESS], _TRIED_LESS, lambda other: other.holds and other.high <= most)

    def higher(self, stable: float) -> bool | None:
        """Whether some higher lr, a part of the largest stable one, does better; None if none was tried."""
        lrs, play = [stable * part for part in _MORE if 2 * self.lr < stable * part < math.inf], self.play
        if play is None:
            return None
        enough = min(play.late, play.losses[0]) - _FALLS_MORE * abs(play.losses[0])
        return self._try(lrs, _TRIED, lambda other: other.late < enough)

    def _try(self, lrs: list[float], most: int, does: Callable[[Play], bool]) -> bool | None:
        """Play at each lr until one does what is wanted, and keep it; None if there was no time for any."""
        tried = None
        for lr in lrs:
            playing = Playing(self.rehearsal, self.allowance, lr, seed=self.seed)
            other = playing.run(self._nothing, looks=False, most=most)
            if other.ended is not None:
                return tried
            if tried := does(other):
                self.instead = other
                return True
        return tried
