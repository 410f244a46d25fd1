"""What a user's loop may reach besides its arguments: the own model, optimizer and schedulers, and gradient scalers."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from eigenstep.rehearsal.read_schedule import living, schedulers_of

State = Mapping[str, Any]


class Own:
    """The user's model, optimizer and its schedulers as they were: to compare with, and to put back.

    begun: copies of model and optimizer, never trained.
    """

    def __init__(
        self, own: tuple[nn.Module, torch.optim.Optimizer], begun: tuple[nn.Module, torch.optim.Optimizer]
    ) -> None:
        self.model, self.optimizer = own
        self.begun = begun
        self.schedulers = schedulers_of(self.optimizer)
        self._things = [*self.optimizer.param_groups, *map(vars, self.schedulers)]
        self._values = [{k: _kept(v) for k, v in thing.items() if k != "params"} for thing in self._things]
        self._written, self._set = written(self.model), self._settings()

    @property
    def trained(self) -> bool:
        """Whether a parameter of the user's model was written to."""
        return written(self.model) != self._written

    @property
    def rescheduled(self) -> bool:
        """Whether a setting of the user's param groups, or a scheduler's count of steps, is another."""
        return self._settings() != self._set

    def put_back(self) -> None:
        """Give the user's things the values that they had, where they have others."""
        if self.trained:
            with torch.no_grad():
                for tensors in (nn.Module.parameters, nn.Module.buffers):
                    for mine, was in zip(tensors(self.model), tensors(self.begun[0]), strict=True):
                        mine.copy_(was)
            groups = self.optimizer.param_groups
            self.optimizer.load_state_dict(self.begun[1].state_dict())
            self.optimizer.param_groups = groups
        for thing, values in zip(self._things, self._values, strict=True):
            for name in set(thing) - set(values) - {"params"}:
                del thing[name]
            for name, value in values.items():
                _write(thing, name, value)
        self._written, self._set = written(self.model), self._settings()

    def _settings(self) -> list[Any]:
        groups = [
            {name: _seen(value) for name, value in group.items() if name != "params"}
            for group in self.optimizer.param_groups
        ]
        return [groups, [(vars(s).get("last_epoch"), vars(s).get("_step_count")) for s in self.schedulers]]


def written(model: nn.Module) -> list[int]:
    """How often each parameter was written to."""
    return [p._version for p in model.parameters()]


def _seen(value: Any) -> Any:
    """A setting to compare with later; a tensor by who it is and how often it was written to."""
    return (id(value), value._version) if isinstance(value, Tensor) else value


def _kept(value: Any) -> Any:
    """A value with the contents that it has now: a tensor as itself and a copy."""
    if isinstance(value, Tensor):
        return value, value.detach().clone()
    return copy.copy(value) if isinstance(value, (list, dict, set)) else value


def _write(thing: dict[str, Any], name: str, kept: Any) -> None:
    """Write what `_kept` read."""
    if isinstance(kept, tuple) and len(kept) == 2 and isinstance(kept[1], Tensor):
        thing[name] = kept[0]
        with torch.no_grad():
            kept[0].copy_(kept[1])
    else:
        thing[name] = _kept(kept)


class Scalers:
    """Gradient scalers, whose scale a loop moves: what they hold is read, and put back."""

    def __init__(self, scalers: Sequence[torch.amp.GradScaler]) -> None:
        self._all = scalers

    @classmethod
    def living(cls) -> "Scalers":
        """All that are alive, since nothing tells which of them a loop uses."""
        return cls(living(torch.amp.GradScaler))

    def read(self) -> list[State]:
        """What each holds now."""
        return [copy.deepcopy(vars(scaler)) for scaler in self._all]

    def put(self, states: Sequence[State]) -> None:
        """Give each what `read` returned."""
        for scaler, state in zip(self._all, states, strict=True):
            vars(scaler).clear()
            vars(scaler).update(copy.deepcopy(dict(state)))
