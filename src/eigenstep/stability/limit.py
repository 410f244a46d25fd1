"""`limit_now`: how far an optimizer stands from its stability edge, all its groups jointly, with an interval."""

import time
from dataclasses import replace
from typing import Any

import torch

from eigenstep.bridge import rules_told
from eigenstep.curvature import Measurement, measure
from eigenstep.curvature.lanczos import Aim
from eigenstep.curvature.measure import SHORTER, data_of
from eigenstep.curvature.operators.hessian import HessianOperator
from eigenstep.curvature.operators.operator import Operator
from eigenstep.errors import Unsupported
from eigenstep.objective import Objective
from eigenstep.objective.objective import required
from eigenstep.progress import PRODUCT, Watch, task
from eigenstep.stability.joint_limit import Edge, edge_of, rescaled
from eigenstep.stability.result import MOSTLY, Curvature, Limit, Measured, SecondMoments, Stability


def limit_now(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    *,
    start: Limit | None = None,
    quick: bool = False,
    tol: float = 0.01,
    seed: int = 0,
    sharpness: bool = True,
    alone: bool = False,
    progress: Watch | bool | None = None,
) -> Limit:
    """Return the stability ratio of an optimizer on an objective, as it stands now; nothing is changed.

    The ratio is the largest eigenvalue of S^1/2 (H + W) S^1/2, S = lr gain / P and W the decay, exact for groups that
    differ in lr, decay, momentum, betas or rule: see theory.response. It is local, uses all of the objective's data,
    and freezes the preconditioner. start: an earlier Limit, whose vectors it begins from. quick: residuals only, not
    certified. sharpness=False leaves out the plain Hessian where that costs a measurement of its own. alone=True
    measures each group by itself as well. progress: as for `measure`.

    Raises Unsupported for rules without a linear limit (ask critical_sharpness), InvalidValue for an optimizer that
    does not hold the objective's parameters or moves none of them. Source: Cohen et al. 2021 (arXiv 2103.00065) and
    2022 (2207.14484).

    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> objective = Objective(model, lambda model, x: 2 * (model(x) ** 2).mean(), torch.ones(1, 1))
    >>> found = limit_now(objective, torch.optim.SGD(model.parameters(), lr=0.25))
    >>> round(found.ratio, 6), round(found.max_stable_lr, 6), round(found.sharpness, 6)
    (0.5, 0.5, 4.0)
    """
    required("limit_now", objective)
    began = time.perf_counter()
    options: dict[str, Any] = {"quick": quick, "tol": tol, "seed": seed}
    with task("limit_now", progress, SHORTER) as work, objective.session():
        objective = objective.per_update()
        each = Aim(tol=tol, quick=quick).expected
        work.plan(PRODUCT * each, f"some {each} products assumed")
        edge = edge_of(objective, optimizer)
        _refuse_impassive(edge)
        number = 1 + (sharpness and (edge.adaptive or not edge.uniform)) + alone * len(optimizer.param_groups)
        work.plan(PRODUCT * each * number, f"some {each * number} products assumed")
        measured = _eigen(objective, edge.operator, start.edge if start else None, options)
        s, bound = float(measured.values[0]), _bound(measured)
        hessian = preconditioned = None
        sharp = _from_edge(edge, s, bound) if edge.uniform and not edge.adaptive else None
        if sharp is None and sharpness:
            hessian = _eigen(objective, HessianOperator(objective), start.measured.hessian if start else None, options)
            sharp = float(hessian.values[0]), _bound(hessian)
        scaled, reasons = None, {}
        if edge.adaptive and not all(rule.adaptive for rule in edge.rules):
            reasons["preconditioned_sharpness"] = "some groups adapt and others do not: there is no common one"
        elif edge.adaptive:
            scaled = _unscaled(edge, s, bound, tol)
            if scaled is None:
                old = start.measured.preconditioned if start else None
                preconditioned = _eigen(objective, rescaled(edge, objective), old, options)
                scaled = float(preconditioned.values[0]), _bound(preconditioned)
        apart = _alone(objective, optimizer, edge, s, options) if alone else {}
    if sharp is None:
        reasons["sharpness"] = "not asked for"
    if not edge.moving:
        reasons["ratio"] = "lr = 0: nothing moves yet; max_stable_lr says how far it may rise"
    if not edge.adaptive:
        reasons["preconditioned_sharpness"] = "the rule does not adapt"
    low, high = max(s - bound, 0.0), max(s + bound, 0.0)
    share = float(measured.vector().square()[objective.join(edge.frozen.provisional) > 0].sum())
    everything = [m for m in (measured, hessian, preconditioned) if m is not None]
    return Limit(
        stability=Stability(
            ratio=max(s, 0.0) if edge.moving else None,
            interval=(low, high) if edge.moving else None,
            max_stable_lr=_over(edge.lr, s),
            max_stable_lr_interval=(_over(edge.lr, high), _over(edge.lr, low)),
            lr=edge.lr if edge.moving else 0.0,
            alone=apart,
        ),
        curvature=Curvature(
            sharpness=None if sharp is None else sharp[0],
            sharpness_bound=None if sharp is None else sharp[1],
            coupled_decay=max(0.0 if rule.decoupled else float(rule.weight_decay) for rule in edge.rules),
            preconditioned_sharpness=None if scaled is None else scaled[0],
            preconditioned_bound=None if scaled is None else scaled[1],
        ),
        second_moments=SecondMoments(edge.adaptive, edge.fresh, edge.early, share),
        measured=Measured(measured, hessian, preconditioned),
        rules=rules_told(optimizer),
        certified=all(m.certified for m in everything),
        products=sum(int(m.provenance["products"]) for m in everything),
        seconds=time.perf_counter() - began,
        notes=(
            *_notes(edge, s, share),
            *_held_still(objective, optimizer),
            *objective.notes,
            *edge.operator.inner.notes(),
        ),
        reasons=reasons,
    )


def _eigen(objective: Objective, operator: Operator, start: Measurement | None, options: Any) -> Measurement:
    """The operator's largest eigenvalue, its vectors named."""
    if start is not None and start.names != objective.names:  # parameters were frozen or unfrozen in between
        start = None
    warm = None if start is None or start.vectors is None or not bool(start.vectors.any()) else start
    found = measure(operator, vectors=True, start=warm, **options)
    shapes = tuple(tuple(p.shape) for p in objective.params)
    provenance = {**found.provenance, **data_of(objective)}
    return replace(found, names=objective.names, shapes=shapes, notes=objective.notes, provenance=provenance)


def _alone(
    objective: Objective, optimizer: torch.optim.Optimizer, edge: Edge, joint: float, options: Any
) -> dict[int, float]:
    """Each param group's own ratio, as if the others stood still; groups that do not move have none."""
    members: dict[int, list[str]] = {}
    for entry in edge.parameters:
        if entry.moves:
            members.setdefault(entry.group.index, []).append(entry.name)
    if not edge.moving:
        return {}
    if len(members) == 1:
        return dict.fromkeys(members, max(joint, 0.0))
    return {index: ratio_alone(objective, optimizer, names, **options) for index, names in members.items()}


def ratio_alone(objective: Objective, optimizer: torch.optim.Optimizer, names: list[str], **options: Any) -> float:
    """Return the ratio of some parameters alone, as if the others stood still; inside a session."""
    part = objective.subset(names)
    found = _eigen(part, edge_of(part, optimizer).operator, None, options)
    return max(float(found.values[0]), 0.0)


def _refuse_impassive(edge: Edge) -> None:
    """Refuse the rules, users' own, for which the crossing at -1 need not be the first one."""
    for entry in edge.parameters:
        if not entry.response.passive:
            raise Unsupported(
                f"limit: {type(entry.rule).__name__} may leave the unit circle away from -1, so that its groups have "
                "no joint limit here; ask eigenstep.max_stable_lr for one direction, or critical_sharpness"
            )


def _from_edge(edge: Edge, s: float, bound: float) -> tuple[float, float]:
    """The Hessian's own eigenvalue where S and W are constants."""
    operator = edge.operator
    squared, decay = float(operator.scale[0]) ** 2, float(operator.decay[0])
    return s / squared - decay, bound / squared


def _unscaled(edge: Edge, s: float, bound: float, tol: float) -> tuple[float, float] | None:
    """The preconditioned eigenvalue read off the edge's; None if decoupled decay or gains make that too coarse."""
    gains = edge.gains
    shifts = [entry.lr * entry.response.decay_term for entry in edge.parameters if entry.lr > 0]
    if len(gains) > 1 or (max(shifts) - min(shifts)) / 2 > tol * abs(s):
        return None
    per = gains.pop() * edge.lr
    middle, width = (max(shifts) + min(shifts)) / 2, (max(shifts) - min(shifts)) / 2
    return (s - middle) / per, (bound + width) / per


def _bound(measured: Measurement) -> float:
    return float(measured.bounds[0])


def _over(lr: float, s: float) -> float:
    return lr / s if s > 0 else float("inf")


def _held_still(objective: Objective, optimizer: torch.optim.Optimizer) -> list[str]:
    """Say so where the optimizer trains parameters of the model that were not asked for."""
    unreached = set(objective.checked.unreached)
    seen = {id(p) for p in objective.params}
    seen |= {id(p) for n, p in objective.model.named_parameters(remove_duplicate=False) if n in unreached}
    moving = [p for group in optimizer.param_groups if float(group["lr"]) > 0 for p in group["params"]]
    others = sum(p.requires_grad and id(p) not in seen for p in moving)
    return [f"{others} more parameters that the optimizer trains are held still, by parameters="] if others else []


def _notes(edge: Edge, s: float, provisional: float) -> list[str]:
    """What the reader of a limit should know about the optimizer; `provisional` as in Limit."""
    notes = edge.frozen.notes
    if provisional > MOSTLY and not edge.fresh:
        notes.append(
            f"{provisional:.0%} of the direction nearest to the edge lies in coordinates whose P the next update makes "
            "anew or more than doubles: this ratio is of now only"
        )
    if edge.early and not edge.frozen.early:
        notes.append(f"early: coefficients at t = {edge.t}")
    moving = [entry for entry in edge.parameters if entry.lr > 0]
    if len({entry.lr for entry in moving}) > 1:
        notes.append(f"groups differ in lr: the limit is that of the first that moves ({edge.lr:g}), the ratios kept")
    if len(edge.gains) > 1:
        rules = {(type(entry.rule), repr(entry.rule.replace(lr=1.0, weight_decay=0.0))) for entry in moving}
        what = "groups differ in momentum, betas or rule" if len(rules) > 1 else "parameters differ in updates taken"
        notes.append(f"{what}: the joint limit is exact (theory.response)")
    decays = {(float(entry.rule.weight_decay), entry.rule.decoupled) for entry in moving}
    if any(weight for weight, _ in decays):
        kind = "coupled" if any(weight and not decoupled for weight, decoupled in decays) else "decoupled"
        notes.append(f"{kind} weight decay up to {max(weight for weight, _ in decays):g} is part of the limit")
    if any(entry.rule.unit_only_grows for entry in moving):
        notes.append("AdaGrad's unit only grows, so that any lr ends up stable: this is the limit of the unit as it is")
    if s <= 0:
        notes.append("no direction curves upwards: nothing limits the lr here")
    return notes
