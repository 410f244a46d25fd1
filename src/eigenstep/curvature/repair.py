"""Functions of torch whose own second derivatives are wrong, computed from others whose are right."""

from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


class Repaired(TorchFunctionMode):
    """While active, weight normalisation is computed as g v / |v| from elementary functions.

    torch's fused _weight_norm has a wrong double backward on CPU (torch 2.13): the Hessian through it is not even
    symmetric, by up to a quarter of its norm.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Pass every call on, except weight normalisation."""
        if func is torch._weight_norm:
            return _weight_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _weight_norm(v: torch.Tensor, g: torch.Tensor, dim: int = 0) -> torch.Tensor:
    axes = [axis for axis in range(v.dim()) if axis != dim] if dim != -1 else list(range(v.dim()))
    scaled: torch.Tensor = v * (g / torch.linalg.vector_norm(v, dim=axes, keepdim=True))
    return scaled


def needed(model: nn.Module) -> bool:
    """Whether a model has weight normalisation, as a parametrisation or by the older hook."""
    return any(
        type(part).__name__ in ("_WeightNorm", "WeightNorm")
        for module in model.modules()
        for part in (module, *module._forward_pre_hooks.values())
    )
