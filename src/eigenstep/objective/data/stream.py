"""How much of its data an objective takes: all of a known length, a stated part of a stream; and what that bounds."""

import functools
import inspect
import math
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from eigenstep.errors import InvalidValue
from eigenstep.objective.data.batch import part, samples
from eigenstep.objective.data.loader import DATA
from eigenstep.objective.memory import in_words

STREAM = 4096  # samples of a stream: a mean over them is off by 1/64 of their spread, about what `tol` allows anyway


class Intake:
    """Decides batch by batch whether to go on reading, and says afterwards what was taken.

    source: the data, one: whether they are a single batch. asked: the user's `samples`. budget: bytes.
    """

    def __init__(self, source: Any, one: bool, asked: int | None, budget: float) -> None:
        if asked is not None and (isinstance(asked, bool) or not isinstance(asked, int) or asked < 1):
            raise InvalidValue(f"Objective: samples={asked!r} must be a whole number of at least 1, or None")
        self.asked, self.budget = asked, budget
        self.stated = 1 if one else stated_length(source)  # batches
        self.of_samples = _all_samples(source, one)
        self.trims = True  # whether the first batch may be cut: not where the user counts samples
        self.cut: int | None = None  # batches taken, where reading was ended
        self.batches, self.samples, self.held = 0, 0, 0.0
        self.why = ""

    def takes(self, count: float, size: float) -> bool:
        """Whether to take the next batch, of so many samples and bytes; sets `cut` where reading ends here."""
        count = max(int(count), 1)  # an endless stream of batches that nobody can count ends too
        streams = self.stated is None or self.batches >= self.stated
        limit = self.asked if self.asked is not None else STREAM if streams else None
        if self.batches and limit is not None and self.samples + count > limit:
            self.why = "asked" if self.asked is not None else "stream"
        elif self.batches and streams and self.asked is None and self.held + size > self.budget:
            self.why = "memory"
        else:
            self.batches, self.samples, self.held = self.batches + 1, self.samples + count, self.held + size
            if limit is not None and self.samples >= limit and self.batches != self.stated:
                self.why, self.cut = "asked" if self.asked is not None else "stream", self.batches
            return True
        self.cut = self.batches
        return False

    def trimmed(self, batch: Any, number: int) -> Any:
        """The batch, shortened to the samples asked for where the first one alone has more and can be cut."""
        if number or self.asked is None or not self.trims or samples(batch) <= self.asked:
            return batch
        try:
            return part(batch, slice(None, self.asked))
        except (TypeError, IndexError):  # not to be cut: taken whole, and counted so
            return batch

    @property
    def expected(self) -> int | None:
        """How many batches will be taken, by what has been; None where nothing is known."""
        if not self.batches:
            return self.stated
        limit = self.asked if self.asked is not None else STREAM if self.stated is None else None
        known = [] if self.stated is None else [self.stated]
        known += [] if limit is None else [math.ceil(limit * self.batches / self.samples)]
        return max(min(known), self.batches)

    @property
    def whole(self) -> bool | None:
        """Whether all was taken; None where the data do not say how much there is."""
        if self.cut is None:
            return not (self.asked and self.of_samples and self.samples < self.of_samples)
        return None if self.stated is None or self.batches >= self.stated else False

    def as_dict(self) -> dict[str, Any]:
        """What was taken, of how much, as plain data; None where that is not known."""
        taken = {"taken": self.samples, "of": self.of_samples, "batches": self.batches, "of_batches": self.stated}
        return {**taken, "whole": self.whole}

    def note(self) -> str | None:
        """What was taken where it is not all, and how that bounds the answer; where a stated length is not so, that."""
        if self.whole:
            if self.stated in (None, self.batches):
                return None
            return f"data: its len() says {self.stated:,} batches, it gave {self.batches:,}, which were all taken"
        of = f" of {self.of_samples:,}" if self.of_samples else ""
        of_batches = f" of {self.stated:,}" if self.stated and self.batches < self.stated else ""
        number = f"{self.batches:,}{of_batches} batch{'es' if of_batches or self.batches > 1 else ''}"
        what = f"data: the first {self.samples:,}{of} samples ({number})"
        if self.whole is None:
            lied = f" (its len() says {self.stated:,} batches, and it goes on)" if self.stated is not None else ""
            what += f" of a stream of unknown length{lied}"
        why = {
            "stream": "; samples= takes another number",
            "memory": f", as many as {in_words(self.budget)} hold; samples= or memory= takes more",
        }.get(self.why, f", as samples={self.asked} asks")
        error = f"1/sqrt({self.samples:,}) = {self.samples**-0.5:.1%}"
        return (
            f"{what} were taken{why}. The numbers, their bounds and 'certified' are about the loss over these: over "
            f"another draw of as many they differ by some {error} of their spread from sample to sample, and the "
            "largest eigenvalue over a random part is, on average, not below that over the whole"
        )


class Afresh(Iterable[Any]):
    """A generator function as data: each pass calls it anew."""

    def __init__(self, function: Callable[[], Iterator[Any]]) -> None:
        self.function = function

    def __iter__(self) -> Iterator[Any]:
        """Call the function."""
        return self.function()


def readable(data: Any, named: str = DATA) -> Any:
    """The data, a generator function as something to go through again; InvalidValue for any other function."""
    if inspect.isgeneratorfunction(data):
        return Afresh(data)
    if isinstance(data, (types.FunctionType, types.MethodType, functools.partial)):
        raise InvalidValue(
            f"{named} is a function; give what it returns (a loader, a list of batches), or a function that "
            "yields batches"
        )
    return data


def stated_length(source: Any) -> int | None:
    """The number of batches that the data state; None where they state none. Nothing of theirs is changed."""
    held = dict(vars(source)) if hasattr(source, "__dict__") else {}
    try:
        return len(source)
    except Exception:  # whatever a user's own __len__ raises, it gives no length
        return None
    finally:
        if held:
            vars(source).update(held)  # torch's loader notes that it was asked, and would warn later


def _all_samples(source: Any, one: bool) -> int | None:
    """The samples of all batches, where a loader or the batches at hand tell without being read."""
    if one or isinstance(source, (list, tuple)):
        counts = [samples(batch) for batch in ([source] if one else source)]
        return sum(counts) if counts and min(counts) > 0 else None
    if isinstance(source, DataLoader) and not isinstance(source.dataset, IterableDataset) and source.batch_size:
        drawn = stated_length(source.sampler)
        if drawn is not None and source.drop_last:
            drawn -= drawn % source.batch_size
        return drawn
    return None
