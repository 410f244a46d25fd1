"""The spectral density by stochastic Lanczos quadrature, and the trace with a confidence interval (XTrace)."""

import html
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from eigenstep import draw
from eigenstep.curvature import vectors as vec
from eigenstep.curvature.krylov import Krylov
from eigenstep.curvature.measure import measured_by, notes_of, operator_of, working
from eigenstep.curvature.memory import free_bytes, refuse_if_too_much
from eigenstep.curvature.operators import Operator, Told
from eigenstep.curvature.report import WHAT
from eigenstep.errors import InvalidValue
from eigenstep.files import wrong_field
from eigenstep.progress import PRODUCT, Watch, task
from eigenstep.spectrum import Spectrum


@dataclass(frozen=True, eq=False, repr=False)
class Density(Spectrum):
    """Nodes and weights of quadrature for the density of eigenvalues: the share of them near each node.

    values: nodes, largest first; weights: sum 1; probe: (n_nodes,) which probe vector each came from; saved with them.
    """

    probe: Tensor | None = None

    @cached_property
    def as_dict(self) -> dict[str, Any]:
        """The density as plain data, for the file envelope."""
        return {**super().as_dict, "probe": None if self.probe is None else self.probe.tolist()}

    @classmethod
    def _own(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        """The probes of a file's nodes; a file without them is a density of unknown error."""
        probe, nodes = content.get("probe"), len(content["values"])
        if probe is None:
            return {}
        if wrong := wrong_field({"probe": probe}, {"probe": [int]}):
            raise InvalidValue(wrong)
        if len(probe) != nodes or not all(0 <= number < nodes for number in probe):
            raise InvalidValue(f"'probe' must be {nodes} numbers of probes, counted from 0")
        return {"probe": torch.tensor(probe)}

    def mean(self, of: Any) -> tuple[float, float]:
        """Return the mean of f(eigenvalue) over the spectrum, tr f(A) / n, and its standard error over the probes.

        `of` maps a tensor of nodes to a tensor. The error is nan with a single probe, or where probes are not known.
        """
        assert self.weights is not None  # filled in by Spectrum
        probe = torch.zeros(len(self), dtype=torch.int64) if self.probe is None else self.probe
        number = int(probe.max()) + 1
        terms = self.weights * of(self.values).to(torch.float64) * number
        each = torch.zeros(number, dtype=torch.float64).index_add_(0, probe, terms)
        error = float(each.std()) / math.sqrt(number) if number > 1 else math.nan
        return float(each.mean()), error

    def mass_below(self, x: float = 0.0) -> tuple[float, float]:
        """Return the share of eigenvalues below x, and its standard error over the probes."""
        return self.mean(lambda values: values < x)

    def smooth(self, grid: Tensor, width: float) -> Tensor:
        """Return the density on a grid as a view: each node a Gaussian of the given width, blurring what is finer."""
        if not width > 0:
            raise InvalidValue(f"Density.smooth: width={width} must be positive")
        assert self.weights is not None  # filled in by Spectrum
        z = (grid.to(torch.float64)[:, None] - self.values) / width
        return (torch.exp(-0.5 * z * z) / (width * math.sqrt(2 * math.pi))) @ self.weights

    def plot(self, ax: Any = None, width: float | None = None, top: Spectrum | None = None) -> Any:
        """Draw the nodes as stems on a log axis; return the axes.

        width: also the smoothed view, Gaussians of that width. top: a measurement whose eigenvalues are marked.
        """
        ax = draw.panels()[1][0] if ax is None else ax
        assert self.weights is not None  # filled in by Spectrum
        low, high = float(self.values.min()), float(self.values.max())
        floor = max(float(self.weights[self.weights > 0].min()), 1e-9) / 2
        ax.vlines(self.values.tolist(), floor, self.weights.tolist(), color=draw.BLUE, linewidth=0.8, alpha=0.6)
        if width is not None:
            grid = torch.linspace(low - 3 * width, high + 3 * width, 1000, dtype=torch.float64)
            draw.curve(
                self.smooth(grid, width) * width, grid, ax, color=draw.ORANGE, label=f"smoothed, width {width:g}"
            )
        if top is not None:
            places = top.values.tolist()
            ax.plot(places, [1.0] * len(places), "v", color=draw.VERMILION, markersize=4, label="measured eigenvalues")
            ax.vlines(places, floor, 1.0, color=draw.VERMILION, linewidth=0.7, linestyles=(0, (1, 1.5)))
        if top is not None or width is not None:
            draw.legend(ax, "above")
        draw.describe(ax, f"eigenvalue of the {WHAT[self.operator]}", "share of eigenvalues", log="y")
        ax.set_ylim(floor, 2.0)
        return ax

    def _repr_html_(self) -> str:
        """The sentence, for a notebook."""
        return f"<p>{html.escape(repr(self))}</p>"

    def __repr__(self) -> str:
        """A sentence."""
        below, error = self.mass_below(0.0)
        p = self.provenance
        return "\nnote: ".join(
            [
                f"Density of the {WHAT[self.operator]}, n = {self.dimension}: {p.get('probes', '?')} probes of "
                f"{p.get('steps', '?')} steps, nodes from {float(self.values.min()):.4g} to "
                f"{float(self.values.max()):.4g}, share below zero {below:.3g} ± {error:.2g}",
                *p.get("notes", ()),
            ]
        )


@dataclass(frozen=True)
class Trace:
    """A trace with a confidence interval [low, high] at `level`; `error` is the standard error."""

    value: float
    error: float
    low: float
    high: float
    level: float
    products: int
    seconds: float
    notes: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        """A sentence, for a notebook."""
        return f"<p>trace {self.value:.6g}, {self.level:.0%} interval {self.low:.6g} to {self.high:.6g}</p>"


def density(
    source: Any,
    probes: int = 8,
    steps: int = 30,
    *,
    seed: int = 0,
    optimizer: torch.optim.Optimizer | None = None,
    progress: Watch | bool | None = None,
) -> Density:
    """Return the spectral density of an Objective's Hessian, or any operator, as nodes and weights.

    Each probe is a random unit vector; `steps` Lanczos products from it give Gauss quadrature, exact for polynomials of
    degree 2 steps - 1 in the density that the probe sees. Mean over probes: tr f(A) / n = sum w f(node) for random
    signs. bounds: the residual norms of the nodes. With `optimizer`, of the preconditioned operator, as `measure`.

    Ctrl-C returns the probes that are finished, flagged as not converged. progress: as for `measure`.
    Raises InvalidValue for fewer than one probe or step. Source: Ghorbani, Krishnan, Xiao 2019 (arXiv 1901.10159).

    >>> result = density(torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)), probes=4, steps=3)
    >>> round(float(result.weights.sum()), 9), result.covers
    (1.0, 'density')
    """
    if probes < 1 or steps < 1:
        raise InvalidValue(f"density: probes={probes} and steps={steps} must be at least 1")
    began = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    nodes: list[Tensor] = []
    weights: list[Tensor] = []
    bounds: list[Tensor] = []
    which: list[Tensor] = []
    products = 0
    with task("density", progress, "samples= on Objective, fewer probes= or steps=") as work, working(source):
        work.plan(PRODUCT * probes * steps, f"{probes * steps} products")
        operator = operator_of(source, optimizer=optimizer)
        steps = min(steps, operator.size)
        for probe in range(probes):
            krylov = Krylov(operator, steps, generator)
            krylov.add()
            try:
                while krylov.m < steps and krylov.pending:
                    krylov.expand(0, krylov.product(0))
                    work.tell(phase=f"probe {probe + 1} of {probes}", products=products + krylov.products)
            except KeyboardInterrupt:
                if not nodes:
                    raise
                break
            ritz = krylov.ritz()
            nodes.append(ritz.values)
            weights.append(ritz.mix[0].square())
            bounds.append(ritz.residuals)
            which.append(torch.full((krylov.m,), probe))
            products += krylov.products
        values = torch.cat(nodes)
        order = values.argsort(descending=True)
        extra = {"method": "stochastic Lanczos quadrature", "probes": len(nodes), "steps": steps, "products": products}
        extra |= {"seconds": time.perf_counter() - began, "converged": len(nodes) == probes}
        return Density(
            values=values[order],
            bounds=torch.cat(bounds)[order],
            weights=torch.cat(weights)[order] / len(nodes),
            dimension=operator.size,
            covers="density",
            operator=operator.kind,
            preconditioner=operator.preconditioner,
            provenance={**measured_by(source, operator, seed), **extra},
            probe=torch.cat(which)[order],
        )


def trace(
    source: Any,
    products: int = 40,
    *,
    level: float = 0.95,
    seed: int = 0,
    optimizer: torch.optim.Optimizer | None = None,
    progress: Watch | bool | None = None,
) -> Trace:
    """Return the trace of an Objective's Hessian, or any operator, with a confidence interval: XTrace.

    Half the products sketch the range, half work inside it; every test vector is judged by the sketch of the others:
    t_i = tr(Q_i' A Q_i) + c_i u_i' A u_i, u_i = (I - Q_i Q_i') w_i. value = mean t_i; error = std(t_i) / sqrt(products
    / 2); the interval is Student's. Exact when the operator's rank is below products / 2.

    progress: as for `measure`. Raises InvalidValue for fewer than 6 products or a level outside (0, 1).
    Source: Epperly, Tropp, Webber 2024 (arXiv 2301.07825).

    >>> result = trace(torch.diag(torch.tensor([5.0, 2.0] + [0.0] * 98, dtype=torch.float64)), products=12)
    >>> round(result.value, 9)
    7.0
    """
    if products < 6 or not 0 < level < 1:
        raise InvalidValue(f"trace: products={products} must be at least 6 and level={level} between 0 and 1")
    began = time.perf_counter()
    with task("trace", progress, "samples= on Objective, fewer products=") as work, working(source):
        work.plan(PRODUCT * products, f"{products} products")
        operator: Operator = Told(operator_of(source, optimizer=optimizer), work)
        k, n = min(products // 2, operator.size), operator.size
        if k == n:
            whole = operator @ torch.eye(n, dtype=operator.dtype, device=operator.device)
            value = float(whole.diagonal().double().sum())
            return Trace(value, 0.0, value, value, level, n, time.perf_counter() - began, notes_of(source))
        each = n * torch.finfo(operator.dtype).bits / 8
        refuse_if_too_much(6 * k * each, free_bytes(operator.device), "the trace's sketch", "ask for fewer products=")
        values = _xtrace(operator, k, torch.Generator().manual_seed(seed))
    mean, error = float(values.mean()), float(values.std()) / math.sqrt(k)
    reach = float(stats.t.ppf(0.5 + level / 2, k - 1)) * error
    return Trace(mean, error, mean - reach, mean + reach, level, 2 * k, time.perf_counter() - began, notes_of(source))


def _xtrace(operator: Operator, k: int, generator: torch.Generator) -> Tensor:
    """The k leave-one-out estimates t_i, (k,) float64."""
    n = operator.size
    like = torch.empty(0, dtype=operator.dtype, device=operator.device)
    tests = torch.stack([vec.random_unit(n, generator, like) * math.sqrt(n) for _ in range(k)])
    sketch = torch.stack([operator.matvec(w) for w in tests])
    q, r = torch.linalg.qr(sketch.T)
    basis = q.T.contiguous()
    through = torch.stack([operator.matvec(v) for v in basis])
    inner = torch.stack([vec.products(basis, z) for z in through])
    inner = (inner + inner.T) / 2
    size = r.diagonal().abs().double().cpu()
    if float(size.min()) <= 100 * torch.finfo(operator.dtype).eps * float(size.max()):
        return inner.trace().repeat(k)  # the sketch holds the whole range
    right = r.double().cpu()
    s = torch.linalg.inv(right).T
    s = s / torch.linalg.vector_norm(s, dim=0)
    w = torch.stack([vec.products(basis, t) for t in tests], dim=1)
    x = w - s * (s * w).sum(0)
    straight = torch.stack([vec.products(t[None], y)[0] for t, y in zip(tests, sketch, strict=True)])
    outside = straight - 2 * (x * right).sum(0) + (x * (inner @ x)).sum(0)
    scale = (n - k + 1) / (n - x.square().sum(0))
    estimates: Tensor = inner.trace() - (s * (inner @ s)).sum(0) + scale * outside
    return estimates
