"""What a hyperparameter may be: a number in its range, or a tensor of them for a batch of settings."""

import math
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eigenstep.errors import InvalidValue

# Half-open ranges of the hyperparameters that torch names; any other number must only be finite.
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("lr", "weight_decay", "eps", "delta"), (0.0, math.inf)),
    **dict.fromkeys(("lr_decay", "momentum_decay", "initial_accumulator_value"), (0.0, math.inf)),
    **dict.fromkeys(("momentum", "alpha", "betas"), (0.0, 1.0)),
    "dampening": (-math.inf, math.inf),  # a number all the same
}


def looks_numeric(value: Any) -> bool:
    """Whether a field outside torch's names holds a number or lanes, and not a label, a function or nothing."""
    return isinstance(value, (Real, Tensor, list)) and not isinstance(value, bool)


def checked(where: str, name: str, value: Any) -> float | Tensor:
    """Return the number, or tensor of lanes, that `value` is; InvalidValue unless it lies in the range of `name`."""
    number: float | Tensor
    if isinstance(value, Real) and not isinstance(value, bool):
        number = value if isinstance(value, (int, float)) else float(value)
    else:
        try:
            array = None if isinstance(value, Tensor) else np.asarray(value)
            tensor = (value if array is None else torch.as_tensor(array, device="cpu")).detach()
        except (TypeError, ValueError, RuntimeError):
            tensor = torch.empty(0, dtype=torch.bool)
        if tensor.dtype == torch.bool or tensor.is_complex() or tensor.numel() == 0:
            raise InvalidValue(f"{where}={value!r} must be a number, or a tensor of numbers for a batch of settings")
        tensor = tensor if tensor.is_floating_point() and isinstance(value, Tensor) else tensor.to(torch.float64)
        number = float(tensor) if tensor.dim() == 0 else tensor
    low, high = RANGES.get(name, (-math.inf, math.inf))
    if not isinstance(number, Tensor) and low <= number < high and math.isfinite(number):
        return number
    inside = torch.as_tensor(number, dtype=torch.float64, device=None if isinstance(number, Tensor) else "cpu")
    outside = ~((inside >= low) & (inside < high) & inside.isfinite())
    if bool(outside.any()):
        shown = (
            value
            if inside.dim() == 0
            else f"{float(inside[outside][0])} ({int(outside.sum())} of {inside.numel()} settings)"
        )
        wanted = "finite" if high == math.inf else f"below {high:g}"
        floor = "" if low == -math.inf else f" and at least {low:g}"
        raise InvalidValue(f"{where}={shown} must be {wanted}{floor}")
    return number
