"""The time that a diagnosis may take: what a part will need, by what its work took so far, and whether that fits."""

import math
import time

from eigenstep.curvature import Measurement
from eigenstep.errors import InvalidValue
from eigenstep.progress import PRODUCT


class Allowance:
    """Seconds, the cost of work in them, and the parts that were dropped for want of them, with the reason.

    A gradient over the objective's data is timed first, which forward passes and products are taken to follow, until
    products have been timed themselves.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = math.inf if seconds is None else float(seconds)
        self.began = time.perf_counter()
        self.dropped: dict[str, str] = {}
        self.forward = 0.0  # seconds of a forward pass over the data
        self._spent, self._products = 0.0, 0

    @property
    def spent(self) -> float:
        """Seconds since it began."""
        return time.perf_counter() - self.began

    @property
    def left(self) -> float:
        """Seconds left."""
        return self.seconds - self.spent

    @property
    def product(self) -> float:
        """Seconds of a Hessian-vector product."""
        return self._spent / self._products if self._products else PRODUCT * self.forward

    def learn(self, found: Measurement) -> int:
        """Take in what a measurement's products took; return their number."""
        products = int(found.provenance["products"])
        self._spent += float(found.provenance["seconds"])
        self._products += products
        return products

    def fits(self, need: float, *, of: float = 1.0) -> bool:
        """Whether so many seconds fit into the time left, or into what is left of a part of the whole."""
        return math.isinf(self.seconds) or need <= self.left - (1 - of) * self.seconds

    def allows(self, part: str, *, products: float = 0.0, passes: float = 0.0) -> bool:
        """Whether a part fits; if not, it is dropped, with the reason."""
        need = products * self.product + passes * self.forward
        if self.fits(need):
            return True
        self.dropped[part] = (
            f"dropped: it would take about {need:.2g} s, and {max(self.left, 0.0):.2g} of seconds={self.seconds:g} "
            "were left; give more seconds="
        )
        return False


def refuse_seconds(what: str, seconds: float | None) -> None:
    """Raise InvalidValue for what is no time."""
    number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if seconds is not None and not (number and seconds > 0):
        raise InvalidValue(f"{what}: seconds={seconds!r} must be a positive number of seconds, or None for no limit")
