"""`Recommendation`: the learning rate found, its interval, the reason, the evidence, and what was not checked."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.optim.lr_scheduler import LRScheduler

from eigenstep.bridge.param_groups import lr_of, put_lrs, put_momentum, set_lr
from eigenstep.errors import InvalidValue
from eigenstep.plain import among, unheld
from eigenstep.recommendation.parts import Asked, AtStart, Candidate, Rehearsals
from eigenstep.rehearsal import Schedule, read_schedule
from eigenstep.rehearsal.attach import attach
from eigenstep.rehearsal.schedule import SHAPES, updates
from eigenstep.result import Result, Words
from eigenstep.stability.critical import CriticalSharpness
from eigenstep.stability.result import Limit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ALIKE = 1e-6  # of the peak: rounding between two readings of one schedule


@dataclass(frozen=True, eq=False, repr=False)
class Recommendation(Result):
    """What `recommend` found.

    The parts' fields stand among the others in a file, and what is asked for most is at hand on the result itself.

    lr: the schedule's peak, of the first param group that moves; the others keep their ratios to it. None where nothing
    trains, or too little was run.
    interval: where the best lr lies in about 8 of 10 cases like those that it was calibrated on (benchmarks/advice);
    it ends below the smallest lr that diverged.
    reason: why this lr, or why none.
    trains: False if no lr brings the loss down.
    unchecked: what the answer does not cover.
    notes: what the reader should know besides.
    asked: what it was asked for: optimizer, horizon, schedule, budget.
    at_start: the loss, the limit and the critical sharpness before the rehearsals.
    rehearsals: what was run, how far, and whether the answer was verified.
    rules: each param group's rule at the answer, as data (Rule.as_dict).
    given: the schedule as it was rehearsed, for `apply`; no file holds it.
    alternatives: the answers for the other settings or optimizers, best first.
    """

    kind: ClassVar[str] = "recommendation"

    lr: float | None
    interval: tuple[float, float] | None
    reason: str
    trains: bool
    unchecked: tuple[str, ...]
    notes: tuple[str, ...]
    asked: Asked = field(metadata=among())
    at_start: AtStart = field(repr=False, metadata=among())
    rehearsals: Rehearsals = field(repr=False, metadata=among())
    rules: tuple[Mapping[str, Any], ...] = ()
    alternatives: tuple["Recommendation", ...] = field(default=(), repr=False)
    given: Schedule | None = field(default=None, repr=False, metadata=unheld())

    @property
    def optimizer(self) -> str:
        """The name of the optimizer's class."""
        return self.asked.optimizer

    @property
    def horizon(self) -> int:
        """Updates of the run that the lr is for."""
        return self.asked.horizon

    @property
    def schedule(self) -> str:
        """The name of the schedule whose peak the lr is."""
        return self.asked.schedule

    @property
    def warmup(self) -> int:
        """Updates of the linear warm-up that was asked for."""
        return self.asked.warmup

    @property
    def settings(self) -> Mapping[str, float]:
        """Momentum, where it was searched."""
        return self.asked.settings

    @property
    def start(self) -> float:
        """The probe's loss before the rehearsals."""
        return self.at_start.loss

    @property
    def limit(self) -> Limit | None:
        """The stability limit at the start."""
        return self.at_start.limit

    @property
    def critical(self) -> CriticalSharpness | None:
        """The critical sharpness at the start."""
        return self.at_start.critical

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Every lr that was run."""
        return self.rehearsals.candidates

    @property
    def edge(self) -> tuple[float, float] | None:
        """The largest lr that lowered the loss within a short run, and the smallest that did not."""
        return self.rehearsals.edge

    @property
    def loss(self) -> float | None:
        """The probe's loss at the end of the chosen run."""
        return self.rehearsals.loss

    @property
    def verified(self) -> bool:
        """Whether the chosen lr was run from the start, for `verified_steps` updates, and did not diverge."""
        return self.rehearsals.verified

    @property
    def verified_steps(self) -> int:
        """Updates of the run that verified the answer; 0 without one."""
        return self.rehearsals.verified_steps

    @property
    def steps(self) -> int:
        """Training steps that the search took."""
        return self.rehearsals.steps

    @property
    def complete(self) -> bool:
        """Whether the search was finished."""
        return self.rehearsals.complete

    @property
    def missing(self) -> str | None:
        """What was left out, and why; None if nothing."""
        return self.rehearsals.missing

    def suggestion(self) -> float | None:
        """Return the lr; None if there is none to recommend."""
        return self.lr

    @property
    def results(self) -> dict[str, list[Any]]:
        """The rehearsals as columns, by lr: lr, loss (the last), steps, diverged; under, if not all as asked."""
        rows = sorted(self.candidates, key=lambda c: c.lr)
        under = {"under": [c.under or "the schedule" for c in rows]} if any(c.under for c in rows) else {}
        return {
            "lr": [c.lr for c in rows],
            "loss": [c.losses[-1] for c in rows],
            "steps": [c.steps for c in rows],
            "diverged": [c.diverged for c in rows],
            **under,
        }

    def apply(
        self, optimizer: torch.optim.Optimizer, schedule: str | Callable[..., Any] | None = None
    ) -> torch.optim.Optimizer | LRScheduler:
        """Set the optimizer's lr in place, its groups' ratios kept, and the momentum if it was searched.

        Returns the optimizer at a constant lr. Under a schedule, returns its torch scheduler, of which `step()` is to
        be called once after each update: the one that is attached to the optimizer, the factory's own, or a LambdaLR.
        schedule: for a recommendation out of a file, the function or factory that it was asked with.
        Raises InvalidValue if there is no lr to recommend, or the optimizer's groups or the schedule are not those that
        were rehearsed.
        """
        if self.lr is None:
            raise InvalidValue(f"recommend: there is no lr to apply: {self.reason}")
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise InvalidValue(
                f"recommend: apply() was given {type(optimizer).__name__}; give it the torch optimizer that will train"
            )
        groups = self.asked.groups
        if len(optimizer.param_groups) != len(groups):
            raise InvalidValue(
                f"recommend: the optimizer has {len(optimizer.param_groups)} param groups, the one that was rehearsed "
                f"{len(groups)}; apply it to an optimizer built alike"
            )
        if type(optimizer).__name__ != self.optimizer:
            raise InvalidValue(
                f"recommend: this lr is for {self.optimizer}, not for {type(optimizer).__name__}; build that optimizer"
            )
        if lr_of(optimizer) == 0 and not hasattr(optimizer.step, "_wrapped_by_lr_sched"):
            put_lrs(optimizer, groups)
        shape = self._shape(optimizer, schedule)
        put_momentum(optimizer, self.settings.get("momentum"))
        if shape.constant:
            set_lr(optimizer, self.lr)
            return optimizer
        return attach("recommend", optimizer, shape, self.lr)

    def _shape(self, optimizer: torch.optim.Optimizer, schedule: str | Callable[..., Any] | None) -> Schedule:
        """The schedule that was rehearsed, read anew where the recommendation comes out of a file."""
        if self.given is not None and schedule is None:
            return self.given
        if schedule is None and self.schedule not in SHAPES:
            raise InvalidValue(
                f"recommend: the schedule was {self.schedule}, and a file holds no functions; give it again: "
                "apply(optimizer, schedule=...)"
            )
        named = schedule or self.schedule
        found = read_schedule("recommend", optimizer, named, self.warmup, self.horizon)
        told, given = self.asked.shape, found.thinned()
        if len(told) != len(given) or not all(map(partial(math.isclose, abs_tol=_ALIKE), told, given)):
            raise InvalidValue(
                f"recommend: {found.words} has another shape than the one that was rehearsed, "
                f"{self.asked.schedule_words}; give that one, or call recommend anew"
            )
        return found

    def evidence(self) -> list[tuple[str, str]]:
        """The evidence, as pairs of what and how much."""
        rows = [("run", f"{updates(self.horizon)}, {self.asked.schedule_words}")]
        if self.limit is not None:
            low, high = self.limit.max_stable_lr_interval
            sure = "certified" if self.limit.certified else "not certified"
            rows.append(("limit at the start", f"lr {self.limit.max_stable_lr:.3g} ({low:.3g} to {high:.3g}, {sure})"))
        if self.critical is not None and self.critical.lr is not None:
            rows.append(("first step raises the loss from", f"lr {self.critical.lr:.3g} (critical sharpness)"))
        if self.edge is not None:
            upper = f"{self.edge[1]:.3g} did not" if math.isfinite(self.edge[1]) else "no larger one was tried"
            rows.append(("short runs", f"lr {self.edge[0]:.3g} lowered the loss; {upper}"))
        rows += [
            (f"limit after {updates(step)}", f"lr {edge:.3g}, at lr {lr:.3g}") for step, lr, edge in self.at_start.later
        ]
        if self.loss is not None:
            which = "validation loss" if self.asked.validation else "loss"
            rows.append(
                (f"{which} at the start, and at the end of the answer's run", f"{self.start:.4g}, {self.loss:.4g}")
            )
        state = f"{updates(self.verified_steps)} from the start, did not diverge" if self.verified else "not verified"
        rows.append(("verification", state))
        rows.append(("cost", f"{self.steps} training steps, {self.rehearsals.seconds:.1f} s"))
        return rows

    def derived(self) -> dict[str, Any]:
        """The spectrum at the start, as far as the limit needed it."""
        return {"spectrum": None if self.limit is None else self.limit.edge.as_dict()}

    def words(self) -> Words:
        """Return the answer, the evidence and what was rehearsed."""
        notes = (self.reason, *(f"not checked: {text}" for text in self.unchecked), *self.notes)
        return Words(self.headline, self.headline, self.evidence(), self.results, notes)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the probe's loss after each rehearsal against lr, the interval, the chosen lr and the limits."""
        from eigenstep.recommendation.figure import recommendation_plot

        return recommendation_plot(self, ax)

    def __str__(self) -> str:
        """The answer, the reason and the evidence."""
        lines = [self.headline, self.reason]
        lines += [f"  {what}: {value}" for what, value in self.evidence()]
        lines += [f"  not checked: {text}" for text in self.unchecked]
        lines += [f"  note: {text}" for text in self.notes]
        return "\n".join(lines)

    @property
    def headline(self) -> str:
        """The number, with its interval."""
        what = self.optimizer + "".join(f", {k} {v:g}" for k, v in self.settings.items())
        if self.lr is None or self.interval is None:
            return f"{what}: no lr to recommend"
        kind, shape = ("peak lr", f", {self.asked.schedule_words}") if self.asked.falls else ("lr", "")
        return f"{what}: {kind} {self.lr:.3g} ({self.interval[0]:.2g} to {self.interval[1]:.2g}){shape}"
