"""What is told of a call under way, and its words."""

import math
from collections.abc import Callable
from typing import NamedTuple


class Progress(NamedTuple):
    """How far a call has come.

    products: Hessian products so far. residual: the worst relative one, infinite before there is one. phase: what is
    being done. seconds: since the call began; left: those still to come, estimated, None where nothing is known.
    what: the call. done, total: of its own `unit`s (batches read, parts, training steps). batch, batches: how far the
    pass over the data is that is under way.
    """

    products: int = 0
    residual: float = math.inf
    phase: str = ""
    seconds: float = 0.0
    left: float | None = None
    what: str = ""
    done: int = 0
    total: int | None = None
    unit: str = ""
    batch: int = 0
    batches: int | None = None

    @property
    def share(self) -> float | None:
        """The part of the work that is done, by the time left; None where that is not known."""
        return None if self.left is None else self.seconds / max(self.seconds + self.left, 1e-9)

    def __str__(self) -> str:
        """One line.

        >>> print(Progress(12, 0.02, "converge", 34.0, 45.0, "measure", batch=812, batches=3750))
        measure: converge, 12 products, residual 0.02, batch 812 of 3,750, 34 s, about 45 s left
        """
        of = "" if self.total is None else f"/{self.total}"
        count = f"{self.done}{of} {self.unit}".rstrip() if self.unit else ""
        words = [f"{self.done}{of} {self.phase}" if self.unit == "parts" else self.phase]
        words += [count] if count and self.unit not in ("parts", "batches") else []
        words += [f"{self.products} products"] if self.products else []
        words += [f"residual {self.residual:.2g}"] if math.isfinite(self.residual) else []
        if self.batch and self.batches != 1:
            words.append(f"batch {self.batch:,}" + ("" if self.batches is None else f" of {self.batches:,}"))
        words.append(duration(self.seconds))
        words += [] if self.left is None else [f"about {duration(self.left)} left"]
        return f"{self.what}: " + ", ".join(filter(None, words))


Watch = Callable[[Progress], None]


def duration(seconds: float) -> str:
    """Return seconds in words.

    >>> duration(5.2), duration(750), duration(2.2e4), duration(4e5), duration(1e9)
    ('5 s', '12 min', '6.1 h', '4.6 days', '32 years')
    """
    for size, unit, digits in ((31557600.0, "years", 0), (86400.0, "days", 1), (3600.0, "h", 1), (60.0, "min", 0)):
        if seconds >= 2 * size or (unit in ("h", "days") and seconds >= size):
            return f"{seconds / size:,.{digits}f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 or seconds == 0 else f"{seconds:.1g} s"
