"""What `StabilityLR` is given, refused where it is of another kind."""

import math
from collections.abc import Sequence

from eigenstep.errors import InvalidValue, Unsupported
from eigenstep.training.monitor import Monitor


def refuse_other_types(monitor: object, schedule: object, **numbers: object) -> None:
    """Raise where an argument is of another kind: the first two swapped, text for a number."""
    if not isinstance(monitor, Monitor):
        what = f"StabilityLR: monitor is a {type(monitor).__name__}, not a Monitor"
        raise Unsupported(f"{what}; give StabilityLR(optimizer, monitor), in this order")
    if schedule is not None and not (hasattr(schedule, "optimizer") and hasattr(schedule, "step")):
        raise Unsupported(f"StabilityLR: schedule is a {type(schedule).__name__}; a torch scheduler is needed")
    for name, value in numbers.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise InvalidValue(f"StabilityLR: {name}={value!r} must be a number")


def each_group(max_lr: float | Sequence[float], groups: int) -> list[float]:
    """One max_lr a group, checked."""
    try:
        values = [float(v) for v in max_lr] if isinstance(max_lr, Sequence) else [float(max_lr)] * groups
    except (TypeError, ValueError):
        values = []
    if len(values) != groups or not all(v > 0 for v in values) or len({math.isinf(v) for v in values}) > 1:
        raise InvalidValue(
            f"StabilityLR: max_lr={max_lr!r} must be positive, one number or {groups}, one for each group"
        )
    return values
