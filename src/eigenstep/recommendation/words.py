"""The words of a recommendation: why this lr, and what was not checked; each is true of the runs beside it."""

import math

from eigenstep.recommendation.plan import MARGIN
from eigenstep.recommendation.request import Request
from eigenstep.recommendation.search import LrSearch
from eigenstep.recommendation.start import StartMeasurements
from eigenstep.rehearsal import PROBE_BATCHES, Lane, Rehearsal
from eigenstep.rehearsal.schedule import updates


def under(lane: Lane, search: LrSearch) -> str:
    """Return under what a lane ran, where not under the schedule that was asked for."""
    if lane.schedule is search.rehearsal.schedule:
        return ""
    return "peak held" if lane.schedule is search.held else "squeezed"


def nothing_falls(search: LrSearch, start: float, measured: StartMeasurements) -> str:
    """Return why no run lowered the loss."""
    if search.missing is not None and not search.lanes:
        return f"too little was run, so give a larger budget: {search.missing}"
    if measured.critical is not None and measured.critical.reason is not None:
        return f"nothing trains here, whatever the lr, so look at the model first: {measured.critical.reason}"
    tried = sorted(lane.lr for lane in search.lanes.values())
    which = "validation loss" if search.rehearsal.judge is not search.rehearsal.probe else "loss"
    return (
        f"nothing trains here, so look at the loss and the data first: no lr from {tried[0]:.2g} to "
        f"{tried[-1]:.2g} lowered the {which} from {start:.4g}; it may be as low as it gets, or the mini-batches may "
        "lead elsewhere than the data that it is taken on"
    )


def reason(search: LrSearch, winner: Lane, measured: StartMeasurements) -> str:
    """Return why this lr, in sentences that are true of the table of what was run."""
    edge, chosen = search.edge or (winner.lr, math.inf), search.chosen
    rehearsed = f"rehearsed{' over the whole schedule' if search.whole else ''}"
    lrs = {lane.lr for lane in search.alike}
    text = f"of {len(lrs)} learning rates {rehearsed} {winner.lr:.3g} brought the loss lowest: {_told(winner, search)}."
    if chosen is not None and chosen is not winner:
        text += f" The answer, {chosen.lr:.3g}, brought it to {_told(chosen, search)}"
        text += f"{_why_this(chosen, search)}."
    elif chosen is None and (lr := search.middle()) is not None:
        text += f" The answer, {lr:.3g}, was not run itself: it is {_middle(search)}."
    if search.missing is not None:
        text += f" That was so far: {search.missing}."
    upper = (
        f"from {edge[1]:.3g} on it diverged or the loss rose" if math.isfinite(edge[1]) else "no larger lr was tried"
    )
    text += f" {'Runs' if search.whole else 'Short runs'} lowered the loss up to {edge[0]:.3g}, {upper}"
    return f"{text}{_beside_the_limit(search, measured)}."


def _why_this(chosen: Lane, search: LrSearch) -> str:
    """How the answer came about, where it is not the lowest run."""
    if chosen is search.check:
        return f": it is {_middle(search)}"
    if search.check is not None and search.check.loss < search.rehearsal.start:
        return f"; {search.check.lr:.3g}, the middle of the best, ended higher when it was run itself"
    if search.check is not None:
        return f"; {search.check.lr:.3g}, the middle of the best, did not lower the loss when it was run itself"
    return "; no steps were left to run the middle of the best itself"


def _told(lane: Lane, search: LrSearch) -> str:
    """How a run ended."""
    how = {"peak held": " with the lr held there", "squeezed": " of the whole schedule, squeezed into them"}
    return f"{lane.loss:.4g} after {updates(lane.step)}{how.get(under(lane, search), '')}"


def _middle(search: LrSearch) -> str:
    """How the answer follows from what was compared last."""
    near = "the middle of those that came near the lowest"
    if search.capped:
        return (
            "the largest that was run and lowered the loss; a falling lr may bear a higher peak, but nothing above was "
            "seen to"
        )
    if search.lift == 1:
        return f"{near}, {MARGIN:.2g} times lower, since too high costs more than too low"
    times = f"{search.lift / MARGIN:.2g} times " if search.lift > MARGIN else ""
    return f"{times}{near} with the lr held, since a falling lr lets its peak lie higher"


def _beside_the_limit(search: LrSearch, measured: StartMeasurements) -> str:
    """How the answer lies to the limit at the start, and why it may lie past it."""
    if measured.limit is None or not math.isfinite(measured.limit.max_stable_lr):
        return ""
    limit, chosen = measured.limit.max_stable_lr, search.chosen
    text = f"; the limit at the start is {limit:.3g}"
    if chosen is None or chosen.lr <= limit:
        return text
    risen = max((each.max_stable_lr for each in measured.later), default=0.0)
    if risen > chosen.lr:
        return f"{text}, and rises in training, to {risen:.3g} within the rehearsals: the answer may lie past the first"
    return f"{text}; the answer lies past it, and its own run lowered the loss all the same"


def unchecked(rehearsal: Rehearsal, chosen: Lane | None, missing: str | None, asked: Request) -> list[str]:
    """Return what the answer does not cover."""
    found = [] if missing is None else [missing]
    schedule = rehearsal.schedule
    if chosen is not None and chosen.step < schedule.horizon:
        within = f"{asked.bounded_by(rehearsal.budget)} reached no further"
        if schedule.constant:
            ahead = f"updates {chosen.step + 1} to {schedule.horizon}"
        else:
            ahead = f"the schedule over its {updates(schedule.horizon)}; the answer's own run took {chosen.step}"
        found.append(f"{ahead}: {within}, and that the order of the candidates stays is a bet")
    if schedule.constant:
        found.append("a schedule: every run was at a constant lr; schedule= rehearses one")
    if asked.loop is None:
        what = "gradient accumulation" if rehearsal.clip is not None else "gradient clipping and accumulation"
        found.append(f"{what}, if your loop has them: loop= rehearses your own training step")
    if not rehearsal.whole:
        which = "the validation data's" if asked.validation is not None else "the objective's"
        found.append(f"{which} other batches: the loss was taken on {PROBE_BATCHES} of them")
    if rehearsal.stream.full and not rehearsal.stream.one:
        found.append(f"more than {len(rehearsal.stream.kept)} mini-batches: for memory these were gone over repeatedly")
    return found
