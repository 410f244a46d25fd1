"""`Diagnosis`: a verdict and what it rests on, as data, words, a picture and a notebook's table."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from eigenstep.curvature import Measurement
from eigenstep.diagnosis.evidence.direction import Direction, Location
from eigenstep.diagnosis.evidence.minibatches import Spread
from eigenstep.diagnosis.evidence.play import Play
from eigenstep.diagnosis.evidence.rates import Scale, Slowness
from eigenstep.diagnosis.evidence.what_if import Pace, WhatIfRow
from eigenstep.diagnosis.rows import CHANGE_COLUMNS, CHANGE_NOTE, change_rows_of, rows_of
from eigenstep.diagnosis.story import Rehearsed, story
from eigenstep.diagnosis.verdict import VERDICTS, VerdictInputs
from eigenstep.errors import InvalidValue
from eigenstep.plain import among, key, plain
from eigenstep.result import Result, Words, number
from eigenstep.spectrum import WHAT, Spectrum
from eigenstep.stability.critical import CriticalSharpness
from eigenstep.stability.result import Limit

KIND = "diagnosis"
_ASSUMPTION = "local (the loss as it is here), quasi-static (curvature held still), all the data at once"
_DIVERGED = (
    "Diverged: the loss or a parameter is not finite already; go back to a checkpoint before that, and diagnose there."
)


@dataclass(frozen=True)
class Account:
    """What stands beside the numbers.

    - notes: what the reader should know beside the verdict.
    - reasons: why an answer is None, by its name.
    - products: Hessian-vector products taken.
    - seconds: in all.
    """

    notes: tuple[str, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)
    products: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, eq=False, repr=False)
class Diagnosis(Result):
    """What `diagnose` found; an answer that is None has its reason in `reasons`.

    - verdict: a code of VERDICTS.
    - sentence: the verdict in words.
    - loss: as it is here.
    - limit: where the optimizer stands, each group alone included; None without a linear limit.
    - location: where the sharp direction lies.
    - pace: how fast it goes, as it is and with a change.
    - lowest: the most negative eigenvalue.
    - spread: over mini-batches.
    - play: the next updates on copies, by which the verdict is judged first; None where nothing could be played.
    - rehearsed: the lr of the recommendation that was given.
    - critical: the one-step quantity, never to be divided by the limit; the verdict rests on it only where there is no
      linear limit.
    - rules: each param group's, as data (Rule.as_dict).
    - inputs: what decided the verdict.
    - account: notes, reasons and cost.

    What stands in the parts is read off the diagnosis, too: `found.ratio`, `found.shares`, `found.notes`.
    """

    kind: ClassVar[str] = KIND

    verdict: str
    sentence: str
    loss: float
    limit: Limit | None = None
    location: Location = field(default_factory=Location, metadata=among())
    pace: Pace = field(default_factory=Pace, metadata=among())
    lowest: Measurement | None = None
    spread: Spread | None = None
    play: Play | None = None
    rehearsed: Rehearsed | None = None
    critical: CriticalSharpness | None = None
    rules: tuple[Mapping[str, Any], ...] = ()
    inputs: VerdictInputs = field(default_factory=VerdictInputs, metadata=key("facts"))
    account: Account = field(default_factory=Account, metadata=among())

    @classmethod
    def diverged(cls, loss: float, rules: tuple[Mapping[str, Any], ...] = (), *, seconds: float) -> Self:
        """The diagnosis of a loss that is not finite: there is no curvature to measure."""
        account = Account(reasons={"ratio": "the loss is not finite"}, seconds=seconds)
        return cls(verdict="diverged", sentence=_DIVERGED, loss=loss, rules=rules, account=account)

    @property
    def ratio(self) -> float | None:
        """The stability ratio; 1 = the edge."""
        return None if self.limit is None else self.limit.ratio

    @property
    def interval(self) -> tuple[float, float] | None:
        """Where the ratio lies, from the eigenvalue's bound."""
        return None if self.limit is None else self.limit.interval

    @property
    def max_stable_lr(self) -> float | None:
        """Of the first group that moves, all groups scaled together."""
        return None if self.limit is None else self.limit.max_stable_lr

    @property
    def lr(self) -> float | None:
        """Of the first group that moves, now."""
        return None if self.limit is None else self.limit.lr

    @property
    def direction(self) -> Direction | None:
        """The direction nearest to the edge."""
        return self.location.direction

    @property
    def shares(self) -> Mapping[str, float]:
        """By parameter; the sharp direction's squared norm in each, 1 in all."""
        return self.location.shares

    @property
    def layers(self) -> Mapping[str, float]:
        """By module; its ratio as if the others stood still."""
        return self.location.layers

    @property
    def scale(self) -> Scale | None:
        """How the edge's eigenvalues are the one rule's."""
        return self.pace.scale

    @property
    def slow(self) -> Slowness | None:
        """How slow the slow directions are."""
        return self.pace.slow

    @property
    def changes(self) -> tuple[WhatIfRow, ...]:
        """The what-if table."""
        return self.pace.changes

    @property
    def clip(self) -> float | None:
        """The factor that clipping puts on the update."""
        return self.inputs.clip

    @property
    def zero_gradient_share(self) -> float:
        """Of the coordinates, those in parameters without any gradient."""
        return self.inputs.zero_gradient.share

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader should know beside the verdict."""
        return self.account.notes

    @property
    def reasons(self) -> Mapping[str, str]:
        """Why an answer is None, by its name."""
        return self.account.reasons

    @property
    def products(self) -> int:
        """Hessian-vector products taken."""
        return self.account.products

    @property
    def seconds(self) -> float:
        """What it took."""
        return self.account.seconds

    def story(self) -> str:
        """Return one sentence that joins the limit of now, the warm-up it asks for and the rehearsed lr; '' without."""
        last = None if self.play is None or self.play.fails else self.play.settled
        return story(self.max_stable_lr, None if last is None else (last[0], last[2]), self.rehearsed)

    @property
    def assumption(self) -> str:
        """What the verdict holds under."""
        return _ASSUMPTION + ("; the preconditioner frozen" if self.inputs.adaptive else "")

    @property
    def failing(self) -> bool:
        """Whether a script that gates on this should stop: unstable, or diverged already."""
        return self.verdict in ("unstable", "diverged")

    @property
    def spectrum(self) -> Spectrum | None:
        """The measured density in the rule's own units: of the Hessian, or preconditioned; else the limit's value."""
        if self.slow is None or self.scale is None:
            return None if self.limit is None else self.limit.edge
        seen, scale = self.slow.density, self.scale
        adaptive = scale.rule.adaptive
        return Spectrum(
            values=scale.own(seen.values) - (0.0 if adaptive else scale.coupled),
            bounds=seen.bounds / scale.per,
            weights=seen.weights,
            dimension=seen.dimension,
            covers="density",
            operator="preconditioned" if adaptive else "hessian",
            preconditioner=dict(seen.preconditioner or {}) if adaptive else None,
            provenance=seen.provenance,
        )

    def derived(self) -> dict[str, Any]:
        """The numbers of the limit, the assumption, the rule, its spectrum, the most negative eigenvalue."""
        spectrum = self.spectrum
        return {
            **{name: plain(getattr(self, name)) for name in ("ratio", "interval", "max_stable_lr", "lr", "clip")},
            "silent": self.zero_gradient_share,
            "assumption": self.assumption,
            "rule": None if self.scale is None else self.scale.rule.as_dict(),
            "spectrum": None if spectrum is None else spectrum.as_dict(),
            "lowest_eigenvalue": None if self.lowest is None else float(self.lowest.values[0]),
        }

    def rows(self) -> list[tuple[str, str]]:
        """The numbers with their words, in the order in which a reader wants them."""
        return rows_of(self)

    def plot(self, ax: Any = None) -> Any:
        """Draw the spectrum, with the largest eigenvalue that the lr bears as it is and after each change."""
        from eigenstep import draw

        spectrum = self.spectrum
        if spectrum is None:
            raise InvalidValue(f"Diagnosis.plot: there is no spectrum to draw ({self.reasons.get('ratio', 'none')})")
        ax = draw.panels(width=7.0, height=3.0)[1][0] if ax is None else ax
        values, weights = spectrum.values, spectrum.weights.clamp(min=1e-9)
        floor = float(weights.min()) / 3
        ax.vlines(values.tolist(), floor, weights.tolist(), color=draw.BLUE, linewidth=1.0, alpha=0.6)
        top = float(values.max())
        ax.plot([top], [float(weights[values.argmax()])], "v", color=draw.VERMILION, markersize=4)
        draw.describe(ax, f"eigenvalue of the {WHAT[spectrum.operator]}", "share of directions", log="y")
        ax.set_xscale("symlog", linthresh=max(abs(top) * 1e-2, 1e-12))
        ax.set_ylim(floor, 3.0)
        bears = [(c.name, c.largest_stable) for c in self.changes if "decay" not in c.name]
        known = [(name, bears) for name, bears in bears if bears is not None and math.isfinite(bears)]
        for i, ((name, limit), color) in enumerate(zip(known, (draw.INK, *draw.PALETTE[1:]), strict=False)):
            ax.axvline(limit, color=color, linewidth=1.0, linestyle=(0, (4, 2)) if i else "-", label=f"limit {name}")
        if known:
            draw.legend(ax, "right")
        ax.set_title(f"{self.verdict}: {VERDICTS[self.verdict]}", fontsize=8, loc="left")
        return ax

    def words(self) -> Words:
        """Return the sentence, the numbers and what a change would do."""
        each = zip(*((c.name, c.lr, c.max_stable_lr, c.ratio, c.rate, c.tenfold) for c in self.changes), strict=True)
        table = dict(zip(CHANGE_COLUMNS, each, strict=False))
        brief = f"{self.verdict}: ratio {number(self.ratio)}, max_stable_lr {number(self.max_stable_lr)}"
        notes = (f"assumption: {self.assumption}", *self.notes)
        return Words(f"{brief}, lr {number(self.lr)}", self.sentence, self.rows(), table, notes)

    def __str__(self) -> str:
        """The sentence, its assumption, the numbers, the what-if table."""
        width = max((len(name) for name, _ in self.rows()), default=0)
        lines = [self.sentence, f"({self.assumption})", ""]
        lines += [f"  {name.ljust(width)}  {words}" for name, words in self.rows()]
        if self.changes:
            lines += ["", "what a change would do"]
            table = [CHANGE_COLUMNS, *self.change_rows()]
            widths = [max(map(len, column)) for column in zip(*table, strict=True)]
            lines += ["  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in table]
            lines += [f"  ({CHANGE_NOTE})", ""]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)

    def change_rows(self) -> list[tuple[str, str, str, str, str, str]]:
        """The what-if table as text: name, lr, limit, ratio, rate, updates to a tenfold shrink."""
        return change_rows_of(self)
