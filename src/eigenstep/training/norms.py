"""The numbers of every update: its loss; norms of gradient and update, exact, by one copy of the weights in pieces."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from eigenstep.errors import InvalidValue

PIECE = 1 << 18  # entries worked on at a time: 1 MB of float32, half of a core's L2 cache on today's machines


class Norms:
    """Norms over an optimizer's parameters: `before` an update keeps their values, `after` it compares.

    One copy of the weights is held. Each norm is the root of float32 dot products (float64 for float64 parameters)
    over pieces of at most PIECE entries, added in float64: good to about 1e-5. `weights` are the values kept.

    >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    >>> norms = Norms([w])
    >>> norms.before()
    >>> w.data.zero_()
    tensor([0., 0.])
    >>> norms.after()
    (None, 5.0)
    """

    def __init__(self, params: Iterable[Tensor]) -> None:
        self.params = tuple(params)
        self._pieces = list(_pieces(self.params))
        self._kept: list[list[Tensor]] = []
        self._work: dict[tuple[torch.dtype, torch.device], Tensor] = {}
        self._places: list[tuple[Tensor, list[Tensor]]] = []
        self._flat: list[Tensor] = []

    @property
    def weights(self) -> dict[int, Tensor]:
        """The values that `before` kept, by id of the parameter."""
        if not self._kept:
            return {}
        pairs = zip(self._pieces, self._kept, strict=True)
        return {id(p): k for piece, kept in pairs for p, k in zip(piece, kept, strict=True)}

    def before(self) -> None:
        """Keep the parameters' values."""
        if not self._kept:
            self._reserve()
        with torch.no_grad():
            for piece, kept in zip(self._pieces, self._kept, strict=True):
                torch._foreach_copy_(kept, piece)

    def after(self) -> tuple[float | None, float | None]:
        """Return the norms of the gradients (None if there is none) and of the change since `before` (None without)."""
        change, gradient, some = 0.0, 0.0, False
        if not self._places:
            self._reserve_work()
        with torch.no_grad():
            for i, piece in enumerate(self._pieces):
                flat, places = self._places[i]
                if self._kept:
                    torch._foreach_copy_(places, piece)
                    change += _square(torch.sub(flat, self._flat[i], out=flat))
                present = [g for g in [p.grad for p in piece] if g is not None]
                some = some or bool(present)
                if len(present) == len(piece) and not any(g.is_sparse for g in present):
                    torch._foreach_copy_(places, present)
                    gradient += _square(flat)
                    continue
                for g in present:
                    dense = g.coalesce().values() if g.is_sparse else g
                    gradient += _square(dense.to(flat.dtype).reshape(-1))
        return (math.sqrt(gradient) if some else None), (math.sqrt(change) if self._kept else None)

    def _reserve(self) -> None:
        for piece in self._pieces:
            flat = torch.empty(_size(piece), dtype=_dtype(piece), device=piece[0].device)
            self._flat.append(flat)
            self._kept.append(_shaped(flat, piece))

    def _reserve_work(self) -> None:
        """One work space a dtype and device, the size of its largest piece, and each piece's places in it."""
        for piece in self._pieces:
            key = _dtype(piece), piece[0].device
            if key not in self._work:
                most = max(_size(other) for other in self._pieces if (_dtype(other), other[0].device) == key)
                self._work[key] = torch.empty(most, dtype=key[0], device=key[1])
            flat = self._work[key][: _size(piece)]
            self._places.append((flat, _shaped(flat, piece)))


def _pieces(params: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Cut the parameters into runs of one dtype and device with at most PIECE entries; a larger one stands alone."""
    run: list[Tensor] = []
    for p in params:
        if run and (_size(run) + p.numel() > PIECE or (p.dtype, p.device) != (run[0].dtype, run[0].device)):
            yield run
            run = []
        run.append(p)
    if run:
        yield run


def _square(flat: Tensor) -> float:
    """The sum of squares; where that overflows, by a scaled norm."""
    square = float(torch.dot(flat, flat))
    return square if math.isfinite(square) else _squared(float(torch.linalg.vector_norm(flat, dtype=torch.float64)))


def _squared(norm: float) -> float:
    return norm * norm


def _size(piece: Sequence[Tensor]) -> int:
    return sum(p.numel() for p in piece)


def _dtype(piece: Sequence[Tensor]) -> torch.dtype:
    return torch.promote_types(piece[0].dtype, torch.float32)


def _shaped(flat: Tensor, piece: Sequence[Tensor]) -> list[Tensor]:
    parts = torch.split(flat, [p.numel() for p in piece])
    return [part.view(p.shape) for part, p in zip(parts, piece, strict=True)]


def loss_number(loss: Any) -> float:
    """Return a loss as a number. Raises InvalidValue for anything but a number, or a tensor that holds one."""
    try:
        if isinstance(loss, (str, bytes)):
            raise TypeError(f"it is {loss!r:.40}")
        return float(loss.detach() if isinstance(loss, Tensor) else loss)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        shape = f" of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else ""
        raise InvalidValue(
            f"Monitor.step: loss must be a number, or a tensor that holds one, not a {type(loss).__name__}{shape}; "
            "give the value whose backward() was called"
        ) from error
