"""A diagnosis in rows: the numbers with their words, and the table of changes."""

import math
from typing import TYPE_CHECKING

from eigenstep.diagnosis.evidence.play import Play
from eigenstep.diagnosis.evidence.rates import Along, Slowness, updates_told

if TYPE_CHECKING:
    from eigenstep.diagnosis.result import Diagnosis

CHANGE_COLUMNS = ("change", "lr", "largest stable lr", "ratio", "rate", "updates to a tenth")
CHANGE_NOTE = "rate and updates to a tenth: in the direction of the gradient's median curvature"
_SHOWN_FROM = 5e-4  # a share that .1% shows
_AFTER = (0, 5, 20, 50, 100, 200, 400)  # updates
_SHOWN = 4  # of the layers, the nearest to the edge


def rows_of(d: "Diagnosis") -> list[tuple[str, str]]:
    """The numbers with their words, in the order in which a reader wants them."""
    rows = [("loss", f"{d.loss:.6g}"), *_play_rows(d.play)]
    if d.rehearsed is not None:
        interval = d.rehearsed.interval
        between = "" if interval is None else f", {interval[0]:.3g} to {interval[1]:.3g}"
        rows.append(("rehearsed lr", f"{d.rehearsed.lr:.4g}{between}"))
        rows.append(("the lr in one sentence", d.story()))
    if d.limit is not None:
        rows += d.limit.rows()
    if d.critical is not None and d.critical.lr is not None:
        words = d.critical.headline
        if d.limit is not None:
            words += f"; over many steps the edge is at {d.limit.max_stable_lr:.4g}"
        rows.append(("critical sharpness", words))
    if d.direction is not None:
        along = d.direction
        smooth = {True: "agree", False: "DISAGREE: kinks that the Hessian does not see", None: "lost in rounding"}
        rows.append(("sharp direction", f"{along.where}; put there by {along.origin}"))
        shown = f"{along.step.curvatures[0]:.4g} and {along.step.curvatures[1]:.4g} beside {along.curvature:.4g}"
        rows.append(("finite steps along it", f"{smooth[along.smooth]} (curvature over one update and four: {shown})"))
    if d.pace.along is not None:
        rows += _slow_rows(
            d.pace.along, d.slow, stable=(d.ratio or 0.0) <= 1 and not d.failing, young=d.inputs.settled is not None
        )
    if d.lowest is not None:
        rows.append(("most negative curvature", f"{float(d.lowest.values[0]):.4g}"))
    if d.spread is not None:
        s = d.spread
        rows.append(("ratio on mini-batches", f"{s.low:.4g} to {s.high:.4g}, {len(s.ratios)} of {s.samples[0]}"))
    if d.limit is not None and len(d.limit.alone) > 1:
        each = ", ".join(f"{i}: {ratio:.4g}" for i, ratio in d.limit.alone.items())
        rows.append(("groups alone", f"{each}; they do not add up"))
    if d.layers:
        largest = sorted(d.layers.items(), key=lambda item: -item[1])[:_SHOWN]
        rows.append(("layers alone", ", ".join(f"{name}: {ratio:.4g}" for name, ratio in largest)))
    return rows


def change_rows_of(d: "Diagnosis") -> list[tuple[str, str, str, str, str, str]]:
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
        for change in d.changes
    ]
    if d.spread is not None:
        rows.append(("single mini-batches", "-", "-", f"{d.spread.low:.3g} to {d.spread.high:.3g}", "-", "-"))
    return rows


def _play_rows(play: Play | None) -> list[tuple[str, str]]:
    """The losses on copies, and the ratio there."""
    if play is None or not play.updates:
        return []
    shown = [p for p in play.points if p in _AFTER or p == play.updates]
    losses = ", ".join(f"{p}: {play.losses[play.points.index(p)]:.4g}" for p in shown)
    rows = [("on copies, loss after updates", losses)]
    if play.ratios:
        ratios = ", ".join(f"{p}: {r:.3g}" for p, r in play.ratios.items())
        then = "" if play.schedule == "a constant lr" else " (at the lr of then)"
        rows.append(("on copies, ratio after updates", f"{ratios}{then}"))
    return rows


def _slow_rows(along: Along, slow: Slowness | None, *, stable: bool, young: bool) -> list[tuple[str, str]]:
    def between(part: tuple[float, float]) -> str:
        low, high = (f"{share:.0%}" for share in part)
        return low if low == high else f"{low} to {high}"

    def told(count: float) -> str:
        return updates_told(count).rpartition(" ")[0]

    def goes(half: bool) -> str:
        certain, steady = along.certain(half), along.steady[half]
        words = (
            f"at least {math.floor(1000 * certain) / 1000:.1%} of the loss"
            if certain >= 0
            else "weight decay may outweigh what goes"
        )
        more = f", {steady:.1%} more if it falls on as steeply as here where nothing curves"
        return words + more * (steady >= _SHOWN_FROM)

    now = goes(False) if stable else "above the limit the loss rises along the sharp direction"
    if young:
        now = "not known while second moments are young"
    within = f"goes within {along.horizon:,}"
    if slow is None:
        return [(within, f"{now}; at half the limit {goes(True)} (local quadratic)")]
    if not slow.tenfold and not slow.negative:  # no direction curves: there is no error that could shrink
        return [(within, f"{goes(False)} (local quadratic)")]
    fast, late = (told(slow.tenfold[q]) if q in slow.tenfold else "-" for q in ("10%", "90%"))
    shrink = f"{fast if fast == late else f'{fast} to {late}'} where curvature is told from zero"
    if slow.unresolved >= 0.005 and slow.flattest is not None:
        shrink += f"; the other {slow.unresolved:.0%} of directions are flatter: {told(slow.flattest)} or more"
    pulled = f"{between(slow.gradient_stuck)} of the gradient" if slow.gradient_norm else "there is no gradient"
    return [
        ("updates to a tenfold shrink", shrink),
        (f"not moving within {slow.horizon:,}", f"{between(slow.stuck)} of the directions, {pulled}"),
        (within, f"{now}; at half the limit {goes(True)} (local quadratic)"),
    ]
