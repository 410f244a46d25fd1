"""What a loader carries beside its batches: random generators, counters, live iterators: put back, or refused."""

import copy
import inspect
import random
import types
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from eigenstep.errors import InvalidValue, Unsupported

_PLAIN = (int, float, complex, str, bytes, type(None))
_RANDOM = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_OPAQUE = (Dataset, nn.Module, type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType)
DATA = "Objective: data"  # what messages call the data, unless they were given under another name
_LARGE = 10**6  # entries of an array from which it is taken for data, not for state


def refuse_one_shot(data: Any, named: str = DATA) -> None:
    """Raise for data that can be gone through only once, or whose samplers hide a live iterator, under its name."""
    if isinstance(data, Iterator):
        raise InvalidValue(
            f"{named} is a {type(data).__name__}, which can be read only once; pass the loader or list "
            "itself, or list(...) of a few batches"
        )
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        raise InvalidValue(
            f"{named} is a {type(data).__name__} of single samples; wrap it: DataLoader(dataset, batch_size=...)"
        )
    if isinstance(data, DataLoader) and data._iterator is not None:
        raise InvalidValue(
            f"{named} is a DataLoader with persistent workers and a live iterator, which reading would reset; "
            "pass list(...) of a few batches, or a second loader"
        )
    for name, holder in holders(data):
        for key, value in {**attributes(holder), **_enclosed(holder)}.items():
            for inner in _within(value, set()) if _may_hide(holder) else (value,):
                if isinstance(inner, Iterator):
                    raise InvalidValue(
                        f"{named}: {name} keeps a live {type(inner).__name__} in .{key}, which reading would "
                        "advance; pass list(...) of a few batches"
                    )


def subset_note(data: Any) -> str | None:
    """Say so when a shuffling loader leaves samples out, or draws a sample of them: one draw is then measured."""
    if not isinstance(data, DataLoader) or isinstance(data.dataset, IterableDataset) or data.batch_size is None:
        return None
    total, drawn = len(data.dataset), len(data.sampler)  # type: ignore[arg-type]
    if data.drop_last:
        drawn -= drawn % data.batch_size
    shuffled = not isinstance(data.sampler, torch.utils.data.SequentialSampler)
    again = getattr(data.sampler, "replacement", False)
    if shuffled and (drawn != total or again):
        return f"the loader draws {drawn} of {total} samples at random: one draw is held, and measured"
    return None


@contextmanager
def same_hidden_state(data: Any, changed: list[str], named: str = DATA) -> Iterator[None]:
    """Put the generators and attributes of a loader's parts back as they were.

    Raises Unsupported, afterwards, for a part that changes what its attributes hold, and lists it in `changed`.
    """
    seeds = [(g, _get_state(g)) for g in generators(data)]
    parts = [(name, holder, attributes(holder)) for name, holder in holders(data)]
    inner = [
        (name, key, value, _copied(f"{named}: {name}", key, value), _state(value, set()))
        for name, holder, held in parts
        if _may_hide(holder)
        for key, value in held.items()
        if not isinstance(value, (*_PLAIN, *_RANDOM, *_OPAQUE)) and all(value is not part for _, part, _ in parts)
    ]
    try:
        yield
    finally:
        changed += [
            f"{name} changes its .{key}"
            for name, holder, held in parts
            if _may_hide(holder)
            for key, value in held.items()
            if isinstance(value, _PLAIN) and vars(holder).get(key) is not value
        ]
        hidden = len(changed)
        for name, key, value, saved, before in inner:
            if _state(value, set()) != before:
                changed.append(f"{name} changes its .{key}")
                _put_back(value, saved)
        for generator, state in seeds:
            _set_state(generator, state)
        for _, holder, held in parts:
            for key in attributes(holder).keys() - held.keys():
                del holder.__dict__[key]
            for key, value in held.items():
                if vars(holder).get(key) is not value:
                    holder.__dict__[key] = value
    if changed[hidden:]:
        raise Unsupported(f"{named}: {changed[hidden]} when it is read; pass list(...) of a few batches")


def seed_own(data: Any) -> None:
    """Seed the torch generators that a loader and its parts own."""
    for generator in generators(data):
        if isinstance(generator, torch.Generator):
            generator.manual_seed(0)


def holders(data: Any) -> list[tuple[str, Any]]:
    """The parts of a loader that may carry state: itself, its samplers, its dataset."""
    found = [(f"the loader ({type(data).__name__})", data)]
    if isinstance(data, DataLoader):
        parts = {"sampler": data.sampler, "batch_sampler": data.batch_sampler, "dataset": data.dataset}
        inner = getattr(data.batch_sampler, "sampler", None)
        parts["batch_sampler.sampler"] = inner if inner is not data.sampler else None
        found += [(f"the loader's {n} ({type(p).__name__})", p) for n, p in parts.items() if p is not None]
    return found


def attributes(holder: Any) -> dict[str, Any]:
    """The instance attributes of a part of a loader."""
    return dict(vars(holder)) if hasattr(holder, "__dict__") else {}


def generators(data: Any) -> list[Any]:
    """Every random generator that a loader, its samplers or its dataset own."""
    return [v for _, holder in holders(data) for v in attributes(holder).values() if isinstance(v, _RANDOM)]


def _may_hide(holder: Any) -> bool:
    """Whether a part's attributes are looked into: not those of torch's loader, nor of a dataset, which may cache."""
    return not isinstance(holder, (DataLoader, Dataset))


def _enclosed(holder: Any) -> dict[str, Any]:
    """The variables that a part's __iter__ closes over."""
    function = getattr(type(holder), "__iter__", None)
    if not isinstance(function, types.FunctionType):
        return {}
    return dict(inspect.getclosurevars(function).nonlocals)


def _within(value: Any, seen: set[int]) -> Iterator[Any]:
    """Yield a value and what it holds, through containers and attributes."""
    yield value
    if id(value) in seen or isinstance(value, (*_PLAIN, *_RANDOM, *_OPAQUE, Tensor, np.ndarray, Iterator)):
        return
    seen.add(id(value))
    parts = value.values() if isinstance(value, Mapping) else value
    if not isinstance(value, (Mapping, list, tuple, set, frozenset, deque)):
        parts = attributes(value).values()
    for part in parts:
        if not isinstance(part, _PLAIN):
            yield from _within(part, seen)


def _state(value: Any, seen: set[int]) -> Any:
    """What a value holds, as plain data that can be compared; data itself and code stand for themselves."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, _RANDOM):
        return _state(_get_state(value), seen)
    if isinstance(value, (Tensor, np.ndarray)):
        small = (value.numel() if isinstance(value, Tensor) else value.size) <= _LARGE
        return value.tolist() if small else id(value)
    if id(value) in seen or isinstance(value, _OPAQUE):
        return id(value)
    seen.add(id(value))
    if isinstance(value, Mapping):
        return [(_state(k, seen), _state(v, seen)) for k, v in value.items()]
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return [_state(part, seen) for part in value]
    return type(value), _state(attributes(value), seen)


def _copied(name: str, key: str, value: Any) -> Any:
    """A deep copy from which the value can be put back; data and code are not copied."""
    memo = {id(v): v for v in _within(value, set()) if _is_data(v)}
    try:
        return copy.deepcopy(value, memo)
    except Exception as error:
        raise Unsupported(
            f"{name} holds a {type(value).__name__} in .{key}, whose state cannot be kept ({error}); pass "
            "list(...) of a few batches"
        ) from error


def _is_data(value: Any) -> bool:
    size = value.numel() if isinstance(value, Tensor) else getattr(value, "size", 0)
    return isinstance(value, _OPAQUE) or (isinstance(value, (Tensor, np.ndarray)) and size > _LARGE)


def _put_back(value: Any, saved: Any) -> None:
    """Make a changed value hold again what its copy holds."""
    if isinstance(value, Tensor):
        value.detach().copy_(saved)
    elif isinstance(value, np.ndarray):
        value[...] = saved
    elif isinstance(value, list):
        value[:] = saved
    elif isinstance(value, deque):
        value.clear()
        value.extend(saved)
    elif isinstance(value, (dict, set)):
        value.clear()
        value.update(saved)
    elif hasattr(value, "__dict__"):
        vars(value).clear()
        vars(value).update(vars(saved))


def _get_state(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, random.Random):
        return generator.getstate()
    return generator.get_state()


def _set_state(generator: Any, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)
