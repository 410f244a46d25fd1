"""All that is a user's, seen once and compared bit for bit later: models, optimizers, generators, containers, torch."""

import random
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


class Snapshot:
    """What `held` looks like now; `check` fails where anything of it, or of the world's state, has changed since.

    held: modules, optimizers, random generators, tensors, and lists, dicts and other containers of them.
    """

    def __init__(self, *held: Any) -> None:
        self.held = held  # alive, so that no id is given twice
        self.before, self.versions = self._everything(), self._versions()

    def changed(self) -> list[str]:
        """The names of what differs."""
        now = self._everything()
        return [name for name in self.before | now if self.before.get(name) != now.get(name)]

    def check(self, touched: bool = False) -> None:
        """Fail where anything differs; `touched` allows tensors written to, if only with what they held."""
        assert not (changed := self.changed()), changed[:20]
        assert touched or self._versions() == self.versions, "a tensor was written to"

    def _everything(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for i, value in enumerate(self.held):
            _see(f"{i}", value, found, set())
        return found | _world()

    def _versions(self) -> list[int]:
        modules = [m for m in self.held if isinstance(m, nn.Module)]
        return [t._version for m in modules for t in m.state_dict(keep_vars=True).values()]


def _bits(tensor: Tensor) -> Any:
    """The bytes of a tensor: nan is nan, and -0 is not 0."""
    if tensor.layout is not torch.strided:
        coalesced = tensor.detach().coalesce()
        return _bits(coalesced.indices()), _bits(coalesced.values())
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _see(name: str, value: Any, found: dict[str, Any], seen: set[int]) -> None:
    """Add what `value` looks like to `found`, part by part, under names that tell where."""
    if isinstance(value, PLAIN):
        found[name] = value
        return
    found[name] = (type(value), id(value))
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        found[f"{name}: tensor"] = (value.dtype, tuple(value.shape), value.requires_grad, _bits(value))
        if value.is_leaf:
            _see(f"{name}.grad", value.grad, found, seen)
    elif isinstance(value, (list, tuple, deque)):
        found[f"{name}: length"] = len(value)
        for i, part in enumerate(value):
            _see(f"{name}[{i}]", part, found, seen)
    elif isinstance(value, (set, frozenset)):
        found[f"{name}: set"] = sorted(map(repr, value))
    elif isinstance(value, Mapping):
        keys = [k if isinstance(k, PLAIN) else id(k) for k in value]
        found[f"{name}: keys"] = keys
        for key, part in zip(keys, value.values(), strict=True):
            _see(f"{name}[{key!r}]", part, found, seen)
    elif isinstance(value, np.ndarray):
        found[f"{name}: array"] = (value.dtype, value.shape, value.tobytes())
    elif isinstance(value, np.random.Generator):
        found[f"{name}: state"] = value.bit_generator.state
    elif isinstance(value, random.Random):
        found[f"{name}: state"] = value.getstate()
    elif isinstance(value, torch.Generator):
        found[f"{name}: state"] = _bits(value.get_state())
    elif isinstance(value, (nn.Module, torch.optim.Optimizer)) or type(value).__module__.startswith("torch.utils.data"):
        _see(f"{name}.vars", vars(value), found, seen)


def _world() -> dict[str, Any]:
    """What torch, NumPy and Python hold for all: random states, modes, defaults."""
    numpy = np.random.get_state()  # noqa: NPY002
    return {
        "torch's RNG": _bits(torch.get_rng_state()),
        "NumPy's RNG": (numpy[1].tobytes(), *numpy[2:]),  # type: ignore[union-attr]
        "Python's RNG": random.getstate(),
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
        "defaults": (torch.get_default_dtype(), str(torch.get_default_device()), torch.get_num_threads()),
        "deterministic": (torch.are_deterministic_algorithms_enabled(), torch.is_anomaly_enabled()),
        "attention": (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled()),
    }
