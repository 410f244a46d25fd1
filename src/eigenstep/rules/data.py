"""A rule's hyperparameters as plain data, and back."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import Field
from inspect import isabstract
from typing import Any, TypeVar

from torch import Tensor

from eigenstep.errors import InvalidValue, UnknownName

_Rule = TypeVar("_Rule")

_FOREIGN = "python"  # the key under which the text of a value stands that no file can hold, such as a function
_SPELT = ("nan", "inf", "-inf")


def own_name(kind: type) -> str:
    """The name that a class gives itself; without one, the class's. A subclass does not go by its parent's."""
    return str(vars(kind).get("name") or kind.__name__)


def named(kind: type[_Rule], name: Any) -> type[_Rule]:
    """Return `kind`, or the class that inherits from it, of this own name; the newest, where a cell was run again.

    Raises UnknownName where there is none, or where two different classes have it.
    """
    found = [one for one in _family(kind) if own_name(one) == name]
    if not found:
        raise UnknownName.among("rule", str(name), sorted({own_name(one) for one in _family(kind)}))
    if len(places := sorted({f"{one.__module__}.{one.__qualname__}" for one in found})) > 1:
        raise UnknownName(f"{name!r} names several rules, {' and '.join(places)}: call from_dict of the one meant")
    return found[-1]


def _family(kind: type[_Rule]) -> Iterator[type[_Rule]]:
    """A class and all that inherit from it, in order of definition; those that cannot be made left out."""
    if not isabstract(kind) and not kind.__name__.startswith("_"):
        yield kind
    for heir in kind.__subclasses__():
        yield from _family(heir)


def as_data(value: Any) -> Any:
    """Return a value as JSON can hold it: lanes and pairs as lists, numbers that are not finite as text.

    >>> as_data((0.9, math.inf)), as_data(max)
    ([0.9, 'inf'], {'python': '<built-in function max>'})
    """
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [as_data(item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: as_data(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else {_FOREIGN: repr(value)}


def from_data(where: str, field: Field[Any], data: Any) -> Any:
    """Return the value of a field that `as_data` was given. Raises InvalidValue where that was none a file can hold."""
    if isinstance(data, Mapping):
        if set(data) == {_FOREIGN}:
            raise InvalidValue(
                f"{where}: {field.name} was {data[_FOREIGN]}, which a file cannot hold; build the rule in Python"
            )
        return {key: from_data(where, field, item) for key, item in data.items()}
    if isinstance(data, (list, tuple)):
        pair = isinstance(field.default, tuple) or "tuple" in str(field.type).lower()
        items = [from_data(where, field, item) for item in data]
        return tuple(items) if pair else items
    words = isinstance(field.default, str) or "str" in str(field.type)
    return float(data) if isinstance(data, str) and data in _SPELT and not words else data
