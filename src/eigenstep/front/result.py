"""`Check`: one sentence, one lr, one line of code, and the diagnosis and recommendation that they come from."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch.optim.lr_scheduler import LRScheduler

from eigenstep.diagnosis import Diagnosis
from eigenstep.errors import InvalidValue
from eigenstep.front.sentence import KEEP
from eigenstep.recommendation import Recommendation
from eigenstep.result import Result, Words, number


@dataclass(frozen=True, eq=False, repr=False)
class Check(Result):
    """What `check` found.

    - sentence: what to do, the lr, why; then how the limit here and the lr belong together.
    - lr: to train with, the schedule's peak; None where none is to be recommended.
    - code: the line to write, with this result as `found` where it is applied; empty where there is no lr.
    - diagnosis: what the optimizer, as it stands, will do.
    - recommendation: the lr with its interval, its reason and every run; None where it was not reached, see notes.
    - seconds: that all took.
    - notes: what was left out.
    """

    kind: ClassVar[str] = "check"

    sentence: str
    lr: float | None
    code: str
    diagnosis: Diagnosis = field(repr=False)
    recommendation: Recommendation | None = field(repr=False)
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def failing(self) -> bool:
        """Whether a script that gates on this should stop: unstable as it stands, or nothing to recommend."""
        return self.diagnosis.failing or self.lr is None

    @property
    def keeps(self) -> bool:
        """Whether the lr as it stands is among those that train best."""
        return self.sentence.startswith(KEEP)

    def apply(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer | LRScheduler:
        """Set the lr; return the scheduler to step after each update, or the optimizer: see Recommendation.apply.

        Raises InvalidValue where there is no lr.
        """
        if self.recommendation is None:
            raise InvalidValue("check: there is no lr to apply: nothing was recommended, see .sentence")
        return self.recommendation.apply(optimizer)

    def rows(self) -> list[tuple[str, str]]:
        """The three numbers and the line to write."""
        d, r = self.diagnosis, self.recommendation
        rows = [] if not self.code else [("to change it, write" if self.keeps else "write", self.code)]
        if r is not None and r.lr is not None and r.interval is not None:
            rows.append(("lr to train with", f"{r.lr:.3g} ({r.interval[0]:.2g} to {r.interval[1]:.2g})"))
        if d.max_stable_lr is not None:
            rows.append(("largest stable lr here and now", number(d.max_stable_lr)))
        now = d.lr if d.lr is not None or d.play is None else d.play.lr
        ratio = "" if d.ratio is None else f", stability ratio {number(d.ratio)}"
        rows.append(("as it stands", f"{d.verdict}, at lr {number(now)}{ratio}"))
        return [*rows, ("time", f"{self.seconds:.1f} s")]

    def words(self) -> Words:
        """Return the sentence and the numbers."""
        more = "more: .diagnosis and .recommendation" if self.recommendation is not None else "more: .diagnosis"
        brief = f"lr {number(self.lr)}, {self.diagnosis.verdict} as it stands"
        return Words(brief, self.sentence, self.rows(), {}, (*self.notes, more))

    def plot(self, ax: Any = None) -> Any:
        """Draw the recommendation's rehearsals; without one, the diagnosis' spectrum."""
        return (self.recommendation or self.diagnosis).plot(ax)
