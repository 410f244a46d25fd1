"""`Run`: what a simulation found, for one run or for thousands of lanes."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from eigenstep.errors import InvalidValue
from eigenstep.plain import alone_in
from eigenstep.result import Result, Words, number
from eigenstep.rules import Rule

MISSING = -1
Count = int | None | Tensor
Kept = Literal["losses", "radii", "points"]


@dataclass(frozen=True, eq=False, repr=False)
class Run(Result):
    """What `simulate` found: for one run numbers and None; for lanes of shape B int64 tensors, -1 standing for None.

    Nothing here is nan or infinite; a lane that ended earlier repeats its last row.

    - max_steps: updates; where the run ended at the latest.
    - steps: B, updates; the first after which the tolerance was met (0: at the start).
    - last_above: B, updates; the last after which it was not (-1: always met; `max_steps`: to the end, or the lane
      diverged), if the run was told to settle.
    - left: B, updates; the one after which the lane was out of bounds or no longer finite.
    - final: (B..., n), the last points; of a lane that diverged, the last finite ones.
    - final_loss: B; the loss there.
    - losses, radii: (B..., K + 1), kept if asked for; losses, and distances to the nearest minimum. K is the updates of
      the longest lane.
    - points: (B..., K + 1, n), kept if asked for.
    """

    kind: ClassVar[str] = "run"

    rule: Rule = field(metadata=alone_in("rules"))
    problem: str
    max_steps: int
    loss_tolerance: float | None
    radius_tolerance: float | None
    point: str
    steps: Count
    last_above: Count
    left: Count
    final: Tensor
    final_loss: float | Tensor
    losses: Tensor | None = None
    radii: Tensor | None = None
    points: Tensor | None = None

    @property
    def converged(self) -> bool | Tensor:
        """Whether the tolerance was met at some update: a bool, or a bool tensor of shape B."""
        return self.steps != MISSING if isinstance(self.steps, Tensor) else self.steps is not None

    @property
    def settled(self) -> Count:
        """Updates from which the tolerance stayed met within max_steps, last_above + 1; missing if it did not."""
        if isinstance(self.last_above, Tensor):
            return torch.where(self.last_above < self.max_steps, self.last_above + 1, MISSING)
        return None if self.last_above is None or self.last_above >= self.max_steps else self.last_above + 1

    @property
    def article_count(self) -> Count:
        """Passes of the article's loop, which tests the loss before each step and the box after it.

        steps + 1 for a lane that met the tolerance, `left` for one that diverged first; missing for the others.
        """
        if isinstance(self.steps, Tensor):
            return torch.where(self.steps != MISSING, self.steps + 1, torch.as_tensor(self.left))
        return self.left if self.steps is None else self.steps + 1

    def kept(self, name: Kept) -> Tensor:
        """Return the losses, radii or points at every update. Raises InvalidValue where the run did not keep them."""
        found: Tensor | None = getattr(self, name)
        if found is None:
            raise InvalidValue(f"Run: its {name} were not kept; call simulate with keep=({name!r},)")
        return found

    def derived(self) -> dict[str, Any]:
        """The rule in words."""
        return {"rule": repr(self.rule)}

    def words(self) -> Words:
        """Return what became of each lane."""
        lanes = self.final.shape[:-1]
        table: dict[str, list[Any]] = {}
        if lanes:
            counts = {"steps": self.steps, "settled": self.settled, "left": self.left}
            columns = {name: _lanes(count, lanes) for name, count in counts.items()}
            loss = torch.as_tensor(self.final_loss).expand(lanes).flatten().tolist()
            table = {"lane": list(range(lanes.numel())), **columns, "final loss": loss}
            met, gone = (sum(c is not None for c in columns[name]) for name in ("steps", "left"))
            fate = f"{lanes.numel():,} lanes: {met:,} met the tolerance, {gone:,} left"
        else:
            counted = {"met the tolerance after": self.steps, "stays there from": self.settled, "left after": self.left}
            known = [f"{words} {count} updates" for words, count in counted.items() if count is not None]
            fate = f"{', '.join(known) or f'{self.max_steps:,} updates'}; final loss {number(float(self.final_loss))}"
        if not lanes and self.losses is not None:
            table = {"update": list(range(len(self.losses))), "loss": self.losses.tolist()}
        where = f" on {self.problem}: {fate}"
        return Words(f"{self.rule.name}{where}", f"{self.rule!r}{where}", (), table)

    def plot(self, ax: Any = None) -> Any:
        """Draw the losses where they were kept (the first six lanes), else each lane's final loss; return the axes."""
        from eigenstep import draw

        if self.losses is None:
            final = torch.as_tensor(self.final_loss).reshape(-1)
            log: Any = "y" if bool((final > 0).all()) else ""
            return draw.describe(draw.curve(final, ax=ax, look="dots"), "lane", "final loss", self.problem, log=log)
        ax = draw.panels()[1][0] if ax is None else ax
        rows = self.losses.reshape(-1, self.losses.shape[-1])
        for row, color in zip(rows, draw.PALETTE, strict=False):
            draw.curve(row, None, ax, color=color)
        return draw.describe(ax, "updates", "loss", self.problem, log="y" if bool((rows > 0).all()) else "")


def _lanes(count: Count, lanes: torch.Size) -> list[int | None]:
    """A count of each lane, flat; None where it is missing."""
    if count is None:
        return [None] * lanes.numel()
    return [None if n == MISSING else n for n in torch.as_tensor(count).expand(lanes).flatten().tolist()]
