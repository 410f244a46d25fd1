"""One batch: its tensors, its samples, its fingerprint, a part of it."""

import copy
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


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


def part(batch: Any, rows: slice) -> Any:
    """Some of a batch's samples. Raises TypeError or IndexError for what cannot be cut."""
    if isinstance(batch, (Tensor, np.ndarray)):
        return batch[rows]
    if isinstance(batch, Mapping):
        shorter: Any = copy.copy(batch)
        for key in batch:
            shorter[key] = part(batch[key], rows)
        return shorter
    if isinstance(batch, (list, tuple)) and not any(isinstance(value, str) for value in batch):
        values = [part(value, rows) for value in batch]
        return type(batch)(*values) if hasattr(batch, "_fields") else type(batch)(values)
    if batch is None or isinstance(batch, (bool, str)):
        return batch
    raise TypeError(f"a {type(batch).__name__} cannot be cut into parts")
