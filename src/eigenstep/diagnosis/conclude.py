"""From what was measured to a `Diagnosis`: what the verdict rests on, its sentence, its notes."""

import math
import time
from dataclasses import replace

from eigenstep.bridge import rules_told
from eigenstep.bridge.param_groups import scheduled
from eigenstep.curvature.operators import vectors as vec
from eigenstep.diagnosis.measurements import DiagnosisMeasurements
from eigenstep.diagnosis.orbit import orbit_of
from eigenstep.diagnosis.result import Account, Diagnosis
from eigenstep.diagnosis.verdict import VerdictInputs, code_of, one_step_sentence, sentence_of
from eigenstep.diagnosis.what_if import HALF
from eigenstep.stability.critical import bottomless

NOT_ITS_OWN = (
    "Try this lr before you trust what follows. Part of the loss stands still when it is differentiated (detach, "
    "no_grad, a straight-through function), so that the run may meet another curvature than the one measured."
)


def conclude(m: DiagnosisMeasurements, began: float) -> Diagnosis:
    """Judge what was measured and put it together; inside the session of the measurements."""
    limit, critical = m.limit, m.critical
    inputs = _inputs(m)
    code = code_of(inputs)
    if (code == "done" and bool(m.gradient.any())) or (code in ("adapts", "edge") and not inputs.young):
        found = orbit_of(m.objective, m.optimizer, None if limit is None else limit.sharpness)
        inputs = replace(inputs, orbit=None if found is None else found.words())
    if critical is not None and m.not_linear is not None and code != "done":
        name = type(m.optimizer).__name__
        code, sentence = "one-step", one_step_sentence(name, critical.multiple, critical.reason)
    else:
        lr, edge_lr = (limit.lr, limit.max_stable_lr) if limit is not None else (0.0, 0.0)
        sentence = sentence_of(code, inputs, lr, edge_lr)
        if m.edge is not None and m.edge.operator.surrogate:
            sentence = f"{NOT_ITS_OWN} {sentence}"
    return Diagnosis(
        verdict=code,
        sentence=sentence,
        loss=m.loss,
        limit=limit,
        location=m.location,
        pace=m.pace,
        lowest=m.lowest,
        spread=m.spread,
        trial=m.trial,
        critical=critical,
        rules=rules_told(m.optimizer),
        inputs=inputs,
        account=Account(
            notes=tuple(_notes(m, inputs)),
            reasons={**({} if limit is None else limit.reasons), **m.reasons},
            products=m.products,
            seconds=time.perf_counter() - began,
        ),
    )


def _inputs(m: DiagnosisMeasurements) -> VerdictInputs:
    """What the verdict rests on; the orbit aside, which the code decides about."""
    inputs = _with_limit(m)
    if m.critical is not None and m.critical.multiple == math.inf:
        inputs = replace(inputs, bottomless=bottomless(m.objective, m.optimizer))
    if m.location.direction is not None and m.limit is not None:
        off = next((change.ratio for change in m.pace.changes if change.name == "nesterov off"), None)
        where, origin, alone = m.location.direction.where, m.location.direction.origin, tuple(m.limit.alone.values())
        inputs = replace(inputs, where=where, origin=origin, alone=alone, nesterov_off=off)
    half = next((change for change in m.pace.changes if change.name == HALF), None)
    if half is not None and half.tenfold is not None and m.pace.changes[0].tenfold is not None:
        inputs = replace(inputs, raised=(half.lr, half.tenfold, m.pace.changes[0].tenfold))
    return inputs


def _with_limit(m: DiagnosisMeasurements) -> VerdictInputs:
    """The inputs that stand beside the limit, or what is left of them without one."""
    edge, limit, spread, slow = m.edge, m.limit, m.spread, m.pace.slow
    clip = _clip(m)
    if edge is None or limit is None:
        return VerdictInputs(zero_gradient=m.zero_gradient, remaining=m.remaining(None), clip=clip, horizon=m.horizon)
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
        trial_rises=None if m.trial is None else m.trial.rises,
        progress=1.0 if slow is None else slow.progress,
        possible=1.0 if slow is None else slow.possible,
        remaining=m.remaining(limit.sharpness),
        lowest=_lowest(m, limit.sharpness or 0.0, limit.coupled_decay),
        zero_gradient=m.zero_gradient,
        clip=clip,
        batch_high=None if spread is None else spread.high,
        batch_times=None if spread is None else spread.times,
        horizon=m.horizon,
    )


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
    notes = list(m.limit.notes if m.limit is not None else m.objective.notes)
    if spread is not None:
        notes.append(
            f"the ratio on {len(spread.ratios)} mini-batches runs from {spread.low:.3g} to {spread.high:.3g}; "
            "noise lowers the true edge"
        )
    else:
        notes.append("mini-batch noise lowers the true edge; its size was not measured")
    if m.clip is None:
        notes.append("gradient clipping is not taken into account: give clip= if you clip")
    elif inputs.clip is not None:
        how = f"clipping at {m.clip:g} shortens the update to {inputs.clip:.0%} here"
        notes.append(how + (", and the unit with it: the limit does not count it" if inputs.adaptive else ""))
    notes.append("loss scaling is not taken into account: gradients are the loss's own, unscaled")
    if scheduled(m.optimizer):
        notes.append("an lr schedule is attached: this is the lr of now, not of the rest of the run")
    return notes
