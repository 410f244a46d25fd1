"""`Tuning`: the best settings found for a rule on a spectrum, and what they achieve."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from eigenstep.plain import alone_in
from eigenstep.result import Result, Words, number
from eigenstep.rules import Rule


@dataclass(frozen=True, repr=False)
class Tuning(Result):
    """The best settings found: the tuned `rule`, its lr and momentum (None if it has none), and what they achieve.

    rate: asymptotic factor per update. lr_interval: the lrs whose rate is the best one to 1e-9. steps: the settled
    count, when tuned for it. lr_limit: the largest stable lr at this momentum. evaluations: settings tried.
    """

    kind: ClassVar[str] = "tuning"

    rule: Rule = field(metadata=alone_in("rules"))
    lr: float
    momentum: float | None
    rate: float
    lr_interval: tuple[float, float]
    lr_limit: float
    steps: int | None
    evaluations: int

    def derived(self) -> dict[str, Any]:
        """The rule in words."""
        return {"rule": repr(self.rule)}

    def words(self) -> Words:
        """Return the settings and what they achieve."""
        low, high = self.lr_interval
        answers = {"momentum": self.momentum, "rate per update": self.rate, "largest stable lr": self.lr_limit}
        answers |= {"updates until settled": self.steps, "settings tried": self.evaluations}
        rows = [("equally good lr", f"{low:.6g} to {high:.6g}")]
        rows += [(name, number(value)) for name, value in answers.items() if value is not None]
        momentum = "" if self.momentum is None else f", momentum {number(self.momentum)}"
        brief = f"{self.rule.name}: lr {self.lr:.6g}{momentum}, rate {number(self.rate)}"
        return Words(brief, f"best lr {self.lr:.6g}{momentum}: {self.rule!r}", rows)

    def plot(self, ax: Any = None) -> Any:
        """Draw the best lr on the interval that is as good, and the largest stable one; return the axes."""
        from eigenstep import draw

        ax = draw.ranges({"best lr": (self.lr, *self.lr_interval)}, ax)
        if math.isfinite(self.lr_limit):
            draw.line_at(self.lr_limit, ax, text="largest stable", color=draw.VERMILION)
        return draw.describe(ax, "lr", "", self.rule.name)
