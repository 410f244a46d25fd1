"""`Stream`: the user's mini-batches, read once and kept for all runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Number
from typing import Any

from eigenstep.errors import InvalidValue
from eigenstep.objective import restore, world
from eigenstep.objective.data.batch import fingerprint
from eigenstep.objective.data.batches import is_one_batch
from eigenstep.objective.data.loader import refuse_one_shot, same_hidden_state
from eigenstep.objective.data.stream import readable, stated_length


def refuse_batches(named: str, data: Any) -> None:
    """Raise InvalidValue, under its name, for what yields no batches, or only once."""
    if isinstance(data, (str, bytes, Number)) or data is None:
        raise InvalidValue(
            f"{named} is {type(data).__name__}, which yields no batches; give a loader or list of mini-batches"
        )
    source = readable(data, named)
    if stated_length(source) == 0:
        raise InvalidValue(f"{named} has no batches; give a loader or list of mini-batches with some")
    if not is_one_batch(source):
        refuse_one_shot(source, named)


class Stream:
    """The user's mini-batches, the first as first, read lazily and kept for all runs; epochs follow each other.

    Within `open`, reading moves the loader's generators, which are put back at its end.
    """

    def __init__(self, what: str, train: Any, memory: float, seed: int) -> None:
        self.named, self.memory, self.seed = f"{what}: train", memory, seed  # as the user gave it
        self.kept: list[Any] = []
        self.full, self._held = False, 0.0
        self._iterator: Iterator[Any] | None = None
        self.source = readable(train, self.named)
        self.one = is_one_batch(self.source)
        if not self.one:
            refuse_one_shot(self.source, self.named)

    @contextmanager
    def open(self) -> Iterator[None]:
        """What to enter around all reading."""
        if self.one or isinstance(self.source, (list, tuple)):
            yield
            return
        with same_hidden_state(self.source, [], self.named):
            try:
                yield
            finally:
                self._iterator = None

    def __getitem__(self, number: int) -> Any:
        """Mini-batch `number` of the training that is rehearsed."""
        while number >= len(self.kept) and not self.full:
            self._read()
        return self.kept[number % len(self.kept)]

    def _read(self) -> None:
        if self.one:
            self.kept, self.full = [self.source], True
            return
        restore.seed_all(self.seed + len(self.kept))
        for _ in range(2):
            if self._iterator is None:
                self._iterator = iter(world.as_caller(self.source))
            try:
                batch = next(self._iterator)
            except StopIteration:
                self._iterator = None
                continue
            if not isinstance(self.source, (list, tuple)):
                self._held += fingerprint(batch)[1]
            self.kept.append(batch)
            self.full = self._held > self.memory
            return
        raise InvalidValue(f"{self.named} has no batches; give a loader or list of mini-batches with some")
