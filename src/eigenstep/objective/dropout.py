"""Dropout switched off wherever it is called, functional calls included, without touching a module's mode."""

from typing import Any

from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from eigenstep.objective.repair import Repaired

_DROPS = {
    *("dropout", "dropout_", "alpha_dropout", "alpha_dropout_", "feature_dropout", "feature_dropout_"),
    *("feature_alpha_dropout", "feature_alpha_dropout_", "dropout1d", "dropout2d", "dropout3d", "native_dropout"),
}


class NoDropout(Repaired):
    """Repaired; and every dropout returns its input, attention drops nothing. `met` counts the calls that would have.

    Recurrent layers are not reached through Python: the number of their dropouts is set to 0 by `objective`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.met = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Pass every call on, except dropout."""
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in _DROPS:
            p = kwargs.get("p", args[1] if len(args) > 1 else 0.5)
            training = kwargs.get("training", kwargs.get("train", args[2] if len(args) > 2 else True))
            if training and p:
                self.met += 1
            return kwargs["input"] if "input" in kwargs else args[0]
        if func is F.scaled_dot_product_attention:
            p = kwargs.get("dropout_p", args[4] if len(args) > 4 else 0.0)
            if p:
                self.met += 1
                args, kwargs = (
                    args[:4],
                    {**kwargs, **({"is_causal": args[5]} if len(args) > 5 else {}), "dropout_p": 0.0},
                )
        elif func is F.multi_head_attention_forward and kwargs.get("training", True):
            kwargs["training"] = False
            self.met += bool(kwargs.get("dropout_p", args[10] if len(args) > 10 else 0.0))
        return super().__torch_function__(func, types, args, kwargs)


def recurrent_dropouts(model: nn.Module) -> list[nn.RNNBase]:
    """The recurrent layers that drop between their layers, which only they can switch off."""
    return [m for m in model.modules() if isinstance(m, nn.RNNBase) and m.dropout]
