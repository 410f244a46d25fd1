"""The exceptions of eigenstep: each message says what was wrong, where, and the remedy."""

import difflib
import math
from collections.abc import Iterable
from numbers import Integral, Real


class EigenstepError(Exception):
    """Base of every error that a user can cause and mend."""


class InvalidValue(EigenstepError, ValueError):
    """A value outside its range, of the wrong shape, or not finite."""


class UnknownName(EigenstepError, ValueError):
    """A rule, problem, hyperparameter or other name that does not exist."""

    @classmethod
    def among(cls, what: str, name: str, valid: Iterable[str], close: str | None = None) -> "UnknownName":
        """Build the error for `name`, with the nearest valid name first: `close`, unless that is to be found."""
        options = list(valid)
        close = close or nearest(name, options)
        hint = f"did you mean {close!r}? " if close else ""
        return cls(f"{what} {name!r} does not exist: {hint}valid are {', '.join(options)}")


class Unsupported(EigenstepError, TypeError):
    """A method or object that has no exact answer here; the message says what to do instead."""


class BadFile(EigenstepError, ValueError):
    """A file that cannot be read or written, or that is not what was asked for."""


def refuse_seed(what: str, seed: object) -> None:
    """Raise InvalidValue for a seed that no generator takes: anything but a whole number below 2^62 in size."""
    if isinstance(seed, bool) or not isinstance(seed, int) or abs(seed) >= 2**62:
        raise InvalidValue(f"{what}: seed={seed!r:.40} must be a whole number, below 2**62 in size")


def refuse_count(what: str, name: str, value: object, least: int = 1) -> None:
    """Raise InvalidValue for anything but a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise InvalidValue(f"{what}: {name}={value!r:.40} must be a whole number, at least {least}")


def refuse_positive(what: str, name: str, value: object, meaning: str) -> None:
    """Raise InvalidValue for anything but a finite number above 0; meaning: what to give instead, in words."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < math.inf:
        raise InvalidValue(f"{what}: {name}={value!r:.40} must be {meaning}")


def refuse_share(what: str, name: str, value: object) -> None:
    """Raise InvalidValue for anything but a number between 0 and 1, both left out."""
    if isinstance(value, Integral) or not isinstance(value, Real) or not 0 < float(value) < 1:
        raise InvalidValue(f"{what}: {name}={value!r:.40} must lie between 0 and 1")


def nearest(name: str, valid: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the valid name that looks most like `name`, if any does.

    >>> nearest("momentun", ["lr", "momentum"])
    'momentum'
    """
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=cutoff)
    return close[0] if close else None
