"""Lanczos until the wanted eigenvalues are certain: residuals small, extremality confirmed, multiplicity looked for."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from eigenstep.curvature.krylov import Krylov, Ritz
from eigenstep.curvature.operators.operator import Operator
from eigenstep.errors import InvalidValue, UnknownName, refuse_count, refuse_share

Which = Literal["largest", "smallest", "ends", "magnitude"]
STILL = 0.005  # a value stands still while it moves by less than this part of the tolerance
LEAST, EACH = 20, 6  # products that one eigenvalue of a network takes, and each further one; a guess in the middle
SMALL = 1e-3  # values below this part of ||A|| are held to the tolerance of that part: a zero has no relative error


@dataclass(frozen=True)
class Aim:
    """What is to be found, and how certain it must be."""

    top: int = 1
    which: Which = "largest"
    tol: float = 1e-2
    confirm: int = 5
    quick: bool = False
    max_products: int = 1000

    def __post_init__(self) -> None:
        """Check every number."""
        if not isinstance(self.which, str):
            what = type(self.which).__name__
            raise InvalidValue(
                f"measure: which= must be one of {get_args(Which)}, not a {what}; is it Objective's data?"
            )
        if self.which not in get_args(Which):
            raise UnknownName.among("measure: which", str(self.which), get_args(Which))
        refuse_share("measure", "tol", self.tol)
        refuse_count("measure", "top", self.top)
        refuse_count("measure", "confirm", self.confirm, 0)
        refuse_count("measure", "max_products", self.max_products)

    def order(self, values: Tensor) -> list[int]:
        """Indices of Ritz values (rising), the most wanted first; both ends alternate."""
        m = len(values)
        if self.which == "largest":
            return list(range(m - 1, -1, -1))
        if self.which == "smallest":
            return list(range(m))
        if self.which == "magnitude":
            return [int(i) for i in values.abs().argsort(descending=True)]
        both = [i for pair in zip(range(m - 1, -1, -1), range(m), strict=True) for i in pair]
        return list(dict.fromkeys(both))

    def goal(self, values: Tensor, scale: float) -> Tensor:
        """The residual that each value may have, when the operator's norm is about `scale`."""
        return self.tol * values.abs().clamp(min=SMALL * scale)

    @property
    def expected(self) -> int:
        """The products that a search from a random start takes, roughly: what nobody can know beforehand."""
        search = LEAST + (0 if self.quick else self.confirm) + EACH * (self.count - 1)
        return min(search, self.max_products)

    @property
    def count(self) -> int:
        """How many values are wanted: `top`, at each end for 'ends'."""
        return 2 * self.top if self.which == "ends" else self.top


@dataclass
class LanczosRun:
    """A search under way: the basis, and how long the wanted values have stood still.

    The search converges (residuals), confirms (more products along the chain), then, when more than one value is
    wanted or it began from given vectors, looks again from a fresh random start in the rest of the space. A value that
    moves by more than a two-hundredth of the tolerance sends it back.
    """

    aim: Aim
    krylov: Krylov
    warm: bool = False
    inherited: bool = False  # the start comes from a certified measurement: what could have overtaken it is looked for
    phase: Literal["converge", "confirm", "fresh", "done"] = "converge"
    steady: int = 0
    reference: Tensor | None = None
    restarts: int = 0
    looked_again: bool = False
    first_chain: int = 0  # products of the random start before anything else was mixed in
    history: list[tuple[int, float]] = field(default_factory=list)
    whole: bool = True  # False only while a restart turns the basis in place: an interrupt then leaves it half turned

    def step(self) -> Ritz:
        """Spend one product and judge what it shows."""
        k = self.krylov
        if not k.pending:
            k.add()
        index = 0 if self.phase == "fresh" else self._index()
        w = k.product(index)
        if k.full:
            self._restart()
        k.expand(index, w)
        if self.restarts == 0 and not self.warm and not self.looked_again and self.phase != "fresh":
            self.first_chain = k.products
        ritz = k.ritz()
        self._judge(ritz)
        return ritz

    def evidence(self, certified: bool) -> str:
        """What the extremality of the values rests on, in words."""
        if self.krylov.complete:
            return "complete: the basis spans the whole space"
        if not certified:
            return "none"
        fresh = " and after a fresh random start in the rest of the space" if self.looked_again else ""
        earlier = "an earlier certified measurement; since then, " if self.inherited else ""
        still = f"values stood still to tol / {round(1 / STILL)} over {self.aim.confirm} confirming products"
        return f"{earlier}{still}{fresh}"

    def wanted(self, ritz: Ritz) -> list[int]:
        """Indices of the wanted Ritz values, largest value first."""
        return sorted(self.aim.order(ritz.values)[: self.aim.count], reverse=True)

    def within(self, ritz: Ritz, wanted: Sequence[int]) -> bool:
        """Whether all wanted residuals meet the tolerance."""
        goal = self.aim.goal(ritz.values[wanted], self.krylov.scale)
        return len(wanted) >= self.aim.count and bool((ritz.residuals[wanted] <= goal).all())

    def within_one(self, ritz: Ritz, i: int) -> bool:
        """Whether one Ritz pair meets the tolerance."""
        return bool(ritz.residuals[i] <= self.aim.goal(ritz.values[[i]], self.krylov.scale)[0])

    def _judge(self, ritz: Ritz) -> None:
        k, wanted = self.krylov, self.wanted(ritz)
        values = ritz.values[wanted]
        goal = self.aim.goal(values, k.scale)
        self.history.append((k.products, float((ritz.residuals[wanted] / goal).max()) * self.aim.tol))
        if k.complete:
            self.phase = "done"
            return
        if not self.within(ritz, wanted):
            self.phase, self.steady, self.reference = "converge", 0, None
            return
        moved = self.reference is None or bool(((values - self.reference).abs() > STILL * goal).any())
        if moved:
            self.reference, self.steady = values, 0
            if self.phase == "fresh":
                self.phase = "confirm"
        else:
            self.steady += 1
        if self.aim.quick:
            self.phase = "done"
        elif self.phase == "converge":
            self.phase = "confirm"
            if self.warm:
                self._look_again()
        needed = self.aim.confirm
        if self.phase == "fresh" and not self.inherited:
            needed = max(needed, self._fresh_steps(ritz, wanted))
        if self.phase in ("confirm", "fresh") and self.steady >= needed:
            if self.phase == "confirm" and self.aim.count > 1:
                self._look_again()
            else:
                self.phase = "done"

    def _look_again(self) -> None:
        """Start again from a random vector in the part of the space that the basis does not span."""
        self.phase, self.steady, self.looked_again = "fresh", 0, True
        if not self.krylov.add():
            self.phase = "done"

    def _fresh_steps(self, ritz: Ritz, wanted: Sequence[int]) -> int:
        """Steps after which a fresh start shows a hidden eigenvalue beyond the wanted ones, 999 times in 1000.

        A component of size z / sqrt(n) grows as the Chebyshev polynomial of its distance from the rest of the spectrum;
        |z| > 1e-3 in all but about one start of a thousand. Capped at twice `confirm`, for the rest may be dense.
        """
        order = self.aim.order(ritz.values)
        if len(order) <= self.aim.count or not wanted:
            return self.aim.confirm
        last, following = float(ritz.values[order[self.aim.count - 1]]), float(ritz.values[order[self.aim.count]])
        width = abs(following - float(ritz.values[order[-1]])) or self.krylov.scale or 1.0
        gap = (abs(last - following) + self.aim.tol * abs(last)) / width
        growth = math.log(2e3 * math.sqrt(self.krylov.operator.size))
        steps = math.ceil(1 + growth / math.acosh(1 + 2 * gap)) if gap > 1e-15 else 10**9  # else 1 + 2 gap is 1
        return min(steps, 2 * self.aim.confirm)

    def _index(self) -> int:
        """The pending vector on which most of the wanted residuals lies."""
        k = self.krylov
        if len(k.pending) == 1 or k.m == 0:
            return 0
        ritz = k.ritz()
        wanted = self.wanted(ritz)
        return int((k.S @ ritz.mix[:, wanted]).norm(dim=1).argmax())

    def _restart(self) -> None:
        ritz = self.krylov.ritz()
        count = self.aim.count + (self.krylov.capacity - self.aim.count) // 2
        kept = self.aim.order(ritz.values)[: min(count, self.krylov.capacity - 2)]
        self.whole = False
        self.krylov.restart(ritz.mix[:, kept])
        self.whole = True
        self.restarts += 1


def begin(
    operator: Operator, aim: Aim, *, seed: int, capacity: int, start: Tensor | None = None, inherited: bool = False
) -> LanczosRun:
    """Return a search that begins at a random vector, or at the given ones (k, n), `inherited` if those are certified.

    Each set of given vectors has fresh starts of its own, lest every refresh of a series look in the same place.
    """
    own = 0 if start is None else zlib.crc32(start[0, :64].cpu().to(torch.float64).numpy().tobytes())
    generator = torch.Generator().manual_seed(seed + own)
    krylov = Krylov(operator, min(capacity, operator.size), generator)
    for vector in [] if start is None else reversed(list(start)):
        krylov.add(vector)
    warm = bool(krylov.pending)
    if not warm:
        krylov.add()
    return LanczosRun(aim, krylov, warm, warm and inherited and len(krylov.pending) >= aim.count)


def random_start_excess(n: int, steps: int, chance: float = 1e-3) -> float | None:
    """Return e such that lambda_max - theta <= e (lambda_max - lambda_min), except with the given chance.

    For `steps` Lanczos products from a start drawn evenly from the sphere, P(excess > e) <=
    1.648 sqrt(n) exp(-sqrt(e) (2 steps - 1)) (Kuczynski and Wozniakowski 1992). None where it says nothing (e >= 1/2).

    >>> round(random_start_excess(1000, 40), 3)
    0.019
    """
    if steps < 1:
        return None
    root = math.log(1.648 * math.sqrt(n) / chance) / (2 * steps - 1)
    return root**2 if root**2 < 0.5 else None
