"""The spectral density by stochastic Lanczos quadrature, with what its random vectors leave open."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from eigenstep.curvature.krylov import NOISE_FLOOR, Krylov
from eigenstep.curvature.measure import measured_by, operator_of, working
from eigenstep.curvature.sampling import Sampled, sampled
from eigenstep.errors import InvalidValue, refuse_count, refuse_seed
from eigenstep.files import wrong_field
from eigenstep.progress import PRODUCT, Watch, task
from eigenstep.result import Words, as_frame
from eigenstep.spectrum import WHAT, Spectrum

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, eq=False, repr=False)
class Density(Spectrum):
    """Nodes and weights of quadrature for the density of eigenvalues: the share of them near each node.

    - values: (n_nodes,) nodes, largest first.
    - weights: (n_nodes,) their shares, sum 1.
    - probe: (n_nodes,) which probe vector each came from; saved with them.
    """

    probe: Tensor | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the density as plain data, for the file envelope."""
        return {**super().as_dict(), "probe": None if self.probe is None else self.probe.tolist()}

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

        `of` maps a tensor of nodes to a tensor. The error is that of the random vectors, from the variance of u'f(A)u,
        so one probe has one too; a function that no polynomial of degree 2 steps - 1 comes near has the quadrature's
        besides: `mass_below` for a step. Few probes need Student's quantile: `interval`. Where all eigenvalues are
        known only rounding is left; nan for a file that does not tell the probes.
        """
        found = self._over_probes(of(self.values))
        return found.value, found.error

    def interval(self, of: Any, level: float = 0.95) -> tuple[float, float]:
        """Return the interval that holds the mean of f(eigenvalue) at the given level.

        nan where the probes are not known. Raises InvalidValue for a level outside (0, 1).
        """
        found = self._over_probes(of(self.values))
        reach = found.reach(level)
        return found.value - reach, found.value + reach

    def mass_below(self, x: float = 0.0) -> tuple[float, float]:
        """Return the share of eigenvalues below x; its error is the standard error and what the nodes leave open."""
        found = self._over_probes(self.values < x)
        least, most = self._below(x)
        return found.value, found.error + max(found.value - least, most - found.value)

    def mass_interval(self, x: float = 0.0, level: float = 0.95) -> tuple[float, float]:
        """Return the interval that holds the share of eigenvalues below x at the given level.

        The nodes next to x leave open what lies on which side of it (Chebyshev, Markov, Stieltjes): a probe whose nodes
        are theta_1 < ... sees between sum_{i < k} w_i and sum_{i <= k + 1} w_i below x, theta_k < x <= theta_{k+1}. So
        where many eigenvalues crowd at x the interval is wide, and more `steps` narrow it, not more probes.
        Raises InvalidValue for a level outside (0, 1).
        """
        reach = self._over_probes(self.values < x).reach(level)
        if math.isnan(reach):
            return 0.0, 1.0
        least, most = self._below(x)
        return max(least - reach, 0.0), min(most + reach, 1.0)

    @property
    def _chains(self) -> list[Tensor]:
        """The places of each probe's nodes; none where they are not known."""
        if self.probe is None:
            return []
        return [torch.where(self.probe == j)[0] for j in range(int(self.probe.max()) + 1)]

    def _over_probes(self, terms: Tensor) -> Sampled:
        """The mean of f over the spectrum from f at the nodes, (n_nodes,)."""
        chains = self._chains
        if not chains:
            return Sampled(float(self.weights @ terms.to(torch.float64)), math.nan, 1)
        terms, weights = terms.to(torch.float64), self.weights * len(chains)
        means = torch.stack([weights[c] @ terms[c] for c in chains])
        spreads = torch.stack([weights[c] @ (terms[c] - m).square() for c, m in zip(chains, means, strict=True)])
        found = sampled(means, spreads, self.dimension)
        drawn = 0.0 if len(chains[0]) == self.dimension else found.error
        return found._replace(error=drawn + self._rounding * float(self.weights @ terms.abs()))

    @property
    def _rounding(self) -> float:
        """What rounding may add, relative; as in float32 where a file does not tell."""
        told = getattr(torch, str(self.provenance.get("dtype")), None)
        dtype = told if isinstance(told, torch.dtype) and told.is_floating_point else torch.float32
        return NOISE_FLOOR * torch.finfo(dtype).eps

    def _below(self, x: float) -> tuple[float, float]:
        """The least and the most that the probes may have seen below x."""
        steps, blur = self.provenance.get("steps"), self._rounding * float(self.values.abs().max())
        least = most = 0.0
        for c in self._chains:
            values, bounds, weights = self.values[c], self.bounds[c], self.weights[c]
            if (isinstance(steps, int) and len(c) < steps) or len(c) == self.dimension:  # the chain ended: exact
                least += float(weights[values + bounds < x].sum())
                most += float(weights[values - bounds < x].sum())
            else:
                left, right = values < x - blur, values >= x + blur
                least += float(weights[left].sum()) - float(weights[left][:1].sum())  # nodes stand largest first
                most += 1 / len(self._chains) - float(weights[right].sum()) + float(weights[right][-1:].sum())
        return least, most

    def smooth(self, grid: Tensor, width: float) -> Tensor:
        """Return the density on a grid as a view: each node a Gaussian of the given width, blurring what is finer."""
        if not width > 0:
            raise InvalidValue(f"Density.smooth: width={width} must be positive")
        z = (grid.to(torch.float64)[:, None] - self.values) / width
        return (torch.exp(-0.5 * z * z) / (width * math.sqrt(2 * math.pi))) @ self.weights

    def plot(self, ax: Any = None, width: float | None = None, top: Spectrum | None = None) -> Any:
        """Draw the nodes as stems on a log axis; return the axes.

        width: also the smoothed view, Gaussians of that width. top: a measurement whose eigenvalues are marked.
        """
        from eigenstep import draw

        ax = draw.panels()[1][0] if ax is None else ax
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

    def words(self) -> Words:
        """Return what the probes saw, and the share below zero."""
        p, value, (low, high) = self.provenance, self.mass_below(0.0)[0], self.mass_interval(0.0)
        ends = f"nodes from {float(self.values.min()):.4g} to {float(self.values.max()):.4g}"
        return Words(
            f"{ends}, {value:.3g} below zero, n = {self.dimension}",
            f"Density of the {WHAT[self.operator]}, n = {self.dimension}: {p.get('probes', '?')} probes of "
            f"{p.get('steps', '?')} steps, {ends}, share below zero {value:.3g}, 95% interval {low:.2g} to {high:.2g}",
            notes=p.get("notes", ()),
        )

    def to_frame(self) -> "DataFrame":
        """Return the nodes with their bounds, weights and probes as a pandas DataFrame."""
        frame = as_frame(self, Spectrum.words(self).table)
        return frame if self.probe is None else frame.assign(probe=self.probe.tolist())


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
    degree 2 steps - 1 in the density that the probe sees. Mean over probes: tr f(A) / n = sum w f(node). bounds: the
    residual norms of the nodes, the products' own error included. With steps >= n one probe finds every eigenvalue,
    each of weight 1 / n. With `optimizer`, of the preconditioned operator, as `measure`.

    Ctrl-C returns the probes that are finished, flagged as not converged. progress: as for `measure`.
    Raises InvalidValue for fewer than one probe or step. Source: Ghorbani, Krishnan, Xiao 2019 (arXiv 1901.10159).

    >>> result = density(torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)), probes=4, steps=3)
    >>> round(float(result.weights.sum()), 9), result.covers
    (1.0, 'density')
    """
    refuse_seed("density", seed)
    refuse_count("density", "probes", probes)
    refuse_count("density", "steps", steps)
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
                while krylov.m < steps and (krylov.pending or (steps == operator.size and krylov.add())):
                    krylov.expand(0, krylov.product(0))
                    work.tell(phase=f"probe {probe + 1} of {probes}", products=products + krylov.products)
            except KeyboardInterrupt:
                if not nodes or not work.outermost:
                    raise
                break
            ritz = krylov.ritz()
            nodes.append(ritz.values)
            weights.append(torch.full_like(ritz.values, 1 / krylov.m) if krylov.complete else ritz.mix[0].square())
            bounds.append(ritz.residuals + operator.error(krylov.rows[0]))
            which.append(torch.full((krylov.m,), probe))
            products += krylov.products
            if krylov.complete:
                probes = 1
                break
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
