"""From what was measured to a `Diagnosis`: what the verdict rests on, its sentence, its notes."""

import math
from dataclasses import replace

import torch

from eigenstep.bridge import rules_told
from eigenstep.bridge.param_groups import scheduled
from eigenstep.curvature.operators import vectors as vec
from eigenstep.diagnosis.evidence.orbit import orbit_of
from eigenstep.diagnosis.evidence.play import Play
from eigenstep.diagnosis.evidence.rates import updates_told
from eigenstep.diagnosis.evidence.what_if import HALF
from eigenstep.diagnosis.measurements import DiagnosisMeasurements
from eigenstep.diagnosis.result import Account, Diagnosis
from eigenstep.diagnosis.sentence import one_step_sentence, sentence_of
from eigenstep.diagnosis.story import Rehearsed
from eigenstep.diagnosis.verdict import VerdictInputs, code_of
from eigenstep.stability.critical import bottomless
from eigenstep.stability.zero_gradient import DOWNWARDS

_FLOOR = 8.0  # times sharpness times loss; twice would do where the sharpness stayed what it is here
NOT_ITS_OWN = (
    "Try this lr before you trust what follows. Part of the loss stands still when it is differentiated (detach, "
    "no_grad, a straight-through function), so that the run may meet another curvature than the one measured."
)


def conclude(m: DiagnosisMeasurements, rehearsed: Rehearsed | None) -> Diagnosis:
    """Judge what was measured and put it together; inside the session of the measurements."""
    limit, critical = m.limit, m.critical
    code, inputs = _verified(m, inputs_of(m))
    m.table()
    inputs = _with_changes(m, inputs)
    if rehearsed is not None and m.lr > 0 and not rehearsed.holds(m.lr):
        inputs = replace(inputs, rehearsed=(rehearsed.lr, m.lr))
    if _circles(m, code, inputs):
        found = orbit_of(m.objective, m.optimizer, None if limit is None else limit.sharpness)
        inputs = replace(inputs, orbit=None if found is None else found.words())
    if critical is not None and m.not_linear is not None and code not in ("done", "unstable"):
        name = type(m.optimizer).__name__
        code, sentence = "one-step", one_step_sentence(name, critical.multiple, critical.reason, inputs)
    else:
        bound = None if limit is None else limit.max_stable_lr
        sentence = sentence_of(code, inputs, m.lr if limit is None or not limit.lr else limit.lr, bound)
        if m.edge is not None and m.edge.operator.surrogate:
            sentence = f"{NOT_ITS_OWN} {sentence}"
    m.finish()
    return Diagnosis(
        verdict=code,
        sentence=sentence,
        loss=m.loss,
        limit=limit,
        location=m.location,
        pace=m.pace,
        lowest=m.lowest,
        spread=m.spread,
        play=m.play,
        rehearsed=rehearsed,
        critical=critical,
        rules=rules_told(m.optimizer),
        inputs=inputs,
        account=Account(
            notes=tuple(_notes(m, inputs)),
            reasons={**({} if limit is None else limit.reasons), **m.reasons},
            products=m.products,
            seconds=m.allowance.spent,
        ),
    )


def _verified(m: DiagnosisMeasurements, inputs: VerdictInputs) -> tuple[str, VerdictInputs]:
    """The code and its inputs; where it says that a higher lr is better, or that none helps, some are tried."""
    code = code_of(inputs)
    if code not in ("crawling", "saddle") or m.limit is None or m.trials is None or m.zero_gradient.downwards:
        return code, inputs
    better = m.trials.higher(m.limit.max_stable_lr if inputs.settled is None else inputs.settled[2])
    if better is None:
        return code, inputs
    if not better:
        return ("safe" if code == "crawling" else code), inputs
    return "crawling", _with_play(m, inputs)


def _circles(m: DiagnosisMeasurements, code: str, inputs: VerdictInputs) -> bool:
    """Whether the orbit is looked at: done with a gradient left, or no longer young and above, at the edge or still."""
    if code == "done":
        return bool(m.gradient.any())
    still = code == "safe" and inputs.adaptive and inputs.played > 0 and not inputs.trains
    return (code in ("adapts", "edge") or still) and not inputs.young


def inputs_of(m: DiagnosisMeasurements) -> VerdictInputs:
    """What the verdict rests on; the orbit aside, which the code decides about."""
    inputs = _with_play(m, _with_limit(m))
    if m.critical is not None and m.critical.multiple == math.inf:
        inputs = replace(inputs, bottomless=bottomless(m.objective, m.optimizer))
    if m.location.direction is not None and m.limit is not None:
        where, origin, alone = m.location.direction.where, m.location.direction.origin, tuple(m.limit.alone.values())
        inputs = replace(inputs, where=where, origin=origin, alone=alone)
    return inputs


def _with_changes(m: DiagnosisMeasurements, inputs: VerdictInputs) -> VerdictInputs:
    """The inputs with what the table of changes says."""
    rows = {change.name: change for change in m.pace.changes}
    half, now, off = rows.get(HALF), rows.get("as it is"), rows.get("nesterov off")
    if half is not None and now is not None and half.tenfold is not None and now.tenfold is not None:
        inputs = replace(inputs, raised=(half.lr, half.tenfold, now.tenfold))
    return inputs if off is None else replace(inputs, nesterov_off=off.ratio)


def _with_play(m: DiagnosisMeasurements, inputs: VerdictInputs) -> VerdictInputs:
    """The inputs with what the play has shown."""
    play = m.play
    if play is None:
        return inputs
    stable = None if m.limit is None or not m.limit.young else m.settled(m.limit)
    settled = None if stable is None or play.settled is None else (play.settled[0], m.lr / stable, stable)
    return replace(
        inputs,
        played=play.updates,
        fails=play.fails if play.updates else None,
        rises=play.rises,
        trains=play.trains,
        start=play.losses[0],
        high_loss=play.high,
        late_loss=play.late,
        settled=settled,
        instead=None if m.instead is None else (m.instead.lr, m.instead.late),
    )


def _with_limit(m: DiagnosisMeasurements) -> VerdictInputs:
    """The inputs that stand beside the limit, or what is left of them without one."""
    edge, limit, spread, along = m.edge, m.limit, m.spread, m.pace.along
    clip = _clip(m)
    if edge is None or limit is None:
        return VerdictInputs(
            moving=m.lr > 0, zero_gradient=m.zero_gradient, remaining=remaining(m), clip=clip, horizon=m.horizon
        )
    low, high = limit.interval or (0.0, 0.0)
    return VerdictInputs(
        ratio=limit.ratio,
        low=low,
        high=high,
        moving=edge.moving,
        adaptive=edge.adaptive,
        only_grows=all(rule.unit_only_grows for rule in edge.rules),
        young=limit.young,
        memory=any(rule.buffer_names for rule in edge.rules),
        decay_term=max(entry.lr * entry.response.decay_term for entry in edge.parameters),
        progress=1.0 if along is None else along.progress,
        possible=1.0 if along is None else along.possible,
        remaining=remaining(m),
        lowest=_lowest(m, limit.sharpness or 0.0, limit.coupled_decay),
        zero_gradient=m.zero_gradient,
        clip=clip,
        batch_high=None if spread is None else spread.high,
        batch_times=None if spread is None else spread.times,
        horizon=m.horizon,
    )


def remaining(m: DiagnosisMeasurements) -> float | None:
    """The loss over that of the same model with all measured parameters at zero; None where zero is no floor.

    A loss that is never negative has |gradient|^2 <= 2 sharpness loss. Where both are 0, with a gradient that is
    lost in rounding and no direction that goes down, nothing is left.
    """
    tiny, nothing = torch.finfo(m.objective.dtype).tiny, m.nothing
    sharpness = None if m.limit is None else m.limit.sharpness
    if sharpness is not None and vec.norm(m.gradient) ** 2 > _FLOOR * sharpness * max(m.loss, tiny):
        return None
    if sharpness is not None and sharpness > 0 and max(abs(m.loss), abs(nothing)) < tiny:
        down = -math.inf if m.lowest is None else float(m.lowest.values[0])
        return None if down < -DOWNWARDS * sharpness else 0.0
    if not (math.isfinite(nothing) and nothing > 0 and m.loss >= 0):
        return None
    return m.loss / nothing


def _clip(m: DiagnosisMeasurements) -> float | None:
    """The factor that clipping puts on an update here: by a mini-batch's gradient where some were measured."""
    if m.clip is None:
        return None
    length = m.spread.gradient_norm if m.spread is not None else vec.norm(m.gradient)
    return min(1.0, m.clip / length) if length > 0 else 1.0


def _lowest(m: DiagnosisMeasurements, sharpness: float, coupled_decay: float) -> float | None:
    """The most negative eigenvalue, the coupled decay included, over the largest."""
    if m.lowest is None:
        return None
    bottom = float(m.lowest.values[0]) + coupled_decay
    if sharpness > 0:
        return bottom / sharpness
    return -math.inf if bottom < 0 else 0.0


def _notes(m: DiagnosisMeasurements, inputs: VerdictInputs) -> list[str]:
    """What the reader should know beside the verdict."""
    spread = m.spread
    notes = _of_loop(m) + list(m.limit.notes if m.limit is not None else m.objective.notes)
    if spread is not None:
        notes.append(
            f"the ratio on {len(spread.ratios)} mini-batches runs from {spread.low:.3g} to {spread.high:.3g}; "
            "noise lowers the true edge"
        )
    else:
        notes.append("mini-batch noise lowers the true edge; its size was not measured")
    looped = m.trials is not None and m.trials.rehearsal.loop is not None
    if m.clip is None and not looped:
        notes.append("gradient clipping is not taken into account: give clip= if you clip")
    elif inputs.clip is not None:
        how = f"clipping at {m.clip:g} shortens the update to {inputs.clip:.0%} here"
        notes.append(how + (", and the unit with it: the limit does not count it" if inputs.adaptive else ""))
    if m.trials is None or m.trials.factor is None:
        notes.append("loss scaling is not taken into account: gradients are the loss's own, unscaled")
    peak = None if m.trials is None else m.trials.rehearsal.schedule.peak
    if peak is not None:
        notes.append(f"an lr schedule is attached or given: the limit is that of its peak, lr {peak:.4g}")
    elif scheduled(m.optimizer):
        notes.append("an lr schedule is attached: the limit is that of the lr of now, not of the rest of the run")
    if m.play is not None:
        notes += _of_play(m.play)
    return notes


def _of_loop(m: DiagnosisMeasurements) -> list[str]:
    """What the reader should know first: that the user's loop follows other gradients than the ones measured."""
    if m.trials is None or m.trials.factor is None or m.trials.factor == 1:
        return []
    if m.trials.scaled is not None:
        return [m.trials.scaled]
    return [
        "the loop's gradients are no fixed multiple of the objective's (it clips, accumulates or augments, or has "
        "another loss): the limit is that of the objective's own, the verdict's updates are the loop's"
    ]


def _of_play(play: Play) -> list[str]:
    """What the reader should know of the play."""
    notes = [f"tried on copies: {updates_told(play.updates)} at {play.schedule}, peak lr {play.lr:.4g}"]
    if not play.peaked:
        notes.append("the play ended before the schedule's peak was reached: the verdict is of the updates before it")
    if play.ended is not None:
        notes.append(f"the play ended early: {play.ended}")
    return notes
