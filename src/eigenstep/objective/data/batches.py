"""The data of an objective: the same batches at every pass, weighted, no generator consumed."""

import copy
import hashlib
import itertools
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, SequentialSampler

from eigenstep import progress
from eigenstep.errors import InvalidValue, Unsupported
from eigenstep.objective.data.batch import fingerprint, samples
from eigenstep.objective.data.loader import refuse_one_shot, same_hidden_state, seed_own
from eigenstep.objective.data.stream import Intake, readable
from eigenstep.objective.restore import random_state, same_random_state, seed_all, set_random_state
from eigenstep.objective.world import as_caller

PerBatch = float | Sequence[float] | Callable[[Any], Any] | None


class Batches:
    """The batches of `data`, read once and kept if they fit into `budget` bytes, read anew at every pass if not.

    weight: how much each batch counts, by default its samples; batch_size: its samples, by default the tensors' common
    first dimension. Both: a number, a list, a function of the batch. `weights`, `counts` are those of the batches that
    count; `ignored` others have weight 0, and are never given out.

    Every pass over a loader begins from the same random state, so that shuffling and augmentation are the same each
    time; the user's generators are put back.
    """

    def __init__(
        self,
        data: Any,
        batch_size: PerBatch,
        budget: float,
        weight: PerBatch = None,
        *,
        samples: int | None = None,
    ) -> None:
        data = readable(data)
        self.source, self.budget = data, budget
        self.given = {name: _plain(name, v, data) for name, v in (("batch_size", batch_size), ("weight", weight))}
        self.kept: list[Any] | None = None
        self.counts: list[float] = []
        self.weights: list[float] = []
        self.ignored = 0
        self.digests: list[str] = []
        self._counting: list[bool] = []  # of every batch in the data, whether it has a weight
        self._passes: list[Generator[tuple[int, Any], None, None]] = []
        self._changed: list[str] = []  # what the source's parts did to themselves while read
        self.one = is_one_batch(data)
        if not self.one:
            refuse_one_shot(data)
        self.asked = samples
        self.intake = self._intake()

    def read(self) -> None:
        """Go through the data: count, fingerprint, keep what fits. A loader is read twice, to see that it repeats."""
        if not self.counts:
            with progress.task("reading the data") as work:
                self._read(work)

    def _read(self, work: progress.Task) -> None:
        self.intake = intake = self._intake()
        kept: list[Any] | None = []
        counts: list[float] = []
        weights: list[float] = []
        digests: list[str] = []
        held, again = 0.0, 0
        told = any(given is not None for given in self.given.values())
        work.read(0, None, None)
        try:
            for turn, batch in self._pass(times=2):
                passes = 1 if self._at_hand else 2
                total = None if intake.expected is None else passes * intake.expected
                work.read(len(counts) + again + 1, total, intake.expected)
                if turn == 1:
                    refuse_change_of_data(again, batch, digests)
                    again += 1
                    continue
                digest, size = fingerprint(batch)
                count = self._of("batch_size", len(counts), batch)
                count = samples(batch) if count is None else count
                if counts and min(count, *counts[:1]) < 1 and not told:
                    raise InvalidValue(
                        "Objective: the number of samples in a batch could not be found (no tensor with a common first "
                        "dimension); give batch_size= (or weight=, how much it counts) as a number, a list with one "
                        "entry per batch, or a function of the batch"
                    )
                if not intake.takes(count, size):
                    continue
                weight = self._of("weight", len(counts), batch)
                counts.append(count)
                weights.append(count if weight is None else weight)
                digests.append(digest)
                held += 0 if self._at_hand else size
                if kept is not None:
                    kept += [batch] if weights[-1] > 0 or not told else []
                    kept = kept if held <= self.budget else None
            self.close()
            if not self._at_hand:
                refuse_change_of_data(again, None, digests)
        except InvalidValue as error:
            self.close()
            if self._changed:
                raise Unsupported(f"{error}; {self._changed[0]}") from error
            raise
        if not counts:
            raise InvalidValue(
                "Objective: data has no batches; a loader, a list or another re-iterable with some is needed"
            )
        for name, given in self.given.items():
            if isinstance(given, Sequence) and (len(given) < len(counts) if intake.cut else len(given) != len(counts)):
                raise InvalidValue(f"Objective: {name} has {len(given)} entries for {len(counts)} batches")
        self._counting = [weight > 0 or not told for weight in weights]
        if not any(self._counting):
            raise InvalidValue("Objective: every batch has weight 0; at least one must count")
        self.ignored = self._counting.count(False)
        self.kept, self.digests = kept, digests
        self.weights = list(itertools.compress(weights, self._counting))
        self.counts = list(itertools.compress(counts, self._counting))  # last: an interrupted reading is begun anew

    def counts_in(self, batch: Any) -> bool:
        """Whether a batch of another loader would count: not if the user's function gives it weight 0."""
        functions = [name for name, given in self.given.items() if callable(given)]
        return all(self._of(name, 0, batch) != 0 for name in functions)

    def alike(self) -> "Batches":
        """Return the same batches, each of the same weight."""
        twin = copy.copy(self)
        twin.weights, twin._passes = [1.0] * len(self.weights), []
        return twin

    def close(self) -> None:
        """End passes that an error left in the middle, so that what they hold is put back now and not later."""
        while self._passes:
            self._passes.pop().close()

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches, the same ones at every pass. Raises InvalidValue when a loader's set has changed."""
        self.read()
        yield from self._again()

    def first(self, count: int) -> list[Any]:
        """Return the first batches."""
        found = list(itertools.islice(self, count))
        self.close()
        return found

    def costing(self, each: float) -> Iterator[Any]:
        """Yield the batches for work that costs `each` forward passes per batch, and tell how far it has come."""
        self.read()
        yield from progress.over(self._again(), len(self.counts), each)

    def _again(self) -> Iterator[Any]:
        if self.kept is not None:
            yield from self.kept
            return
        number = -1
        for number, (_, batch) in enumerate(self._pass()):
            refuse_change_of_data(number, batch, self.digests)
            if self._counting[number]:
                yield batch
        self.close()
        refuse_change_of_data(number + 1, None, self.digests)

    @property
    def digest(self) -> str:
        """A fingerprint of the set of batches, whatever their order."""
        return hashlib.sha256("".join(sorted(self.digests)).encode()).hexdigest()[:16]

    @property
    def _at_hand(self) -> bool:
        """Whether the batches lie ready in the user's memory."""
        return self.one or isinstance(self.source, (list, tuple))

    def _pass(self, times: int = 1) -> Generator[tuple[int, Any], None, None]:
        """Yield (number of the pass, batch); every pass from the same random state, the last one's traces removed."""
        self._passes.append(self._run(times))
        return self._passes[-1]

    def _intake(self) -> Intake:
        intake = Intake(self.source, self.one, self.asked, self.budget)
        intake.trims = self.given["batch_size"] is None
        return intake

    def _run(self, times: int) -> Generator[tuple[int, Any], None, None]:
        intake = self.intake
        if self._at_hand:
            for number, batch in enumerate([self.source] if self.one else self.source):
                if intake.cut is None or number < intake.cut:
                    yield 0, intake.trimmed(batch, number)
            return
        with same_random_state(), same_hidden_state(self.source, self._changed):
            for turn in range(times):
                seed_all(0)
                seed_own(self.source)
                for number, batch in enumerate(as_caller(self.source)):
                    state = random_state()  # what the loss draws in between must not change the next batches
                    yield turn, intake.trimmed(batch, number)
                    set_random_state(state)
                    if intake.cut is not None and number + 1 >= intake.cut:
                        break

    def _of(self, name: str, i: int, batch: Any) -> float | None:
        """What the user gave for batch `i` under `name`; None where nothing was given."""
        given = self.given[name]
        if given is None:
            return None
        if callable(given):
            number = given(batch)
        elif isinstance(given, Sequence):
            number = given[i] if i < len(given) else 0.0
        else:
            number = given
        try:
            value = math.nan if isinstance(number, bool) else float(number)
        except (TypeError, ValueError, RuntimeError):
            value = math.nan
        if not 0 <= value < math.inf:
            raise InvalidValue(
                f"Objective: {name} gives {number!r} for batch {i}; a number of at least 0 is needed (0: not counted)"
            )
        return value


def _plain(name: str, found: Any, data: Any) -> PerBatch:
    """A weight or batch size as a number, a list or a function; a list only where the batches' order is the user's."""
    given: PerBatch = found.tolist() if isinstance(found, (Tensor, np.ndarray)) else found
    if isinstance(given, str) or not (given is None or callable(given) or isinstance(given, (int, float, Sequence))):
        raise InvalidValue(
            f"Objective: {name} is a {type(given).__name__}; a number, a list with one entry per batch, or a function "
            "of the batch is needed"
        )
    if isinstance(given, Sequence) and isinstance(data, DataLoader) and not _ordered(data):
        raise InvalidValue(
            f"Objective: {name} is a list, but the loader's order is its own; give a function of the batch, or a list "
            "of batches as data"
        )
    return given


def _ordered(loader: DataLoader[Any]) -> bool:
    """Whether a loader goes through its data in their order."""
    sampler = getattr(loader.batch_sampler, "sampler", loader.sampler)
    return isinstance(sampler, SequentialSampler) or not hasattr(loader.dataset, "__getitem__")


def refuse_change_of_data(number: int, batch: Any, digests: Sequence[str]) -> None:
    """Raise InvalidValue unless batch `number` is the one of the first pass; a batch of None: the pass has ended."""
    ended = number == len(digests)
    if ended if batch is None else not ended and fingerprint(batch)[0] == digests[number]:
        return
    what = f"has {'fewer' if batch is None else 'more'} batches" if batch is None or ended else "differs from the first"
    raise InvalidValue(
        f"Objective: data: a second pass {what} (at batch {number}): shuffling or sampling changes the set; pass a "
        "list of batches, or a loader without state of its own"
    )


def is_one_batch(data: Any) -> bool:
    """Whether `data` is one batch: a tensor, tuple or mapping; a list of tensors that differ in kind; no iterable."""
    if isinstance(data, (Tensor, np.ndarray, tuple, Mapping)) or data is None:
        return True
    if isinstance(data, list) and len(data) > 1 and all(isinstance(x, Tensor) and x.dim() for x in data):
        return len({(x.dtype, x.shape[1:]) for x in data}) > 1  # as loaders yield them: [images, labels]
    return not isinstance(data, Iterable) and not isinstance(data, Dataset)
