"""Which of a model's parameters are measured, and which models cannot be."""

import fnmatch
from collections.abc import Sequence

from torch import nn

from eigenstep.errors import InvalidValue, UnknownName, Unsupported

_WRAPPED = ("DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule", "DataParallel", "DeepSpeedEngine")


def refuse_wrapped(model: nn.Module) -> None:
    """Raise Unsupported for modules whose parameters are spread over processes."""
    kinds = {cls.__name__ for module in model.modules() for cls in type(module).__mro__}
    if found := [name for name in _WRAPPED if name in kinds]:
        raise Unsupported(
            f"Objective: {found[0]} is not supported: its products need communication between processes; pass the "
            "plain module (model.module for DDP) on one process"
        )
    if any(type(p).__name__ == "DTensor" or type(p.data).__name__ == "DTensor" for p in model.parameters()):
        raise Unsupported("Objective: the parameters are sharded (DTensor); pass the plain module on one process")


def chosen_parameters(model: nn.Module, patterns: str | Sequence[str] | None) -> dict[str, nn.Parameter]:
    """Return the trainable parameters that match any of the names or glob patterns, tied ones once."""
    every = dict(model.named_parameters(remove_duplicate=False))
    if lazy := [name for name, p in every.items() if nn.parameter.is_lazy(p)]:
        raise InvalidValue(
            f"Objective: parameter {lazy[0]!r} of a lazy module has no shape yet; run one batch through the model first"
        )
    trainable = {name: p for name, p in every.items() if p.requires_grad}
    if not trainable:
        raise InvalidValue(
            "Objective: the model has no trainable parameters; set requires_grad on those to be measured"
        )
    wanted = trainable
    if patterns is not None:
        wanted = {}
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            hits = {n: p for n, p in every.items() if fnmatch.fnmatchcase(n, pattern)}
            if not hits:
                raise UnknownName.among("Objective: parameter", pattern, every)
            wanted.update({n: p for n, p in hits.items() if p.requires_grad})
        wanted = {n: p for n, p in trainable.items() if n in wanted}
        if not wanted:
            raise InvalidValue(
                "Objective: all the parameters asked for are frozen; set requires_grad on those to be measured"
            )
    once = {id(p): (n, p) for n, p in reversed(wanted.items())}
    single = {n: p for n, p in wanted.items() if once[id(p)][0] == n}
    if len({p.device for p in single.values()}) > 1:
        raise Unsupported(
            "Objective: the parameters lie on several devices; move the model to one, or choose parameters="
        )
    if any(p.is_complex() for p in single.values()):
        raise Unsupported("Objective: complex parameters are not supported; train torch.view_as_real(p) instead")
    return single
