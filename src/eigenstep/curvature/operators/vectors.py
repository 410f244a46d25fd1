"""Long vectors: dot products and norms accumulated in float64, whatever the dtype of the entries."""

import torch
from torch import Tensor

CHUNK = 16384  # entries whose products are summed in the vectors' own dtype before float64 takes over


def products(rows: Tensor, vector: Tensor) -> Tensor:
    """Return rows @ vector, (m,) float64 on the CPU, for rows (m, n) and vector (n,).

    A float32 sum over millions of entries is off by some 1e-4; sums over 16384 entries, added in float64, by 1e-7.
    """
    total = torch.zeros(rows.shape[0], dtype=torch.float64, device=vector.device)
    if vector.dtype == torch.float64:
        return (rows @ vector).cpu()
    for a in range(0, vector.numel(), CHUNK):
        total += rows[:, a : a + CHUNK] @ vector[a : a + CHUNK]
    return total.cpu()


def norm(vector: Tensor) -> float:
    """Return the Euclidean norm, accumulated in float64 over stretches of the vector's own dtype."""
    flat = vector.reshape(-1)
    whole = flat.numel() // CHUNK * CHUNK
    parts = torch.linalg.vector_norm(flat[:whole].view(-1, CHUNK), dim=1).to(torch.float64)
    rest = torch.linalg.vector_norm(flat[whole:], dtype=torch.float64)
    return float(torch.hypot(torch.linalg.vector_norm(parts), rest))


def subtract(vector: Tensor, rows: Tensor, coefficients: Tensor) -> Tensor:
    """Return vector - coefficients @ rows, in place on `vector`."""
    return vector.addmv_(rows.T, coefficients.to(vector), alpha=-1)


def rotate(rows: Tensor, mix: Tensor) -> None:
    """Replace the first mix.shape[0] rows by mix @ rows, in place, without a second copy of the rows."""
    kept = mix.shape[0]
    mix = mix.to(rows.device)
    for a in range(0, rows.shape[1], CHUNK):
        block = rows[:, a : a + CHUNK]
        rows[:kept, a : a + CHUNK] = (mix @ block.to(torch.float64)).to(rows.dtype)


def random_unit(size: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """Return a vector drawn evenly from the unit sphere, the same on every device."""
    vector = torch.randn(size, generator=generator, dtype=torch.float64)
    return vector.div_(torch.linalg.vector_norm(vector)).to(like)
