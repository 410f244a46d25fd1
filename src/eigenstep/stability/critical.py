"""Critical sharpness: the smallest multiple of the pending update that raises the loss, by forward passes alone."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from eigenstep.bridge import rules_told
from eigenstep.bridge.param_groups import lr_of, replace_zero_lrs
from eigenstep.errors import refuse_count, refuse_share
from eigenstep.objective import Objective
from eigenstep.objective.objective import required
from eigenstep.progress import FORWARD, GRADIENT, Watch, task
from eigenstep.result import Result, Words
from eigenstep.stability.bracket import FAR, Bracket, smallest_rise
from eigenstep.stability.copies import copied, refuse_foreign, take_step

_NOISE = 20.0  # roundings of the loss within which a change of it means nothing
PASSES = 20  # evaluations that a bracket usually takes
_DEEP = 1e6  # sizes of the loss below its start; nothing with a floor is trained from so far above it

GIVE_A_FLOOR = "give it a floor (a term that grows, a clamp on what shrinks to zero), or check its sign"


@dataclass(frozen=True, repr=False)
class CriticalSharpness(Result):
    """`value` = 2 / lr, where `lr` is the smallest at which the pending update would raise the loss.

    A one-step quantity: not the limit of momentum or of Adam, and not to be divided by one.

    The first four are None where `reason` says why there is no number; a loss that rose nowhere has lr inf and value 0,
    and its interval begins at the largest lr looked at.

    - value: 2 / lr.
    - lr: of the first group that moves, all groups scaled together.
    - interval: the lrs between which the crossing lies.
    - multiple: the lr in units of the pending update.
    - loss: before the step.
    - slope: of the loss along the update, per multiple.
    - passes: forward passes over the objective's data, besides the one gradient.
    - converged: whether the interval is as narrow as asked.
    - scanned: the smallest multiple at which the loss was seen not to rise.
    - optimizer: its class.
    - rules: each param group's, as data (Rule.as_dict; of an optimizer that no rule describes, its class and settings).
    - seconds: the cost.
    - notes: what the reader should know.
    - reason: why there is no number.
    """

    kind: ClassVar[str] = "critical sharpness"

    value: float | None
    lr: float | None
    interval: tuple[float, float] | None
    multiple: float | None
    loss: float
    slope: float
    passes: int
    converged: bool
    scanned: float | None
    optimizer: str
    rules: tuple[Mapping[str, Any], ...]
    seconds: float
    notes: tuple[str, ...]
    reason: str | None = None

    def words(self) -> Words:
        """Return one sentence."""
        if self.value is None or self.lr is None or self.interval is None:
            brief = f"{self.optimizer}: none: {self.reason}"
            return Words(brief, f"critical sharpness of {self.optimizer}: none: {self.reason}", notes=self.notes)
        low, high = self.interval
        between = "" if math.isinf(high) else f"{low:.4g} to {high:.4g}; "
        sentence = f"critical sharpness of {self.optimizer}: {self.headline} ({between}{self.passes} forward passes)"
        return Words(f"{self.optimizer}: {self.headline}", sentence, notes=self.notes)

    @property
    def headline(self) -> str:
        """The number, and what the next step alone does at which lr; '' where there is none."""
        if self.value is None or self.lr is None or self.interval is None:
            return ""
        if math.isinf(self.lr):
            return f"0: the next step alone raises the loss at no lr that was looked at, up to {self.interval[0]:.4g}"
        return f"{self.value:.4g}: the next step alone raises the loss from lr {self.lr:.4g} on"

    def plot(self, ax: Any = None) -> Any:
        """Draw the lr from which the next step raises the loss, on its interval; return the axes."""
        from eigenstep import draw

        rows = {}
        if self.lr is not None and self.interval is not None:
            rows[self.optimizer] = (self.lr, *self.interval)
        ax = draw.ranges(rows, ax)
        return draw.describe(ax, "lr from which the next step raises the loss", "", self.reason or "")


def critical_sharpness(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    *,
    tol: float = 0.01,
    max_passes: int = 80,
    progress: Watch | bool | None = None,
) -> CriticalSharpness:
    """Return 2 / lr_c, lr_c the smallest lr at which the optimizer's next step raises the loss; for any optimizer.

    One real step of copies, on the gradient of all the objective's data, gives the pending update d; lr_c is its lr
    times the smallest s > 0 with L(w + s d) > L(w), or not finite: bracketed geometrically, looked for again below in
    steps of sqrt 2 down to a sixteenth, then bisected until the bracket's ends differ by `tol`. A loss that rises and
    falls again between two such multiples is not seen. For plain gradient descent on a quadratic it is the curvature
    along the gradient, g'Hg / g'g, at most the sharpness.

    progress: as for `measure`. The model and the optimizer are left bit for bit. Raises InvalidValue for an optimizer
    of other parameters, and Unsupported for what is no torch optimizer or cannot be copied. Source: Kalra et al. 2026
    (arXiv 2601.16979).

    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> objective = Objective(model, lambda model, x: 2 * (model(x) ** 2).mean(), torch.ones(1, 1))
    >>> found = critical_sharpness(objective, torch.optim.SGD(model.parameters(), lr=0.1))
    >>> round(found.value, 1), round(found.lr, 2)
    (4.0, 0.5)
    """
    required("critical_sharpness", objective)
    refuse_share("critical_sharpness", "tol", tol)
    refuse_count("critical_sharpness", "max_passes", max_passes)
    began = time.perf_counter()
    name = type(optimizer).__name__
    with task("critical_sharpness", progress, "samples= on Objective, a larger tol=") as work, objective.session():
        expected = min(PASSES, max_passes)
        work.plan(FORWARD * expected + GRADIENT, f"some {expected} evaluations of the loss assumed")
        refuse_foreign("critical_sharpness", objective, optimizer)
        objective = objective.per_update()
        update, slope, lr, notes = pending(objective, optimizer)
        origin, tiny = objective.value(), torch.finfo(torch.float64).tiny

        def along(multiple: float) -> float:
            with torch.no_grad():
                moved = {id(p): torch.add(p, d, alpha=multiple) for p, d in update.items()}
            value = objective.value(moved)
            work.tell(phase=f"the loss at {multiple:.3g} times the update", done=work.now.done + 1, unit="evaluations")
            return value

        if not math.isfinite(origin):
            bracket = Bracket(reason=f"the loss is {origin} before the step; start from a point where it is finite")
        elif not any(bool(d.any()) for d in update.values()):
            why = "no parameter has a gradient that moves it, or the weights' rounding swallows the move"
            bracket = Bracket(reason=f"the pending update is zero: {why}")
        elif not all(bool(d.isfinite().all()) for d in update.values()):
            bracket = Bracket(reason="the pending update is not finite")
        elif 0 < abs(slope) < tiny or 0 < abs(origin) < tiny:
            bracket = Bracket(reason="the loss, or its slope along the update, is lost in rounding: next to nothing")
        elif slope >= 0:
            notes.append("the pending update does not point downhill (momentum may do that): a short one raises it")
            bracket = Bracket(low=0.0, high=0.0, converged=True)
        else:
            noise = _NOISE * torch.finfo(objective.dtype).eps * abs(origin)
            far = _far(update, torch.finfo(objective.dtype).max)
            bracket = smallest_rise(along, origin, slope, noise, tol, max_passes, far=far)
    low, high = bracket.low, bracket.high
    notes = [*notes, *bracket.notes, *objective.notes]
    reason = bracket.reason
    middle = None if reason else (high if low == 0 or math.isinf(high) else math.sqrt(low * high))
    value = None if middle is None else (2 / (middle * lr) if middle else math.inf)
    return CriticalSharpness(
        value=value,
        lr=None if middle is None else middle * lr,
        interval=None if reason else (low * lr, high * lr),
        multiple=middle,
        loss=origin,
        slope=slope,
        passes=bracket.passes + 1,
        converged=bracket.converged and not reason,
        scanned=bracket.scanned,
        optimizer=name,
        rules=rules_told(optimizer),
        seconds=time.perf_counter() - began,
        notes=tuple(notes),
        reason=reason,
    )


def _far(update: Mapping[Tensor, Tensor], largest: float) -> float:
    """The multiple up to which the loss is looked at: FAR doublings of an update as long as the weights."""
    weights, moves = ([float(t.detach().double().abs().max()) for t in ts] for ts in (update, update.values()))
    return min(2.0**FAR * max(max(weights) / max(moves), 1.0), largest / 2)


def pending(
    objective: Objective, optimizer: torch.optim.Optimizer
) -> tuple[dict[Tensor, Tensor], float, float, list[str]]:
    """The update that a step of copies makes, parameter by parameter; the loss's slope along it; the lr; notes."""
    model, stepper = copied("critical_sharpness", objective.model, optimizer)
    notes = []
    if replace_zero_lrs(stepper):
        notes.append(f"every lr is 0: the update is that of lr = {lr_of(stepper):g}")
    both = zip(objective.model.parameters(), model.parameters(), strict=True)
    pairs = [(p, q) for p, q in both if q.requires_grad]  # before a forward pass that adds some, or freezes some
    twin = objective.on(model)
    gradient: list[Tensor] = []
    rows_only = isinstance(stepper, torch.optim.SparseAdam)  # it takes nothing else: the rows with a gradient

    def closure() -> Tensor:
        found = twin.gradient()
        gradient.append(found)
        for p, g in zip(twin.params, twin.split(found), strict=True):
            p.grad = g.to(p.dtype).to_sparse(1) if rows_only else g.to(p.dtype)
        return torch.tensor(twin.value())

    take_step(stepper, closure)
    update: dict[Tensor, Tensor] = {p: q.detach() - p.detach() for p, q in pairs}
    moves = objective.join([update[p] for p in objective.params])
    slope = _product(moves.double(), gradient[0].double())
    moving = {p: d for p, d in update.items() if bool((d != 0).any())}
    return moving or update, slope, lr_of(stepper), notes


def _product(a: Tensor, b: Tensor) -> float:
    """Their inner product; one that is too small for a number keeps its sign."""
    sizes = float(a.abs().max()), float(b.abs().max())
    if 0 in sizes:
        return 0.0
    unit = float((a / sizes[0]) @ (b / sizes[1]))
    return unit * sizes[0] * sizes[1] or math.copysign(math.ulp(0.0), unit) * bool(unit)


def bottomless(objective: Objective, optimizer: torch.optim.Optimizer) -> str | None:
    """Words for a loss that far along the pending update still falls in proportion; None if not. In a session.

    For an update along which the loss never rose (multiple infinite). It is made longer until the loss has fallen by
    _DEEP times its own size; a loss with a floor, or one that rises at last, shows that on the way.
    """
    update, _, _, _ = pending(objective, optimizer)

    def along(multiple: float) -> float:
        return objective.value({id(p): torch.add(p.detach(), d, alpha=multiple) for p, d in update.items()})

    here, multiple = along(0.0), 2.0 ** (FAR - 2)
    low = along(multiple)
    while math.isfinite(low) and here - low <= _DEEP * max(abs(here), 1.0):
        multiple *= 2
        last, low = low, along(multiple)
        if not here - low > 1.5 * (here - last) > 0:
            return None
    if not low < here:
        return None
    return (
        f"the loss is unbounded: the longer the next update, the lower it falls, from {here:.4g} to {low:.3g} at "
        f"{multiple:.3g} times the update, so that no lr is right; {GIVE_A_FLOOR}"
    )
