"""`Diagnosis`: a verdict and what it rests on, as data, words, a picture and a notebook's table."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from eigenstep.curvature import Measurement
from eigenstep.diagnosis.direction import Direction
from eigenstep.diagnosis.minibatches import Spread
from eigenstep.diagnosis.rates import Scale, Slowness, updates_told
from eigenstep.diagnosis.trial import TrialUpdates
from eigenstep.diagnosis.verdict import VERDICTS, VerdictInputs
from eigenstep.diagnosis.what_if import WhatIfRow
from eigenstep.errors import InvalidValue
from eigenstep.plain import key
from eigenstep.result import Result, Words, number
from eigenstep.spectrum import WHAT, Spectrum
from eigenstep.stability.critical import CriticalSharpness
from eigenstep.stability.result import Limit

KIND = "diagnosis"
CHANGE_COLUMNS = ("change", "lr", "largest stable lr", "ratio", "rate", "updates to a tenth")
CHANGE_NOTE = "rate and updates to a tenth: in the direction of the gradient's median curvature"
_SHOWN_FROM = 5e-4  # a share that .1% shows
_SHOWN = 4  # of the layers, the nearest to the edge
_ASSUMPTION = "local (the loss as it is here), quasi-static (curvature held still), all the data at once"
_DIVERGED = (
    "Diverged: the loss or a parameter is not finite already; go back to a checkpoint before that, and diagnose there."
)


@dataclass(frozen=True, eq=False, repr=False)
class Diagnosis(Result):
    """What `diagnose` found; an answer that is None has its reason in `reasons`.

    verdict: a code of VERDICTS; sentence: the same in words; assumption: what it rests on. ratio: the stability ratio,
    1 = the edge, with its interval; max_stable_lr: of the first group that moves, at lr = `lr` now. limit: all about
    it, each group alone included; layers: each module's ratio alone. direction, shares: where the sharp direction lies.
    slow: how slow the slow directions are; lowest: the most negative eigenvalue; spread: over mini-batches. clip: the
    factor that clipping puts on the update. trial: some updates on copies, where second moments are young and the ratio
    is above 1. critical: the one-step quantity, never to be
    divided by the limit; the verdict rests on it only where there is no linear limit. changes: the what-if
    table. zero_gradient_share: of the coordinates, those in parameters without any gradient. inputs: what decided the
    verdict. rules: each param group's, as data (Rule.as_dict).
    """

    kind: ClassVar[str] = KIND

    verdict: str
    sentence: str
    loss: float
    ratio: float | None = None
    interval: tuple[float, float] | None = None
    max_stable_lr: float | None = None
    lr: float | None = None
    limit: Limit | None = None
    scale: Scale | None = None
    direction: Direction | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    layers: Mapping[str, float] = field(default_factory=dict)
    slow: Slowness | None = None
    lowest: Measurement | None = None
    spread: Spread | None = None
    clip: float | None = None
    trial: TrialUpdates | None = None
    critical: CriticalSharpness | None = None
    changes: tuple[WhatIfRow, ...] = field(default=(), metadata=key("limits"))
    rules: tuple[Mapping[str, Any], ...] = ()
    zero_gradient_share: float = field(default=0.0, metadata=key("silent"))
    inputs: VerdictInputs = field(default_factory=VerdictInputs, metadata=key("facts"))
    notes: tuple[str, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)
    products: int = 0
    seconds: float = 0.0

    @classmethod
    def diverged(cls, loss: float, rules: tuple[Mapping[str, Any], ...] = (), *, seconds: float) -> Self:
        """The diagnosis of a loss that is not finite: there is no curvature to measure."""
        reasons = {"ratio": "the loss is not finite"}
        return cls(verdict="diverged", sentence=_DIVERGED, loss=loss, rules=rules, reasons=reasons, seconds=seconds)

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
        """The assumption, the rule, the spectrum in its units, and the most negative eigenvalue."""
        spectrum = self.spectrum
        return {
            "assumption": self.assumption,
            "rule": None if self.scale is None else self.scale.rule.as_dict(),
            "spectrum": None if spectrum is None else spectrum.as_dict(),
            "lowest_eigenvalue": None if self.lowest is None else float(self.lowest.values[0]),
        }

    def rows(self) -> list[tuple[str, str]]:
        """The numbers with their words, in the order in which a reader wants them."""
        rows = [("loss", f"{self.loss:.6g}")]
        if self.limit is not None:
            rows += self.limit.rows()
        if self.critical is not None and self.critical.lr is not None:
            words = self.critical.headline
            if self.limit is not None:
                words += f"; over many steps the edge is at {self.limit.max_stable_lr:.4g}"
            rows.append(("critical sharpness", words))
        if self.direction is not None:
            d = self.direction
            smooth = {True: "agree", False: "DISAGREE: kinks that the Hessian does not see", None: "lost in rounding"}
            rows.append(("sharp direction", f"{d.where}; put there by {d.origin}"))
            shown = f"{d.step.curvatures[0]:.4g} and {d.step.curvatures[1]:.4g} beside {d.curvature:.4g}"
            rows.append(("finite steps along it", f"{smooth[d.smooth]} (curvature over one update and four: {shown})"))
        if self.slow is not None:
            rows += _slow_rows(self.slow, stable=(self.ratio or 0.0) <= 1)
        if self.lowest is not None:
            rows.append(("most negative curvature", f"{float(self.lowest.values[0]):.4g}"))
        if self.trial is not None:
            high, end = max(self.trial.losses), self.trial.losses[-1]
            rows.append(
                ("tried on copies", f"{len(self.trial.losses) - 1} updates: at most {high:.4g}, then {end:.4g}")
            )
        if self.spread is not None:
            s = self.spread
            rows.append(("ratio on mini-batches", f"{s.low:.4g} to {s.high:.4g}, {len(s.ratios)} of {s.samples[0]}"))
        if self.limit is not None and len(self.limit.alone) > 1:
            each = ", ".join(f"{i}: {ratio:.4g}" for i, ratio in self.limit.alone.items())
            rows.append(("groups alone", f"{each}; they do not add up"))
        if self.layers:
            largest = sorted(self.layers.items(), key=lambda item: -item[1])[:_SHOWN]
            rows.append(("layers alone", ", ".join(f"{name}: {ratio:.4g}" for name, ratio in largest)))
        return rows

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
        rows = [
            (
                change.name,
                f"{change.lr:.4g}",
                f"{change.max_stable_lr:.4g}",
                f"{change.ratio:.3g}",
                "-" if change.rate is None else f"{change.rate:.6g}",
                "-" if change.tenfold is None else updates_told(change.tenfold).rpartition(" ")[0],
            )
            for change in self.changes
        ]
        if self.spread is not None:
            rows.append(("single mini-batches", "-", "-", f"{self.spread.low:.3g} to {self.spread.high:.3g}", "-", "-"))
        return rows


def _slow_rows(slow: Slowness, *, stable: bool) -> list[tuple[str, str]]:
    def between(part: tuple[float, float]) -> str:
        low, high = (f"{share:.0%}" for share in part)
        return low if low == high else f"{low} to {high}"

    def told(count: float) -> str:
        return updates_told(count).rpartition(" ")[0]

    def goes(half: bool) -> str:
        certain, steady = slow.certain(half), slow.steady[half]
        words = (
            f"at least {math.floor(1000 * certain) / 1000:.1%} of the loss"
            if certain >= 0
            else "weight decay may outweigh what goes"
        )
        more = f", {steady:.1%} more if it falls on as steeply as here where nothing curves"
        return words + more * (steady >= _SHOWN_FROM)

    fast, late = (told(slow.tenfold[q]) if q in slow.tenfold else "-" for q in ("10%", "90%"))
    shrink = f"{fast} to {late} where curvature is told from zero"
    if slow.unresolved >= 0.005 and slow.flattest is not None:
        shrink += f"; the other {slow.unresolved:.0%} of directions are flatter: {told(slow.flattest)} or more"
    pulled = f"{between(slow.gradient_stuck)} of the gradient" if slow.gradient_norm else "there is no gradient"
    still = f"{between(slow.stuck)} of the directions, {pulled}"
    now = goes(False) if stable else "above the limit the loss rises along the sharp direction"
    gain = f"{now}; at half the limit {goes(True)} (local quadratic)"
    rows = [("updates to a tenfold shrink", shrink), (f"not moving within {slow.horizon:,}", still)]
    if not slow.tenfold and not slow.negative:  # no direction curves: there is no error that could shrink
        rows, gain = [], f"{goes(False)} (local quadratic)"
    return [*rows, (f"goes within {slow.horizon:,}", gain)]
