"""The evidence of a diagnosis, gathered piece by piece inside one session."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from eigenstep.bridge import rule_of
from eigenstep.curvature import Measurement, measure, shares
from eigenstep.curvature.operators import vectors as vec
from eigenstep.curvature.operators.preconditioned import stepped_by
from eigenstep.curvature.operators.unit import frozen
from eigenstep.diagnosis.direction import direction_of
from eigenstep.diagnosis.minibatches import Spread, spread_of
from eigenstep.diagnosis.orbit import orbit_of
from eigenstep.diagnosis.rates import Slowness, one_rule, slowness
from eigenstep.diagnosis.result import Diagnosis
from eigenstep.diagnosis.trial import TrialUpdates, trial_of
from eigenstep.diagnosis.verdict import VerdictInputs, code_of, one_step_sentence, sentence_of
from eigenstep.diagnosis.what_if import HALF, WhatIfRow, what_if
from eigenstep.errors import Unsupported
from eigenstep.objective import Objective
from eigenstep.rules import LinearRule
from eigenstep.stability.critical import CriticalSharpness, bottomless, critical_sharpness
from eigenstep.stability.joint_limit import Edge, edge_of
from eigenstep.stability.limit import Limit, limit_now, ratio_alone
from eigenstep.stability.zero_gradient import ZeroGradient, zero_gradient_of

STAGES = ("loss and gradient", "the limit", "negative curvature", "the slow directions", "layers", "mini-batches")
_FLOOR = 8.0  # times sharpness times loss; twice would do where the sharpness stayed what it is here
_LAYERS = 8  # the layers with the largest shares are measured alone
_PROBES, _STEPS = 2, 40
_LOWEST = 60  # products for the most negative eigenvalue, to a tenth


@dataclass(eq=False)
class DiagnosisMeasurements:
    """One diagnosis under way: each part measured once, in the order in which the parts need each other."""

    objective: Objective
    optimizer: torch.optim.Optimizer
    clip: float | None
    horizon: int
    quick: bool
    tol: float
    seed: int
    minis: list[Any]
    tell: Callable[[int, int, str], None]  # (done, parts, what begins)
    reasons: dict[str, str] = field(default_factory=dict)
    products: int = 0

    def __post_init__(self) -> None:
        """The gradient and the loss, which everything else is compared with."""
        self.gradient, self.loss = self.objective.gradient(), self.objective.value()

    def diagnosis(self, began: float) -> Diagnosis:
        """Measure everything and put it together."""
        zero_gradient = self._zero_gradient()
        linear, dead = self._linear(), zero_gradient.flat
        edge = limit = None
        if linear is None and not dead and self._movable():
            self._tell(1)
            edge = edge_of(self.objective, self.optimizer)
            limit = limit_now(
                self.objective, self.optimizer, quick=self.quick, tol=self.tol, seed=self.seed, alone=True
            )
            self.products += limit.products
        else:
            self.reasons["ratio"] = linear or (
                "neither gradient nor curvature reaches most of the parameters"
                if dead
                else "no second moments yet, and no gradient to take them from"
            )
        self._tell(2)
        lowest = None if dead else self._lowest()
        slow = spread = direction = trial = None
        changes: list[WhatIfRow] = []
        alone: dict[str, float] = {}
        if edge is not None and limit is not None:
            slow, changes = self._slow(edge, limit)
            if limit.young and (limit.ratio or 0.0) > 1:
                trial = trial_of(self.objective, edge)
            if limit.edge.values[0] > 0:
                direction = direction_of(self.objective, edge, limit, self.gradient)
                self._tell(4)
                alone = self._layers(edge, direction.shares)
                self._tell(5)
                spread = self._spread(edge, limit)
        critical = None if dead else self._critical(needed=linear is not None)
        named = direction.shares if direction is not None else ({} if dead else self._plain_shares())
        inputs = self._inputs(edge, limit, slow, lowest, spread, zero_gradient, trial)
        if critical is not None and critical.multiple == math.inf:
            inputs = replace(inputs, bottomless=bottomless(self.objective, self.optimizer))
        if direction is not None and limit is not None:
            off = next((change.ratio for change in changes if change.name == "nesterov off"), None)
            alone_each = tuple(limit.alone.values())
            where, origin = direction.where, direction.origin
            inputs = replace(inputs, where=where, origin=origin, alone=alone_each, nesterov_off=off)
        half = next((change for change in changes if change.name == HALF), None)
        if half is not None and half.tenfold is not None and changes[0].tenfold is not None:
            inputs = replace(inputs, raised=(half.lr, half.tenfold, changes[0].tenfold))
        code = code_of(inputs)
        if code == "done" or (code in ("adapts", "edge") and not inputs.young):
            found = orbit_of(self.objective, self.optimizer, None if limit is None else limit.sharpness)
            inputs = replace(inputs, orbit=None if found is None else found.words())
        if critical is not None and linear is not None and code != "done":
            name = type(self.optimizer).__name__
            code, sentence = "one-step", one_step_sentence(name, critical.multiple, critical.reason)
        else:
            lr, edge_lr = (limit.lr, limit.max_stable_lr) if limit is not None else (0.0, 0.0)
            sentence = sentence_of(code, inputs, lr, edge_lr)
        return Diagnosis(
            verdict=code,
            sentence=sentence,
            loss=self.loss,
            ratio=None if limit is None else limit.ratio,
            interval=None if limit is None else limit.interval,
            max_stable_lr=None if limit is None else limit.max_stable_lr,
            lr=None if limit is None else limit.lr,
            limit=limit,
            scale=None if edge is None else one_rule(edge),
            direction=direction,
            shares=named,
            layers=alone,
            slow=slow,
            lowest=lowest,
            spread=spread,
            clip=inputs.clip,
            trial=trial,
            critical=critical,
            changes=tuple(changes),
            zero_gradient_share=zero_gradient.share,
            inputs=inputs,
            notes=tuple(self._notes(limit, inputs, spread)),
            reasons={**({} if limit is None else limit.reasons), **self.reasons},
            products=self.products,
            seconds=time.perf_counter() - began,
        )

    def _movable(self) -> bool:
        """Whether any coordinate has a unit: where second moments are 0, only the gradient gives one."""
        return bool(self.gradient.any()) or frozen(self.objective, stepped_by(self.objective, self.optimizer)).anywhere

    def _linear(self) -> str | None:
        """Why the optimizer has no linear limit; None if it has one."""
        try:
            groups = rule_of(self.optimizer)
        except Unsupported as error:
            return str(error)
        odd = next((group.rule.name for group in groups if not isinstance(group.rule, LinearRule)), None)
        return f"{odd} keeps only signs, so that its step is not linear in any unit" if odd else None

    def _tell(self, stage: int) -> None:
        self.tell(stage, len(STAGES), STAGES[stage])

    def _zero_gradient(self) -> ZeroGradient:
        zero_gradient, found = zero_gradient_of(self.objective, self.gradient, self.seed)
        if found is not None:
            self._count(found)
        return zero_gradient

    def _lowest(self) -> Measurement:
        found = measure(
            self.objective, which="smallest", quick=True, tol=0.1, seed=self.seed, max_products=_LOWEST, vectors=True
        )
        self._count(found)
        return found

    def _slow(self, edge: Edge, limit: Limit) -> tuple[Slowness | None, list[WhatIfRow]]:
        """How slow the slow directions are, and the table of changes: both need one rule for all groups."""
        scale, top = one_rule(edge), float(limit.edge.values[0])
        if scale is None or not edge.moving:
            why = "lr = 0" if not edge.moving else "the groups run different rules, so that no one rate describes them"
            self.reasons |= {"slow": why, "what_if": why}
            return None, []
        self._tell(3)
        decay = [
            p.detach() * (0.0 if entry.rule.decoupled else float(entry.rule.weight_decay))
            for p, entry in zip(self.objective.params, edge.parameters, strict=True)
        ]
        found = slowness(
            self.objective,
            edge,
            scale,
            self.gradient + self.objective.join(decay),
            horizon=self.horizon,
            loss=self.loss,
            top=top,
            probes=_PROBES,
            steps=_STEPS // 2 if self.quick else _STEPS,
            seed=self.seed,
        )
        self.products += found.products
        at_rest = not bool(self.gradient.any())
        changes = what_if(self.objective, limit, scale, found.middle, top, at_rest=at_rest, seed=self.seed)
        return found, changes

    def _layers(self, edge: Edge, named: Mapping[str, float]) -> dict[str, float]:
        """The ratio of each module alone, for those in which most of the sharp direction lies."""
        blocks: dict[str, list[str]] = {}
        for name in named:
            blocks.setdefault(name.rpartition(".")[0], []).append(name)
        ordered = sorted(blocks, key=lambda block: -sum(named[name] for name in blocks[block]))
        if len(ordered) == 1:
            return {}
        if len(ordered) > _LAYERS:
            self.reasons["layers"] = f"the {_LAYERS} layers with the largest shares, of {len(ordered)}"
        options = {"quick": True, "tol": 0.05, "seed": self.seed}
        movable = {entry.name for entry in edge.parameters if entry.moves}
        moving = [block for block in ordered[:_LAYERS] if movable.intersection(blocks[block])]
        return {block: ratio_alone(self.objective, self.optimizer, blocks[block], **options) for block in moving}

    def _spread(self, edge: Edge, limit: Limit) -> Spread | None:
        if len(self.minis) < 2:
            self.reasons["spread"] = "the data is a single batch; give train=, your loader of mini-batches"
            return None
        vectors = limit.edge.vectors
        assert vectors is not None  # limit_now keeps them
        found = spread_of(self.objective, edge, self.minis, vectors[0], tol=0.05, seed=self.seed)
        self.products += found.products
        return found

    def _plain_shares(self) -> dict[str, float]:
        found = measure(self.objective, quick=True, seed=self.seed, vectors=True)
        self._count(found)
        assert found.directions is not None  # vectors=True
        named = shares(self.objective, found.directions[0])
        return dict(sorted(named.items(), key=lambda item: -item[1]))

    def _inputs(
        self,
        edge: Edge | None,
        limit: Limit | None,
        slow: Slowness | None,
        lowest: Measurement | None,
        spread: Spread | None,
        zero_gradient: ZeroGradient,
        trial: TrialUpdates | None,
    ) -> VerdictInputs:
        clip = None
        if self.clip is not None:
            length = spread.gradient_norm if spread is not None else vec.norm(self.gradient)
            clip = min(1.0, self.clip / length) if length > 0 else 1.0
        if edge is None or limit is None:
            return VerdictInputs(
                zero_gradient=zero_gradient, remaining=self._remaining(None), clip=clip, horizon=self.horizon
            )
        low, high = limit.interval or (0.0, 0.0)
        sharp = limit.sharpness or 0.0
        bottom = None if lowest is None else float(lowest.values[0]) + limit.coupled_decay
        if bottom is not None:
            bottom = bottom / sharp if sharp > 0 else -math.inf if bottom < 0 else 0.0
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
            trial_rises=None if trial is None else trial.rises,
            progress=1.0 if slow is None else slow.progress,
            possible=1.0 if slow is None else slow.possible,
            remaining=self._remaining(limit.sharpness),
            lowest=bottom,
            zero_gradient=zero_gradient,
            clip=clip,
            batch_high=None if spread is None else spread.high,
            batch_times=None if spread is None else spread.times,
            horizon=self.horizon,
        )

    def _remaining(self, sharpness: float | None) -> float | None:
        """The loss over that of the same model with all measured parameters at zero; None where zero is no floor.

        A loss that is never negative has |gradient|^2 <= 2 sharpness loss.
        """
        nothing = self.objective.value({id(p): torch.zeros_like(p) for p in self.objective.params})
        if not (math.isfinite(nothing) and nothing > 0 and self.loss >= 0):
            return None
        if sharpness is not None and vec.norm(self.gradient) ** 2 > _FLOOR * sharpness * self.loss:
            return None
        return self.loss / nothing

    def _critical(self, *, needed: bool) -> CriticalSharpness | None:
        """The one-step quantity beside the limit, or in its place; what cannot be copied has none."""
        try:
            return critical_sharpness(self.objective, self.optimizer)
        except Unsupported as error:
            if needed:
                raise
            self.reasons["critical"] = str(error)
            return None

    def _notes(self, limit: Limit | None, inputs: VerdictInputs, spread: Spread | None) -> list[str]:
        notes = list(limit.notes if limit is not None else self.objective.notes)
        if spread is not None:
            notes.append(
                f"the ratio on {len(spread.ratios)} mini-batches runs from {spread.low:.3g} to {spread.high:.3g}; "
                "noise lowers the true edge"
            )
        else:
            notes.append("mini-batch noise lowers the true edge; its size was not measured")
        if self.clip is None:
            notes.append("gradient clipping is not taken into account: give clip= if you clip")
        elif inputs.clip is not None:
            how = f"clipping at {self.clip:g} shortens the update to {inputs.clip:.0%} here"
            notes.append(how + (", and the unit with it: the limit does not count it" if inputs.adaptive else ""))
        notes.append("loss scaling is not taken into account: gradients are the loss's own, unscaled")
        if any("initial_lr" in group for group in self.optimizer.param_groups):
            notes.append("an lr schedule is attached: this is the lr of now, not of the rest of the run")
        return notes

    def _count(self, found: Measurement) -> None:
        if found.provenance["interrupted"]:
            raise KeyboardInterrupt
        self.products += int(found.provenance["products"])
