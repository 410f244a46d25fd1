"""The one interface of everything that can be measured, and adapters for what others call an operator."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eigenstep.errors import InvalidValue, Unsupported
from eigenstep.objective.parameters import LINE
from eigenstep.spectrum import Operator as Kind


class Operator(ABC):
    """A symmetric operator: `size`, `dtype`, `device`, and a product with a vector of shape (size,)."""

    size: int
    dtype: torch.dtype
    device: torch.device
    kind: Kind = "hessian"
    surrogate = False  # whether products are known not to be of the loss's own second derivatives
    preconditioner: Mapping[str, Any] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(size, size)."""
        return self.size, self.size

    def matvec(self, vector: Tensor) -> Tensor:
        """Return A @ vector, (size,). Raises InvalidValue for a vector of another shape, or one that is not finite."""
        if vector.shape != (self.size,):
            raise InvalidValue(
                f"{type(self).__name__}: a vector of shape ({self.size},) is needed, not {tuple(vector.shape)}"
            )
        if not bool(vector.isfinite().all()):
            raise InvalidValue(f"{type(self).__name__}: the vector to multiply has entries that are not finite")
        return self.product(vector)

    @abstractmethod
    def product(self, vector: Tensor) -> Tensor:
        """Return A @ vector for a finite vector (size,), which stays as it is."""

    def __matmul__(self, other: Tensor) -> Tensor:
        """Return A @ other for a vector (size,) or columns (size, k)."""
        if other.dim() == 1:
            return self.matvec(other)
        return torch.stack([self.matvec(column) for column in other.T], dim=1)

    def to_scipy(self) -> Any:
        """Return the operator as SciPy's LinearOperator, (size, size), for eigsh, cg and the like.

        Its products are this operator's, in its dtype (float32 for narrower ones); an objective's need its session. A
        complex vector is multiplied part by part.

        >>> as_operator(lambda v: 3 * v, 2).to_scipy() @ np.ones(2)
        array([3., 3.])
        """
        from scipy.sparse.linalg import LinearOperator

        wide = torch.float64 if self.dtype == torch.float64 else torch.float32

        def product(vector: Any) -> Any:
            if np.iscomplexobj(vector):
                return product(vector.real) + 1j * product(vector.imag)
            given = torch.tensor(np.ravel(vector), dtype=self.dtype, device=self.device)
            return self.matvec(given).detach().to("cpu", wide).numpy().copy()

        return LinearOperator(self.shape, matvec=product, rmatvec=product, dtype=str(wide).removeprefix("torch."))

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What a result should say about where its numbers come from."""
        return {}

    def notes(self) -> list[str]:
        """What the reader of a result should know about the products."""
        return []

    def restrict(self, rows: Tensor) -> Tensor:
        """Take vectors of the whole space to the coordinates that the operator acts on."""
        return rows

    def lift(self, rows: Tensor) -> Tensor:
        """Take vectors of the operator back to the whole space."""
        return rows

    def directions(self, rows: Tensor) -> Tensor:
        """Return the unit moves of the parameters that eigenvectors stand for."""
        return rows

    def error(self, vector: Tensor) -> float:
        """Return how far A @ vector may be off because of the method itself; 0 where products are exact."""
        return 0.0


class FunctionOperator(Operator):
    """A function v -> A v, checked at each call for shape and finiteness."""

    def __init__(
        self, function: Callable[[Tensor], Any], size: int, dtype: torch.dtype, device: torch.device, source: str
    ) -> None:
        self.function, self.size, self.dtype, self.device, self.source = function, size, dtype, device, source

    @property
    def provenance(self) -> Mapping[str, Any]:
        """The source's name."""
        return {"source": self.source}

    def product(self, vector: Tensor) -> Tensor:
        """Return the function's value."""
        out = torch.as_tensor(self.function(vector)).detach().to(self.dtype)
        if out.numel() != self.size:
            raise InvalidValue(f"{self.source}: its product has shape {tuple(out.shape)}, ({self.size},) is needed")
        if not bool(out.isfinite().all()):
            raise InvalidValue(f"{self.source}: its product holds nan or infinity for a finite vector")
        return out.reshape(self.size).to(self.device)


def as_operator(
    source: Any, size: int | None = None, *, dtype: torch.dtype | None = None, device: Any = None
) -> Operator:
    """Return an Operator for a dense symmetric matrix, a function with `size`, or another library's operator.

    Accepted: tensors, arrays and nested lists (n, n); SciPy LinearOperators and sparse matrices; objects with `shape`
    or `size` and a product (`matvec` or `@`) on torch vectors, as curvlinops' and hessian-eigenthings'; callables, with
    `size` given. Products run in the source's dtype, float64 where it names none.

    Raises InvalidValue for a matrix that is not square, finite and symmetric, and Unsupported for anything else.

    >>> as_operator(lambda v: 3 * v, 4).shape
    (4, 4)
    """
    if isinstance(source, Operator):
        return source
    if isinstance(source, torch.nn.Module):
        raise Unsupported(f"a model has no curvature without its loss and data: measure an es.{LINE}")
    name = f"operator {type(source).__name__}"
    if isinstance(source, (Tensor, np.ndarray, list, tuple)):
        matrix = _symmetric(source, dtype)
        matrix = matrix if device is None else matrix.to(device)
        return FunctionOperator(matrix.mv, matrix.shape[0], matrix.dtype, matrix.device, "dense matrix")
    given = getattr(source, "shape", None)
    length = _length(name, given, getattr(source, "size", None), size)
    named = getattr(source, "dtype", None)
    where = torch.device(device if device is not None else getattr(source, "device", None) or "cpu")
    multiply: Callable[[Tensor], Any]
    if type(source).__module__.startswith("scipy.") or isinstance(named, np.dtype):
        kind = dtype or (torch.float32 if named == np.float32 else torch.float64)

        def multiply(v: Tensor) -> Any:
            return np.asarray(source @ v.cpu().numpy())

    else:
        kind = dtype or (named if isinstance(named, torch.dtype) else torch.float64)
        if hasattr(source, "matvec"):
            multiply = source.matvec
        elif hasattr(source, "__matmul__"):
            multiply = source.__matmul__
        elif callable(source):
            multiply = source
        else:
            raise Unsupported(
                f"{name}: it has no product; give an object with `matvec` or `@`, or a function and size="
            )
    return FunctionOperator(multiply, length, kind, where, name)


def _length(name: str, shape: Any, own: Any, given: int | None) -> int:
    """The operator's dimension, from its shape, its size, or the argument."""
    found = given
    if shape is not None:
        if len(shape) != 2 or shape[0] != shape[1]:
            raise InvalidValue(f"{name}: its shape is {tuple(shape)}; a square, symmetric operator is needed")
        found = int(shape[0])
    elif found is None and isinstance(own, int):
        found = own
    if found is None:
        raise Unsupported(f"{name}: its dimension is not known; give size=, or an object with `shape`")
    if found < 1 or (given is not None and given != found):
        raise InvalidValue(f"{name}: size={given} does not fit its dimension {found}; it must be at least 1")
    return found


def _symmetric(source: Any, dtype: torch.dtype | None) -> Tensor:
    """The source as a floating-point matrix; InvalidValue unless square, finite and symmetric to rounding."""
    matrix = torch.as_tensor(source).detach()
    matrix = matrix.to(dtype or (matrix.dtype if matrix.is_floating_point() else torch.float64))
    if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1] or matrix.numel() == 0:
        raise InvalidValue(f"dense matrix: its shape is {tuple(matrix.shape)}; a square, symmetric one is needed")
    if not bool(matrix.isfinite().all()):
        raise InvalidValue("dense matrix: it has entries that are not finite")
    skew, size = float((matrix - matrix.T).abs().max()), float(matrix.abs().max())
    if skew > 100 * torch.finfo(matrix.dtype).eps * size * matrix.shape[0] ** 0.5:
        raise InvalidValue(
            f"dense matrix: it is not symmetric (largest difference to its transpose {skew:.3g}); "
            "symmetrise with (A + A.T) / 2 if the rest is rounding"
        )
    return matrix
