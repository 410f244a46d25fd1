"""What a model's modules hold, looked through once so that whatever a forward pass changes there can be put back."""

import operator
import random
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, MutableMapping
from functools import partial
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

LONG = 10_000  # entries from which on a container is put back, but not looked into: that would take longer than a pass
BIG = 2**26  # bytes from which on a plain tensor is not copied: it may be a whole data set; a change is named instead
_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")

_DICTS = {dict, OrderedDict}
_PLAIN = {str, bytes, int, bool, float, complex, type(None), type, FunctionType, torch.dtype, torch.device, torch.Size}


class Contents:
    """Attributes of modules, containers in them (dicts, lists, sets, deques), plain tensors, arrays, hooks and flags.

    Objects of classes from the package that defines the module are looked through as well. Not seen: what a loss keeps
    outside its model. Buffers and parameters keep their values elsewhere (`replaced`); here their flags and hooks are.
    """

    def __init__(self, model: nn.Module) -> None:
        self._undo: list[Callable[[], object]] = []
        self._empty: list[Any] = []
        self._seen: dict[int, Any] = {}  # the objects, so that their ids are not given anew
        own = [*model.parameters(), *model.buffers()]
        self._flags(own)
        self._seen |= {id(t): t for t in own}
        for module in model.modules():
            self._look(module, type(module).__module__.partition(".")[0])

    def put_back(self) -> None:
        """Make everything as it was; what has not changed is not touched."""
        for value in self._empty:
            value.clear()
        for undo in self._undo:
            undo()

    def _look(self, start: Any, home: str) -> None:
        """Keep what `start` holds, and what is in there."""
        left = [start]
        while left:
            value = left.pop()
            if type(value) in _PLAIN or id(value) in self._seen:
                continue
            self._seen[id(value)] = value
            if type(value) in _DICTS and not value:  # most of what a module holds
                self._empty.append(value)
                continue
            found = self._keep(value, home)
            if len(found) < LONG:
                left += found

    def _keep(self, value: Any, home: str) -> list[Any]:
        """Note how to put one object's contents back; return them."""
        if type(value) in _DICTS:
            self._mapping(value)
            return list(value.values())
        if isinstance(value, Tensor):
            self._tensor(value)
        elif isinstance(value, np.ndarray):
            self._array(value)
        elif isinstance(value, torch.Generator):
            self._undo.append(partial(value.set_state, value.get_state()))
        elif isinstance(value, np.random.Generator):
            bits = value.bit_generator
            self._undo.append(partial(setattr, bits, "state", bits.state))
        elif isinstance(value, random.Random):
            self._undo.append(partial(value.setstate, value.getstate()))
        elif isinstance(value, MutableMapping):
            self._mapping(value)
            return list(value.values())
        elif isinstance(value, (list, deque, set, bytearray)):
            self._collection(value)
            return [] if isinstance(value, bytearray) else list(value)
        elif isinstance(value, (tuple, frozenset)):
            return list(value)
        elif isinstance(value, nn.Module) or type(value).__module__.partition(".")[0] == home:
            attributes = getattr(value, "__dict__", {})
            if isinstance(attributes, dict):  # a class's is not
                self._mapping(attributes)
                return list(attributes.values())
        return []

    def _mapping(self, value: MutableMapping[Any, Any]) -> None:
        before = dict(value)

        def undo() -> None:
            if not _same(value.keys(), before.keys()) or not _same(value.values(), before.values()):
                for key in [key for key in value if key not in before]:
                    del value[key]
                if not _same(value.keys(), before.keys()):  # another order, or some are missing
                    value.clear()
                for key, old in before.items():
                    if key not in value or value[key] is not old:
                        value[key] = old

        self._undo.append(undo)

    def _collection(self, value: Any) -> None:
        before = list(value)

        def undo() -> None:
            if isinstance(value, set):
                if value != set(before):
                    value.clear()
                    value.update(before)
            elif not _same(value, before):
                value.clear()
                value.extend(before)

        self._undo.append(undo)

    def _tensor(self, value: Tensor) -> None:
        self._flags([value])
        if value.is_meta or value.layout is not torch.strided or type(value) is not Tensor:
            return
        inference = value.is_inference()
        if value.numel() * value.element_size() > BIG:
            if not inference:
                self._undo.append(partial(_name_change, value, value._version))
            return
        before, data = value.detach().clone(), value.data

        def undo() -> None:
            if value.data_ptr() != data.data_ptr() or value.shape != before.shape:
                value.data = data
            if not _same_bits(data, before):
                with torch.inference_mode(inference), torch.no_grad():
                    data.copy_(before)

        self._undo.append(undo)

    def _array(self, value: Any) -> None:
        before = value.copy()

        def undo() -> None:
            if value.dtype != object and value.tobytes() != before.tobytes():
                value[...] = before

        self._undo.append(undo)

    def _flags(self, tensors: list[Any]) -> None:
        for tensor in tensors:
            hooks = [(name, getattr(tensor, name, None)) for name in _HOOKS]
            for name, held in hooks:
                if held is not None:
                    self._mapping(held)
                else:
                    self._undo.append(partial(_clear, tensor, name))
            if tensor.is_leaf:
                self._undo.append(partial(_set_flag, tensor, tensor.requires_grad))


def _clear(tensor: Tensor, name: str) -> None:
    held = getattr(tensor, name, None)
    if held:
        held.clear()


def _set_flag(tensor: Tensor, flag: bool) -> None:
    if tensor.is_leaf and tensor.requires_grad != flag:
        tensor.requires_grad_(flag)


def _name_change(tensor: Tensor, version: int) -> None:
    if tensor._version != version:
        warnings.warn(
            f"the forward pass changed a tensor (shape {tuple(tensor.shape)}) in a module's plain attribute, "
            "which is too large for a copy, and did not put it back: make it a buffer, then it is",
            stacklevel=2,
        )


def _same(one: Iterable[Any], two: Iterable[Any]) -> bool:
    first, second = list(one), list(two)
    return len(first) == len(second) and all(map(operator.is_, first, second))


def _same_bits(one: Tensor, two: Tensor) -> bool:
    """Whether two tensors are equal, nan where nan."""
    return bool(((one == two) | ((one != one) & (two != two))).all())
