"""The data of an objective: the same batches at every pass, weighted by their samples, no generator consumed."""

import copy
import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from eigenstep.curvature.keep import random_state, same_random_state, seed_all, set_random_state
from eigenstep.curvature.loader import refuse_one_shot, same_hidden_state, seed_own
from eigenstep.errors import InvalidValue, Unsupported

BatchSize = int | Sequence[int] | Callable[[Any], int] | None


class Batches:
    """The batches of `data`, read once and kept if they fit into `budget` bytes, read anew at every pass if not.

    Every pass over a loader begins from the same random state, so that shuffling and augmentation are the same each
    time; the user's generators are put back.
    """

    def __init__(self, data: Any, batch_size: BatchSize, budget: float) -> None:
        self.source, self.batch_size, self.budget = data, batch_size, budget
        self.kept: list[Any] | None = None
        self.counts: list[int] = []
        self.digests: list[str] = []
        self._passes: list[Generator[tuple[int, Any], None, None]] = []
        self._changed: list[str] = []  # what the source's parts did to themselves while read
        self.one = is_one_batch(data)
        if not self.one:
            refuse_one_shot(data)

    def read(self) -> None:
        """Go through the data: count, fingerprint, keep what fits. A loader is read twice, to see that it repeats."""
        if self.counts:
            return
        kept: list[Any] | None = []
        counts: list[int] = []
        digests: list[str] = []
        held, again = 0.0, 0
        try:
            for turn, batch in self._pass(times=2):
                if turn == 1:
                    refuse_change_of_data(again, batch, digests)
                    again += 1
                    continue
                digest, size = fingerprint(batch)
                counts.append(self._count(len(counts), batch))
                digests.append(digest)
                held += 0 if self._at_hand else size
                if kept is not None:
                    kept.append(batch)
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
        if len(counts) > 1 and min(counts) < 1:
            raise InvalidValue(
                "Objective: the number of samples in a batch could not be found (no tensor with a common first "
                "dimension); "
                "give batch_size= as a number, a list with one entry a batch, or a function of the batch"
            )
        if isinstance(self.batch_size, Sequence) and len(self.batch_size) != len(counts):
            raise InvalidValue(f"Objective: batch_size has {len(self.batch_size)} entries for {len(counts)} batches")
        self.kept, self.counts, self.digests = kept, counts, digests

    def close(self) -> None:
        """End passes that an error left in the middle, so that what they hold is put back now and not later."""
        while self._passes:
            self._passes.pop().close()

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches, the same ones at every pass. Raises InvalidValue when a loader's set has changed."""
        self.read()
        if self.kept is not None:
            yield from self.kept
            return
        number = -1
        for number, (_, batch) in enumerate(self._pass()):
            refuse_change_of_data(number, batch, self.digests)
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

    def _run(self, times: int) -> Generator[tuple[int, Any], None, None]:
        if self._at_hand:
            yield from ((0, batch) for batch in ([self.source] if self.one else self.source))
            return
        with same_random_state(), same_hidden_state(self.source, self._changed):
            for turn in range(times):
                seed_all(0)
                seed_own(self.source)
                for batch in self.source:
                    state = random_state()  # what the loss draws in between must not change the next batches
                    yield turn, batch
                    set_random_state(state)

    def _count(self, i: int, batch: Any) -> int:
        if self.batch_size is None:
            return samples(batch)
        if callable(self.batch_size):
            count = self.batch_size(batch)
        elif isinstance(self.batch_size, Sequence):
            count = self.batch_size[i] if i < len(self.batch_size) else 0
        else:
            count = self.batch_size
        if isinstance(count, bool) or int(count) != count or count < 1:
            raise InvalidValue(
                f"Objective: batch_size gives {count!r} for batch {i}; a whole number of at least 1 is needed"
            )
        return int(count)


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


def leaves(batch: Any) -> Iterator[Any]:
    """Yield the tensors and arrays in a batch of nested lists, tuples and mappings."""
    if isinstance(batch, (Tensor, np.ndarray)):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from leaves(value)
    elif isinstance(batch, (list, tuple)):
        for value in batch:
            yield from leaves(value)
    elif hasattr(batch, "__dict__"):
        for value in vars(batch).values():
            if isinstance(value, (Tensor, np.ndarray)):
                yield value


def loose(batch: Any) -> Any:
    """Return the batch with its containers copied, not its tensors: a loss may pop a key from its batch."""
    if isinstance(batch, Mapping):
        return copy.copy(batch)
    return list(batch) if type(batch) is list else batch


def samples(batch: Any) -> int:
    """Return the common first dimension of the batch's tensors; 0 where there is none."""
    lengths = {int(leaf.shape[0]) for leaf in leaves(batch) if len(leaf.shape)}
    return lengths.pop() if len(lengths) == 1 else 0


def fingerprint(batch: Any) -> tuple[str, int]:
    """Return a hash of the tensors in a batch and their size in bytes."""
    digest, size = hashlib.sha256(), 0
    for leaf in leaves(batch):
        digest.update(f"{leaf.dtype}{tuple(leaf.shape)}".encode())
        if isinstance(leaf, Tensor):
            plain = leaf.detach().cpu().contiguous()
            size += plain.numel() * plain.element_size()
            digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
        elif leaf.dtype != object:
            size += leaf.nbytes
            digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest(), size
