"""P, frozen: the unit in which an optimizer measures each coordinate, and what it is where no gradient has come yet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from eigenstep.bridge import Group
from eigenstep.errors import InvalidValue
from eigenstep.objective.objective import Objective
from eigenstep.rules import LinearRule

GROWS = (
    2.0  # a factor in P is the same factor in a ratio: by twice, what is measured now says little of the next update
)
NAMED = 3  # parameters that a note names


@dataclass(frozen=True, eq=False)
class Frozen:
    """P of each measured parameter, shaped like it, as an optimizer has it now, and how often it had none.

    A coordinate whose second moment is exactly 0 has no unit: eps, which stands there, knows of no gradient. It takes
    the one that one more update with the objective's gradient would make, by the rule's own scale at t + 1. Without
    that gradient it has none: infinite here, to be left out.
    fresh: no adaptive rule has taken an update. early: some are far from their late form.
    taken, left_out, grows: numbers of coordinates by parameter, none for 0: those that took their next unit (not
    counted while fresh: then it is all); those without one; those with one of their own that would more than double.
    provisional: masks shaped like the parameters, of those whose P the next update makes anew, or more than doubles.
    """

    units: tuple[Tensor, ...] = field(repr=False)
    provisional: tuple[Tensor, ...] = field(repr=False)
    fresh: bool
    early: bool
    t: int
    taken: Mapping[str, int]
    left_out: Mapping[str, int]
    grows: Mapping[str, int]
    sizes: Mapping[str, int] = field(repr=False)

    @property
    def anywhere(self) -> bool:
        """Whether any coordinate has a unit."""
        return any(bool(unit.isfinite().any()) for unit in self.units)

    @property
    def notes(self) -> list[str]:
        """What a reader of anything made from P should know about it."""
        notes, out = [], sum(self.left_out.values())
        if self.fresh:
            without = f"; {out} coordinates without a gradient are left out" if out else ""
            notes.append(f"fresh optimiser: P is the unit after one simulated step{without}")
        elif self.early:
            notes.append(f"early: second moments or coefficients at t = {self.t}, so a limit from them is an early one")
        if self.taken:
            notes.append(
                f"second moments are exactly 0 at {self._where(self.taken)}: there P is what one more update with the "
                "objective's gradient would make it"
            )
        if out and not self.fresh:
            notes.append(f"left out, with neither second moment nor gradient: {self._where(self.left_out)}")
        if self.grows:
            notes.append(
                f"one more update with the objective's gradient would more than double P at {self._where(self.grows)}: "
                "it is taken as it is, so that a ratio which they set is about to fall"
            )
        return notes

    def _where(self, counts: Mapping[str, int]) -> str:
        """The coordinates counted, and the parameters with the most of them."""
        most = sorted(counts, key=lambda name: -counts[name])
        named = [f"{counts[name]} of {self.sizes[name]} in {name}" for name in most[:NAMED]]
        more = [f"{len(most) - NAMED} more parameters"] if len(most) > NAMED else []
        return f"{sum(counts.values())} coordinates ({', '.join(named + more)})"


def frozen(objective: Objective, held: Sequence[tuple[Group, LinearRule]]) -> Frozen:
    """Return P for each measured parameter, from the group and rule that step it; inside a session.

    Takes one gradient of the objective where a rule adapts. Raises InvalidValue where that is not finite.
    """
    adapts = any(rule.adaptive for _, rule in held)
    gradient = objective.split(objective.gradient()) if adapts else [torch.empty(0)] * len(held)
    units: list[Tensor] = []
    provisional: list[Tensor] = []
    taken, left_out, grows = dict[str, int](), dict[str, int](), dict[str, int]()
    fresh = adapts and all(group.t == 0 for group, rule in held if rule.adaptive)
    for name, p, (group, rule), grad in zip(objective.names, objective.params, held, gradient, strict=True):
        if not rule.adaptive:
            units.append(group.unit(p).to(objective.dtype))
            provisional.append(torch.zeros_like(p, dtype=torch.bool))
            continue
        _refuse_infinite(name, grad)
        unit, new, none, more = _unit(group, p, grad.to(p.dtype))
        units.append(unit.to(objective.dtype))
        provisional.append(new | more)
        for counts, mask in ((taken, new), (left_out, none), (grows, more)):
            if number := int(mask.sum()):
                counts[name] = number
    return Frozen(
        units=tuple(units),
        provisional=tuple(provisional),
        fresh=fresh,
        early=any(is_early(group, rule) for group, rule in held),
        t=max(group.t for group, _ in held),
        taken={} if fresh else taken,
        left_out=left_out,
        grows=grows,
        sizes={name: p.numel() for name, p in zip(objective.names, objective.params, strict=True)},
    )


def is_early(group: Group, rule: LinearRule) -> bool:
    """Whether the second moment is still far from its late form: t < 5 / (1 - b2); before the first update, always."""
    memory = getattr(rule, "betas", (0, None))[1] if hasattr(rule, "betas") else getattr(rule, "alpha", None)
    late = 1.0 if memory is None else 5 / (1 - float(memory))
    return rule.adaptive and group.t < late


def _unit(group: Group, p: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """P of one parameter, and where: its next one was taken, it has none, its own one would more than double."""
    ahead = group.next_unit(p, grad)
    missing = group.untouched(p)
    none = missing & (grad == 0)  # where only coupled decay moves it, no curvature of the loss is in what it measures
    if group.t == 0:
        return ahead.masked_fill(none, torch.inf), missing & ~none, none, torch.zeros_like(none)
    own = group.unit(p)
    unit = torch.where(missing, ahead, own).masked_fill(none, torch.inf)
    return unit, missing & ~none, none, ~missing & (ahead > GROWS * own)


def _refuse_infinite(name: str, grad: Tensor) -> None:
    """Refuse a gradient of which one update would make weights that are not finite."""
    if not bool(grad.isfinite().all()):
        raise InvalidValue(
            f"measure: the gradient is not finite at {int((~grad.isfinite()).sum())} coordinates of {name!r}, though "
            "the loss is, and an update would make the weights so, too; look for a root or a norm at 0 there"
        )
