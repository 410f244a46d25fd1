"""`Recommendation`: the learning rate found, its interval, the reason, the evidence, and what was not checked."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch

from eigenstep.bridge.param_groups import lr_of, put_lrs, put_momentum, set_lr
from eigenstep.errors import InvalidValue
from eigenstep.result import Result, Words
from eigenstep.stability.critical import CriticalSharpness
from eigenstep.stability.result import Limit

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Candidate:
    """A learning rate that was rehearsed: the probe's losses after `points` updates, inf where it diverged."""

    lr: float
    points: tuple[int, ...]
    losses: tuple[float, ...]
    diverged: bool
    steps: int


class Later(NamedTuple):
    """The limit where a rehearsal at `lr` stood after `steps` updates."""

    steps: int
    lr: float
    max_stable_lr: float


@dataclass(frozen=True, eq=False, repr=False)
class Recommendation(Result):
    """What `recommend` found. lr is None where nothing trains, or too little was run; `reason` says which.

    lr, interval: of the first param group that moves; the others keep their ratios to it. Within the interval no other
    lr was told apart from the chosen one; it ends below the smallest lr that diverged. trains: False if no lr brings
    the loss down. verified: the chosen lr was run from the start for `verified_steps` updates and did not diverge.
    rehearsed: the winner's lr, of which the answer stays a margin below. edge: the largest lr that still lowered the
    loss within a short run, and the smallest that did not (inf if none was met). limit: the certified limit at the
    start, None with the reason in notes where the optimizer has none; critical: the critical sharpness at the start.
    later: (updates, lr, limit) where a rehearsal stood. warmup: updates of a linear warm-up, where the start cannot
    take the lr; None if none is needed. start, loss: the probe's, before and at the end of the chosen run. steps,
    seconds: the cost. complete, missing: whether the search was finished, and what was left out. unchecked: what the
    answer does not cover. settings: momentum, where it was searched. groups: each param group's lr as rehearsed from.
    rules: the same at the answer, as data (Rule.as_dict). alternatives: the answers for the other settings or
    optimizers, best first.
    """

    kind: ClassVar[str] = "recommendation"

    lr: float | None
    interval: tuple[float, float] | None
    reason: str
    trains: bool
    verified: bool
    verified_steps: int
    optimizer: str
    groups: tuple[float, ...]
    start: float
    loss: float | None
    rehearsed: float | None
    candidates: tuple[Candidate, ...] = field(repr=False)
    edge: tuple[float, float] | None
    limit: Limit | None = field(repr=False)
    critical: CriticalSharpness | None = field(repr=False)
    later: tuple[Later, ...]
    warmup: int | None
    horizon: int
    budget: int
    steps: int
    seconds: float
    complete: bool
    missing: str | None
    unchecked: tuple[str, ...]
    notes: tuple[str, ...]
    rules: tuple[Mapping[str, Any], ...] = ()
    settings: Mapping[str, float] = field(default_factory=dict)
    alternatives: tuple["Recommendation", ...] = field(default=(), repr=False)

    def suggestion(self) -> float | None:
        """Return the lr; None if there is none to recommend."""
        return self.lr

    @property
    def results(self) -> dict[str, list[Any]]:
        """The rehearsals as columns, by lr: lr, loss (the probe's last), steps, diverged."""
        rows = sorted(self.candidates, key=lambda c: c.lr)
        return {
            "lr": [c.lr for c in rows],
            "loss": [c.losses[-1] for c in rows],
            "steps": [c.steps for c in rows],
            "diverged": [c.diverged for c in rows],
        }

    def apply(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Set the optimizer's lr in place, its groups' ratios kept, and the momentum if it was searched; return it.

        Raises InvalidValue if there is no lr to recommend, or the optimizer's groups are not those that were rehearsed.
        """
        if self.lr is None:
            raise InvalidValue(f"recommend: there is no lr to apply: {self.reason}")
        if len(optimizer.param_groups) != len(self.groups):
            raise InvalidValue(
                f"recommend: the optimizer has {len(optimizer.param_groups)} param groups, the one that was rehearsed "
                f"{len(self.groups)}; apply it to an optimizer built alike"
            )
        if type(optimizer).__name__ != self.optimizer:
            raise InvalidValue(
                f"recommend: this lr is for {self.optimizer}, not for {type(optimizer).__name__}; build that optimizer"
            )
        if lr_of(optimizer) == 0:
            put_lrs(optimizer, self.groups)
        set_lr(optimizer, self.lr)
        put_momentum(optimizer, self.settings.get("momentum"))
        return optimizer

    def evidence(self) -> list[tuple[str, str]]:
        """The evidence, as pairs of what and how much."""
        rows = []
        if self.limit is not None:
            low, high = self.limit.max_stable_lr_interval
            sure = "certified" if self.limit.certified else "not certified"
            rows.append(("limit at the start", f"lr {self.limit.max_stable_lr:.3g} ({low:.3g} to {high:.3g}, {sure})"))
        if self.critical is not None and self.critical.lr is not None:
            rows.append(("first step raises the loss from", f"lr {self.critical.lr:.3g} (critical sharpness)"))
        if self.edge is not None:
            upper = f"{self.edge[1]:.3g} did not" if math.isfinite(self.edge[1]) else "no larger one was tried"
            rows.append(("short runs", f"lr {self.edge[0]:.3g} lowered the loss; {upper}"))
        rows += [(f"limit after {step} updates", f"lr {edge:.3g}, at lr {lr:.3g}") for step, lr, edge in self.later]
        if self.loss is not None:
            rows.append(("loss at the start, and at the end of the chosen run", f"{self.start:.4g}, {self.loss:.4g}"))
        state = f"{self.verified_steps} updates from the start, did not diverge" if self.verified else "not verified"
        rows.append(("verification", state))
        rows.append(("cost", f"{self.steps} training steps, {self.seconds:.1f} s"))
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
        from eigenstep import draw

        ax = draw.panels()[1][0] if ax is None else ax
        stages = sorted({p for c in self.candidates for p in c.points if p and p in (c.points[-1], c.steps)})
        shown = [s for s in stages if sum(s in c.points and not c.diverged for c in self.candidates) > 1][-4:]
        ax.axhline(self.start, color=draw.GREY, linewidth=0.8, linestyle=(0, (4, 2)))
        for stage, color in zip(shown, draw.PALETTE, strict=False):
            pairs = sorted(
                (c.lr, c.losses[c.points.index(stage)])
                for c in self.candidates
                if stage in c.points and math.isfinite(c.losses[c.points.index(stage)])
            )
            ax.plot(*zip(*pairs, strict=True), color=color, marker="o", markersize=3, linewidth=1.0)
            ax.plot([], [], color=color, marker="o", markersize=3, linewidth=1.0, label=f"after {stage} updates")
        left = [c.lr for c in self.candidates if c.diverged or c.losses[-1] > self.start]
        if left:
            ax.plot(left, [self.start] * len(left), "x", color=draw.VERMILION, markersize=5, label="loss rose")
        if self.interval is not None and self.lr is not None:
            ax.axvspan(*self.interval, color=draw.PALE, alpha=0.6, linewidth=0)
            draw.line_at(self.lr, ax, text=f"lr {self.lr:.3g}", color=draw.INK)
        if self.limit is not None and math.isfinite(self.limit.max_stable_lr):
            draw.line_at(self.limit.max_stable_lr, ax, color=draw.PURPLE)
            ax.plot([], [], color=draw.PURPLE, linestyle=(0, (1, 1.5)), linewidth=0.8, label="limit at the start")
        draw.describe(ax, "lr", "loss on the probe", log="xy" if _positive(self.candidates) else "x")
        if ax.get_legend_handles_labels()[0]:
            draw.legend(ax, "below", columns=2)
        return ax

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
        warm = f", after a linear warm-up of {self.warmup} updates" if self.warmup else ""
        return f"{what}: lr {self.lr:.3g} ({self.interval[0]:.2g} to {self.interval[1]:.2g}){warm}"

    def among(self, others: tuple["Recommendation", ...]) -> "Recommendation":
        """Return this answer with those for other settings beside it."""
        return replace(self, alternatives=others)


def _positive(candidates: tuple[Candidate, ...]) -> bool:
    return all(v > 0 for c in candidates for v in c.losses if math.isfinite(v))
