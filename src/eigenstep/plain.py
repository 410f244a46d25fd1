"""Dataclasses as plain data that JSON can hold, and back by their annotations: what a result is in a file."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from types import GenericAlias, MappingProxyType, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor

from eigenstep.errors import EigenstepError, InvalidValue
from eigenstep.files import jsonable, wrong_field
from eigenstep.rules import Rule

_NOT_FINITE = ("inf", "-inf", "nan")  # how jsonable writes them


def key(name: str) -> Mapping[str, str]:
    """Return the metadata of a field that a file holds under another name."""
    return MappingProxyType({"key": name})


def alone_in(name: str) -> Mapping[str, Any]:
    """Return the metadata of a field that a file holds as a list of one, as a result's one rule among 'rules'."""
    return MappingProxyType({"key": name, "alone": True})


def among() -> Mapping[str, Any]:
    """Return the metadata of a field, a dataclass, whose own fields a file holds among those of its holder."""
    return MappingProxyType({"among": True})


def unheld() -> Mapping[str, Any]:
    """Return the metadata of a field, with a default, that no file holds: what lives in this process alone."""
    return MappingProxyType({"unheld": True})


def plain(value: Any) -> Any:
    """Return anything that a result holds as data for JSON: its own `as_dict`, or its fields.

    >>> from eigenstep.rules import Momentum
    >>> plain((float("inf"), Momentum(lr=0.1)))[1]["lr"]
    0.1
    """
    if hasattr(value, "as_dict"):
        return value.as_dict()
    if is_dataclass(value):
        return plain_fields(value)
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return jsonable(value)


def plain_fields(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that a file holds, under their keys there."""
    found: dict[str, Any] = {}
    for f in [f for f in fields(value) if "unheld" not in f.metadata]:
        held = getattr(value, f.name)
        if "among" in f.metadata:
            found |= plain_fields(held)
        else:
            found[_key(f)] = [plain(held)] if "alone" in f.metadata else plain(held)
    return found


def restored_fields(kind: type, content: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Return the fields of a dataclass from what `plain_fields` gave; further keys are passed over.

    Raises InvalidValue for a field that is missing or not of its annotation, by name.
    """
    found = {}
    for f in [f for f in fields(kind) if "unheld" not in f.metadata]:
        name, hint, alone = _key(f), _hints(kind)[f.name], "alone" in f.metadata
        if "among" in f.metadata:
            found[f.name] = hint(**restored_fields(hint, content, where))
        elif name in content:
            item = restored(GenericAlias(tuple, hint) if alone else hint, content[name], f"{where}{name}")
            found[f.name] = item[0] if alone else item
        elif f.default is MISSING and f.default_factory is MISSING:
            raise InvalidValue(f"it lacks {where}{name}")
    return found


def restored(hint: Any, value: Any, where: str) -> Any:
    """Return a value of the annotated type from its plain data. Raises InvalidValue, naming `where`, for other data.

    >>> restored(tuple[float, ...], [1, "inf"], "edge")
    (1.0, inf)
    """
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, UnionType):
        return _one_of(inner, value, where)
    if origin is Literal:
        if value not in inner:
            raise InvalidValue(f"{where!r} must be one of {', '.join(map(repr, inner))}, not {value!r:.40}")
        return value
    if origin is tuple:
        items = _checked(list, value, where)
        each = [inner[0]] * len(items) if inner[-1] is Ellipsis else list(inner)
        if len(each) != len(items):
            raise InvalidValue(f"{where!r} must be a list of {len(each)}, not of {len(items)}")
        pairs = enumerate(zip(each, items, strict=True))
        return tuple(restored(kind, item, f"{where}[{i}]") for i, (kind, item) in pairs)
    if origin is not None and issubclass(origin, Mapping):
        content = _checked(dict, value, where)
        return {_name_of(inner[0], k, where): restored(inner[1], item, f"{where}.{k}") for k, item in content.items()}
    if origin is not None and issubclass(origin, Sequence):
        return [restored(inner[0], item, f"{where}[{i}]") for i, item in enumerate(_checked(list, value, where))]
    if hint is Tensor:
        return _tensor(value, where)
    if hint is float and value in _NOT_FINITE:
        return float(value)
    if hint in (bool, int, float, str):
        checked = _checked(hint, value, where)
        return float(checked) if hint is float else checked
    return _made(hint, _checked(dict, value, where), where)


def _made(hint: Any, content: dict[str, Any], where: str) -> Any:
    """An object of a class from the mapping that it was saved as."""
    if issubclass(hint, Rule):
        try:
            return hint.from_dict(content)
        except EigenstepError as error:
            raise InvalidValue(f"{where}: {error}") from error
    if hasattr(hint, "from_plain"):
        return hint.from_plain(content, f"{where}.")
    if is_dataclass(hint) and isinstance(hint, type):
        return hint(**restored_fields(hint, content, f"{where}."))
    missing = [name for name in hint._fields if name not in content]
    if missing:
        raise InvalidValue(f"it lacks {where}.{missing[0]}")
    return hint(**{name: restored(kind, content[name], f"{where}.{name}") for name, kind in _hints(hint).items()})


def _one_of(options: tuple[Any, ...], value: Any, where: str) -> Any:
    """The value as one of several types: None, a type, and a tensor where it comes in lanes."""
    if value is None and NoneType in options:
        return None
    kinds = [option for option in options if option is not NoneType]
    if len(kinds) > 1 and Tensor in kinds:  # a number, or one for each lane
        kinds = [Tensor] if isinstance(value, list) else [kind for kind in kinds if kind is not Tensor]
    if len(kinds) > 1:
        raise TypeError(f"{where}: no type is to be chosen by its data among {options}")
    return restored(kinds[0], value, where)


def _checked(kind: Any, value: Any, where: str) -> Any:
    if kind is list and not isinstance(value, list):
        raise InvalidValue(f"{where!r} must be a list, not {value!r:.40}")
    wrong = None if kind is list else wrong_field({where: value}, {where: kind})
    if wrong is not None:
        raise InvalidValue(wrong)
    return value


def _name_of(kind: Any, name: str, where: str) -> Any:
    """A mapping's key, which JSON holds as text."""
    if kind is not int:
        return name
    if not name.removeprefix("-").isdecimal() or len(name) > 18:
        raise InvalidValue(f"{where!r} must have whole numbers for names, not {name!r:.40}")
    return int(name)


def _tensor(value: Any, where: str) -> Tensor:
    """Nested lists of numbers as a tensor of float64, of int64 or of bools."""

    def numbers(item: Any) -> Any:
        if isinstance(item, list):
            return [numbers(one) for one in item]
        return float(item) if item in _NOT_FINITE else item

    try:
        array = np.array(numbers(_checked(list, value, where)))
        found = array.astype(np.float64) if array.dtype.kind == "f" or not array.size else array
        return torch.as_tensor(found, device="cpu")
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InvalidValue(f"{where!r} must be numbers in lists of equal length, not {value!r:.40}") from error


def _key(f: Field[Any]) -> str:
    return str(f.metadata.get("key", f.name))


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)
