"""The data of an objective: the same batches at every pass, weighted by their samples, no generator consumed."""

import copy
import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from eigenstep.curvature.keep import same_random_state, seed_all
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
        self.one = is_one_batch(data)
        if not self.one:
            refuse_one_shot(data)

    def read(self) -> None:
        """Go through the data once: count, fingerprint, keep what fits."""
        if self.counts:
            return
        kept: list[Any] | None = []
        counts, digests, held = [], [], 0.0
        for i, batch in enumerate(self._pass()):
            digest, size = fingerprint(batch)
            counts.append(self._count(i, batch))
            digests.append(digest)
            held += 0 if isinstance(self.source, (list, tuple)) or self.one else size
            if kept is not None:
                kept.append(batch)
                kept = kept if held <= self.budget else None
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

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches, the same ones at every pass. Raises InvalidValue when a loader's set has changed."""
        self.read()
        if self.kept is not None:
            yield from self.kept
            return
        number = -1
        for number, batch in enumerate(self._pass()):
            if number >= len(self.digests) or fingerprint(batch)[0] != self.digests[number]:
                raise InvalidValue(
                    f"Objective: batch {number} differs from the one of the first pass; the data must be the same at "
                    "every pass: pass a list of batches, or a loader without state of its own"
                )
            yield batch
        if number + 1 != len(self.digests):
            raise InvalidValue(f"Objective: a later pass had {number + 1} batches, the first {len(self.digests)}")

    @property
    def digest(self) -> str:
        """A fingerprint of the set of batches, whatever their order."""
        return hashlib.sha256("".join(sorted(self.digests)).encode()).hexdigest()[:16]

    def _pass(self) -> Iterator[Any]:
        if self.one:
            yield self.source
            return
        if isinstance(self.source, (list, tuple)):
            yield from self.source
            return
        with same_random_state(), same_hidden_state(self.source):
            seed_all(0)
            for name, generator in generators(self.source):
                del name
                if isinstance(generator, torch.Generator):
                    generator.manual_seed(0)
            yield from self.source

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


def is_one_batch(data: Any) -> bool:
    """Whether `data` is one batch: a tensor, tuple or mapping; a list of tensors that differ in kind; no iterable."""
    if isinstance(data, (Tensor, np.ndarray, tuple, Mapping)) or data is None:
        return True
    if isinstance(data, list) and len(data) > 1 and all(isinstance(x, Tensor) and x.dim() for x in data):
        return len({(x.dtype, x.shape[1:]) for x in data}) > 1  # as loaders yield them: [images, labels]
    return not isinstance(data, Iterable) and not isinstance(data, Dataset)


def refuse_one_shot(data: Any) -> None:
    """Raise for data that can be gone through only once, or whose samplers hide a live iterator."""
    if isinstance(data, Iterator):
        raise InvalidValue(
            f"Objective: data is a {type(data).__name__}, which can be read only once; pass the loader or list "
            "itself, or list(...) of a few batches"
        )
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        raise InvalidValue(
            f"Objective: data is a {type(data).__name__} of single samples; wrap it: DataLoader(dataset, "
            "batch_size=...)"
        )
    if isinstance(data, DataLoader) and data._iterator is not None:
        raise InvalidValue(
            "Objective: data is a DataLoader with persistent workers and a live iterator, which reading would reset; "
            "pass list(...) of a few batches, or a second loader"
        )
    for name, holder in holders(data):
        for key, value in attributes(holder).items():
            if isinstance(value, Iterator):
                raise InvalidValue(
                    f"Objective: {name} keeps a live {type(value).__name__} in .{key}, which reading would advance; "
                    "pass list(...) of a few batches"
                )


def holders(data: Any) -> list[tuple[str, Any]]:
    """The parts of a loader that may carry state: itself, its samplers, its dataset."""
    found = [(f"data ({type(data).__name__})", data)]
    if isinstance(data, DataLoader):
        parts = {"sampler": data.sampler, "batch_sampler": data.batch_sampler, "dataset": data.dataset}
        inner = getattr(data.batch_sampler, "sampler", None)
        parts["batch_sampler.sampler"] = inner if inner is not data.sampler else None
        found += [(f"the loader's {n} ({type(p).__name__})", p) for n, p in parts.items() if p is not None]
    return found


def attributes(holder: Any) -> dict[str, Any]:
    """The instance attributes of a part of a loader."""
    return dict(vars(holder)) if hasattr(holder, "__dict__") else {}


def generators(data: Any) -> list[tuple[str, Any]]:
    """Every random generator that a loader, its samplers or its dataset own."""
    kinds = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
    return [
        (f"{name}.{key}", value)
        for name, holder in holders(data)
        for key, value in attributes(holder).items()
        if isinstance(value, kinds)
    ]


@contextmanager
def same_hidden_state(data: Any) -> Iterator[None]:
    """Put the generators and plain attributes of a loader's parts back as they were.

    Raises Unsupported afterwards if a part changed something else, which cannot be put back.
    """
    random_states = [(g, _get_state(g)) for _, g in generators(data)]
    parts = [(name, holder, attributes(holder)) for name, holder in holders(data)]
    plain = [(h, {k: v for k, v in a.items() if isinstance(v, (int, float, str, type(None)))}) for _, h, a in parts]
    lists = [(n, k, v, copy.copy(v)) for n, _, a in parts for k, v in a.items() if _small_list(v)]
    try:
        yield
    finally:
        for generator, state in random_states:
            _set_state(generator, state)
        for holder, saved in plain:
            for key, value in saved.items():
                if vars(holder).get(key) is not value:
                    holder.__dict__[key] = value
        if isinstance(data, DataLoader) and data._iterator is not None:
            data._iterator = None
    for name, key, value, before in lists:
        if value != before:
            raise Unsupported(f"Objective: {name} changes its .{key} when it is read; pass list(...) of a few batches")


def _small_list(value: Any) -> bool:
    return isinstance(value, (list, dict, set)) and len(value) < 1000 and not _holds_arrays(value)


def _holds_arrays(value: Any) -> bool:
    items = value.values() if isinstance(value, dict) else value
    return not all(isinstance(v, (int, float, str, bytes, type(None))) for v in items)


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
