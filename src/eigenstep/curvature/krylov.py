"""A growing orthonormal basis with everything that one product per vector tells: A V = V T + Q S."""

from dataclasses import dataclass

import torch
from torch import Tensor

from eigenstep.curvature.operators import vectors as vec
from eigenstep.curvature.operators.operator import Operator

LOCAL = 4  # terms of a short recurrence, taken off beforehand
ENOUGH = 0.5  # of a vector left by a pass: then rounding in what was taken off cannot spoil the rest (Parlett)
NOISE_FLOOR = 8.0  # rounding of one orthogonalised product, in units of the dtype's epsilon times ||A||


@dataclass(frozen=True)
class Ritz:
    """Ritz values in rising order, their residual norms, and the mixing matrix whose columns give the Ritz vectors."""

    values: Tensor  # (m,) float64
    residuals: Tensor  # (m,) float64, what rounding and noise add included
    mix: Tensor  # (m, m) float64


class Krylov:
    """Expanded vectors V (m, n), whose products are known, and pending ones Q on which all residuals lie.

    With S (p, m) the residual of a Ritz pair (theta, V' y) is Q' (S y), of norm |S y|: no product is spent on it. The
    one chain of Lanczos has a single pending vector; a warm start or a fresh start adds one. Every new vector is
    freed of the terms of its recurrence, then of all others, and once more where little is left (Parlett's 'twice is
    enough'), in the operator's dtype with float64 sums.
    What the product of a pending vector should give along V is known beforehand (S): the difference is the
    operator's own noise or asymmetry, and is added to every residual.
    """

    def __init__(self, operator: Operator, capacity: int, generator: torch.Generator) -> None:
        self.operator, self.capacity, self.generator = operator, capacity, generator
        like = torch.empty(0, dtype=operator.dtype, device=operator.device)
        self.rows = torch.empty(capacity, operator.size, dtype=operator.dtype, device=operator.device)
        self.like = like
        self.pending: list[Tensor] = []
        self.T = torch.zeros(0, 0, dtype=torch.float64)
        self.S = torch.zeros(0, 0, dtype=torch.float64)
        self.mismatch = 0.0  # sum of squares of what V' A q showed beyond what symmetry says
        self.scale = 0.0  # the largest |Ritz value| or product norm seen: a lower bound of ||A||
        self.products = 0

    @property
    def m(self) -> int:
        """Number of expanded vectors."""
        return self.T.shape[0]

    @property
    def full(self) -> bool:
        """Whether the next vector needs a restart first."""
        return self.m >= self.capacity

    @property
    def complete(self) -> bool:
        """Whether the basis spans the whole space."""
        return self.m >= self.operator.size

    @property
    def noise(self) -> float:
        """What rounding and the operator's own noise may add to a residual."""
        epsilon = torch.finfo(self.operator.dtype).eps
        return float(self.mismatch**0.5 + NOISE_FLOOR * epsilon * self.scale)

    def add(self, vector: Tensor | None = None) -> bool:
        """Put a start vector, or a fresh random one, first among the pending; False if it lies in the span."""
        random = vector is None
        if vector is None:
            if self.m + len(self.pending) >= self.operator.size:
                return False
            vector = vec.random_unit(self.operator.size, self.generator, self.like)
        vector = vector.to(self.like).clone()
        length = vec.norm(vector)
        left = self._orthogonalise(vector, self.rows[: self.m], self.pending)[1]
        if not left > (1e-10 if random else 1e-4) * length:
            return False
        self.pending.insert(0, vector / left)
        self.S = torch.cat([torch.zeros(1, self.m, dtype=torch.float64), self.S])
        return True

    def product(self, index: int) -> Tensor:
        """Return A q for a pending vector; nothing is changed."""
        return self.operator.matvec(self.pending[index]).clone()

    def expand(self, index: int, w: Tensor) -> None:
        """Take w = A q in: the pending vector q joins V, what is left of w becomes pending.

        Everything is worked out before anything is changed: an interrupt leaves the basis as it was.
        """
        q, expected, m = self.pending[index], self.S[index], self.m
        length = vec.norm(w)
        scale = max(self.scale, length)
        self.rows[m] = q  # beyond what counts as V, until the end
        others = [p for i, p in enumerate(self.pending) if i != index]
        known = expected.nonzero()[:, 0]
        if len(known) <= LOCAL:  # the terms of the recurrence first, then one pass takes all the rest
            vec.subtract(w, self.rows[known], expected[known])
            alpha = vec.products(q[None], w)
            vec.subtract(w, q[None], alpha)
            first = torch.cat([expected, alpha])
        else:
            first = torch.zeros(m + 1, dtype=torch.float64)
        (along, across), left = self._orthogonalise(w, self.rows[: m + 1], others)
        along += first
        grown = torch.zeros(m + 1, m + 1, dtype=torch.float64)
        grown[:m, :m], grown[m, :m], grown[:m, m], grown[m, m] = self.T, expected, expected, along[m]
        rest = torch.cat([self.S[:index], self.S[index + 1 :]])
        below = torch.cat([rest, across[:, None]], dim=1)
        if left > 4 * torch.finfo(self.operator.dtype).eps * max(length, scale):
            others.insert(index, w.div_(left))
            row = torch.zeros(1, m + 1, dtype=torch.float64)
            row[0, m] = left
            below = torch.cat([below[:index], row, below[index:]])
        mismatch = self.mismatch + float((along[:m] - expected).square().sum())
        self.products, self.scale, self.mismatch = self.products + 1, scale, mismatch
        self.T, self.S, self.pending = grown, below, others

    def ritz(self) -> Ritz:
        """Return the Ritz values of V and their residuals; without a product."""
        values, mix = torch.linalg.eigh(self.T)
        self.scale = max(self.scale, float(values.abs().max()))
        residuals = (self.S @ mix).norm(dim=0) + self.noise
        return Ritz(values, residuals, mix)

    def restart(self, mix: Tensor) -> None:
        """Keep only the Ritz vectors in the columns of `mix` (m, kept): a thick restart (Wu and Simon 2000)."""
        vec.rotate(self.rows[: self.m], mix.T)
        self.T = mix.T @ self.T @ mix
        self.T = torch.diag(self.T.diagonal())
        self.S = self.S @ mix

    def vectors(self, mix: Tensor) -> Tensor:
        """Return the vectors mix' V, (k, n), of unit length."""
        out = torch.empty(mix.shape[1], self.operator.size, dtype=self.operator.dtype, device=self.operator.device)
        mix = mix.T.to(self.rows.device)
        for a in range(0, self.operator.size, vec.CHUNK):
            block = self.rows[: self.m, a : a + vec.CHUNK].to(torch.float64)
            out[:, a : a + vec.CHUNK] = (mix @ block).to(out.dtype)
        return out

    def _orthogonalise(self, vector: Tensor, rows: Tensor, others: list[Tensor]) -> tuple[tuple[Tensor, Tensor], float]:
        """Take the rows and the others off `vector`, in place; return its coefficients along them and the norm left.

        A pass that leaves less than half of the vector is followed by a second one: twice is enough.
        """
        along = torch.zeros(len(rows), dtype=torch.float64)
        across = torch.zeros(len(others), dtype=torch.float64)
        before = vec.norm(vector)
        for _ in range(2):
            if len(rows):
                c = vec.products(rows, vector)
                vec.subtract(vector, rows, c)
                along += c
            for i, q in enumerate(others):
                d = vec.products(q[None], vector)
                vector.add_(q, alpha=-float(d))
                across[i] += float(d)
            left = vec.norm(vector)
            if left > ENOUGH * before:
                break
        return (along, across), left
