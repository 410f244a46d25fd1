"""Products and eigenvalues of real layers against dense Hessians by double backward in float64."""

from collections.abc import Callable

import pytest
import torch
from dense import hessian
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from eigenstep.curvature import GGNOperator, HessianOperator, density, finite_step, layers, measure, shares, trace
from eigenstep.errors import UnknownName, Unsupported
from eigenstep.objective import Objective

Case = tuple[nn.Module, Callable[[nn.Module, Tensor], Tensor], Tensor]


class Tied(nn.Module):
    """An embedding used on both sides, and a layer that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.symbols = nn.Embedding(7, 4)
        self.mix = nn.Linear(4, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.symbols.weight
        self.pooler = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mix(self.symbols(x))))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.GRU(3, 4, num_layers=2, dropout=0.5, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x)[0][:, -1])


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend, self.head = nn.Linear(4, 12), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.attend(x).chunk(3, dim=-1)
        mixed = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], is_causal=True)
        return self.head(mixed[:, 0]).mean(1)


def smooth(model: nn.Module, x: Tensor) -> Tensor:
    """A loss with curvature of both signs: the outputs' squares, then their sine."""
    out = model(x)
    return (out**2).mean() + torch.sin(3 * out).mean()


def next_symbol(model: nn.Module, x: Tensor) -> Tensor:
    return F.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())


def cases() -> dict[str, Case]:
    torch.manual_seed(3)
    image, rows = torch.randn(6, 2, 5, 5).double(), torch.randn(9, 4).double()
    conv = nn.Conv2d(2, 4, 3)
    return {
        "linear": (nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double(), smooth, rows),
        "conv": (nn.Sequential(conv, nn.GELU(), nn.Flatten(), nn.Linear(36, 2)).double(), smooth, image),
        "layernorm": (
            nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 3)).double(),
            smooth,
            rows,
        ),
        "groupnorm": (
            nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Tanh(), nn.Flatten(), nn.Linear(36, 2)).double(),
            smooth,
            image,
        ),
        "batchnorm": (
            nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double(),
            smooth,
            rows,
        ),
        "embedding": (Tied().double(), next_symbol, torch.randint(7, (5, 6))),
        "weightnorm": (
            nn.Sequential(weight_norm(nn.Conv1d(4, 3, 2)), nn.Tanh(), nn.Flatten(), nn.Linear(15, 2)).double(),
            smooth,
            torch.randn(5, 4, 6).double(),
        ),
        "gru": (Recurrent().double(), smooth, torch.randn(5, 4, 3).double()),
        "attention": (Attention().double(), smooth, torch.randn(5, 6, 4).double()),
    }


NAMES = list(cases())


class ByHand(TorchFunctionMode):
    """torch's own weight normalisation has a wrong double backward: for the truth, g v / |v| written out."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") == "_weight_norm":
            v, g, _ = args
            return g * v / v.square().sum((1, 2), keepdim=True).sqrt()
        return func(*args, **(kwargs or {}))


def dense(
    model: nn.Module, loss: Callable[[nn.Module, Tensor], Tensor], batch: Tensor, names: tuple[str, ...]
) -> Tensor:
    """The dense Hessian, by kernels that have second derivatives."""
    held = dict(model.named_parameters(remove_duplicate=False))
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), ByHand():
        return hessian(lambda: loss(model, batch), [held[name] for name in names])


def truth(name: str) -> tuple[Objective, Tensor]:
    model, loss, batch = cases()[name]
    objective = Objective(model, loss, batch)
    if name == "gru":
        model.cells.dropout = 0.0
    matrix = dense(model, loss, batch, objective.names)
    if name == "gru":
        model.cells.dropout = 0.5
    return objective, matrix


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ["graph", "fresh", "differences"])
def test_products_equal_the_dense_hessian(name: str, method: str) -> None:
    objective, matrix = truth(name)
    operator = HessianOperator(objective, method)
    columns = torch.randn(objective.size, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with objective.session():
        got = operator @ columns
    tolerance = 1e-6 if method == "differences" else 1e-12
    assert (got - matrix @ columns).norm() < tolerance * (matrix @ columns).norm()


@pytest.mark.parametrize("name", ["linear", "layernorm", "batchnorm"])
@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node")
def test_linearize_equals_the_dense_hessian(name: str) -> None:
    objective, matrix = truth(name)
    vector = torch.randn(objective.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with objective.session():
        got = HessianOperator(objective, "linearize") @ vector
    assert (got - matrix @ vector).norm() < 1e-12 * (matrix @ vector).norm()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("which", ["largest", "smallest", "ends", "magnitude"])
def test_measured_eigenvalues_are_the_dense_ones(name: str, which: str) -> None:
    objective, matrix = truth(name)
    every = torch.linalg.eigvalsh(matrix).flip(0)
    result = measure(objective, 3, which, vectors=True)
    exact = {
        "largest": every[:3],
        "smallest": every[-3:],
        "ends": torch.cat([every[:3], every[-3:]]),
        "magnitude": every[every.abs().argsort(descending=True)[:3]].sort(descending=True).values,
    }[which]
    assert result.converged and result.certified and result.dimension == len(matrix)
    assert bool(((result.values - exact).abs() <= result.bounds + 1e-12).all())
    for value, vector, residual in zip(result.values, result.vectors, result.residuals, strict=True):
        assert (matrix @ vector - value * vector).norm() <= residual + 1e-12


def test_gauss_newton_equals_the_explicit_product() -> None:
    model, loss, batch = cases()["linear"]
    objective = Objective(model, loss, batch)
    params = list(model.parameters())
    out = model(batch)
    jacobian = torch.stack(
        [torch.cat([g.reshape(-1) for g in torch.autograd.grad(o, params, retain_graph=True)]) for o in out.reshape(-1)]
    )
    inner = (2 - 9 * torch.sin(3 * out.detach().reshape(-1))) / out.numel()
    matrix = jacobian.T @ torch.diag(inner) @ jacobian
    eye = torch.eye(objective.size, dtype=torch.float64)
    with objective.session():
        assert (GGNOperator(objective) @ eye - matrix).norm() < 1e-12 * matrix.norm()
    assert abs(measure(objective, curvature="ggn").largest - torch.linalg.eigvalsh(matrix)[-1]) < 1e-2


def test_unused_layers_are_named_and_tied_ones_counted_once() -> None:
    objective, _ = truth("embedding")
    assert objective.names == ("symbols.weight", "mix.weight", "mix.bias")
    assert objective.size == 7 * 4 + 4 * 4 + 4
    assert any("pooler.weight, pooler.bias" in note for note in objective.notes)


def test_a_subset_measures_its_own_block() -> None:
    model, loss, batch = cases()["linear"]
    whole = dense(model, loss, batch, ("0.weight", "0.bias", "2.weight", "2.bias"))
    blocks = layers(Objective(model, loss, batch), 1)
    assert list(blocks) == ["0", "2"]
    for result, block in zip(blocks.values(), (whole[:25, :25], whole[25:, 25:]), strict=True):
        assert abs(result.largest - torch.linalg.eigvalsh(block)[-1]) <= result.bounds[0]


def test_finite_steps_tend_to_the_curvature_and_shares_sum_to_one() -> None:
    objective, matrix = truth("linear")
    result = measure(objective, vectors=True, tol=1e-6)
    step = finite_step(objective, result.directions[0], [1e-1, 1e-3])
    assert abs(step.curvatures[1] - result.largest) < 1e-3 * result.largest
    parts = shares(objective, result.directions[0])
    assert abs(sum(parts.values()) - 1) < 1e-12
    named = result.named(0)
    assert all(abs(parts[n] - float(named[n].square().sum())) < 1e-12 for n in parts)
    assert matrix.shape[0] == sum(v.numel() for v in named.values())


def test_without_second_derivatives_differences_are_used_and_said() -> None:
    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, grad):
            return 3 * ctx.saved_tensors[0] ** 2 * grad

    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    batch = torch.randn(8, 3).double()
    exact = Objective(model, lambda m, x: (m(x) ** 3).square().mean(), batch)
    rough = Objective(model, lambda m, x: Cube.apply(m(x)).square().mean(), batch)
    with pytest.warns(UserWarning, match="central differences"):
        result = measure(rough)
    assert any("central differences" in note for note in result.notes)
    assert abs(result.largest - measure(exact, tol=1e-8).largest) <= result.bounds[0]


class Silent(torch.autograd.Function):
    """x^3 whose backward keeps no graph and says nothing of it, as custom kernels do."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad):
        return 3 * ctx.saved_tensors[0].detach() ** 2 * grad


def test_custom_functions_that_mislead_in_silence_are_found_out() -> None:
    torch.manual_seed(0)
    model, batch = nn.Linear(3, 2).double(), torch.randn(8, 3).double()
    exact = measure(Objective(model, lambda m, x: (m(x) ** 3).square().mean(), batch), tol=1e-8).largest
    silent = Objective(model, lambda m, x: Silent.apply(m(x)).square().mean(), batch)
    with pytest.warns(UserWarning, match="Silent is wrong"):
        result = measure(silent)
    assert abs(result.largest - exact) <= result.bounds[0]
    with pytest.raises(Unsupported, match="Silent is wrong"):
        measure(silent, method="graph")


def test_checkpoints_of_activations_work_or_are_refused() -> None:
    torch.manual_seed(0)
    first, second, batch = nn.Linear(3, 4), nn.Linear(4, 2), torch.randn(8, 3, requires_grad=True)
    model = nn.Sequential(first, nn.Tanh(), second)
    plain = measure(Objective(model, lambda m, x: m(x).square().mean(), batch)).largest

    def saving(m: nn.Module, x: Tensor, reentrant: bool) -> Tensor:
        return second(checkpoint(lambda y: torch.tanh(first(y)), x, use_reentrant=reentrant)).square().mean()

    assert abs(measure(Objective(model, lambda m, x: saving(m, x, False), batch)).largest - plain) < 1e-5
    with pytest.raises(Unsupported, match="use_reentrant=False"):
        measure(Objective(model, lambda m, x: saving(m, x, True), batch))


def test_blocks_by_globs_are_measured_in_one_call_and_shown_side_by_side() -> None:
    model, loss, batch = cases()["linear"]
    whole = dense(model, loss, batch, ("0.weight", "0.bias", "2.weight", "2.bias"))
    found = layers(Objective(model, loss, batch), 2, ["*.weight", "2.*"], tol=1e-6)
    weights = torch.cat([torch.arange(20), torch.arange(25, 40)])
    for result, block in zip(found.values(), (whole[weights][:, weights], whole[25:, 25:]), strict=True):
        assert bool(((result.values - torch.linalg.eigvalsh(block).flip(0)[:2]).abs() <= result.bounds).all())
    ax = found.plot()
    assert [label.get_text() for label in ax.get_xticklabels()] == ["*.weight", "2.*"]
    assert found._repr_html_().count("<tr>") == 1 + 2 * 2  # a heading, and two values a block
    with pytest.raises(UnknownName):
        layers(Objective(model, loss, batch), blocks=["3.*"])


def test_densities_traces_and_steps_show_themselves() -> None:
    objective, _ = truth("linear")
    top, spread = measure(objective, 2, vectors=True), density(objective, probes=2, steps=5)
    ax = spread.plot(top=top, width=0.1)
    assert ax.get_yscale() == "log" and ax.lines[-1].get_xdata().tolist() == top.values.tolist()
    assert "share below zero" in spread._repr_html_() and "interval" in trace(objective, 8)._repr_html_()
    assert "<table>" in finite_step(objective, top.directions[0], [0.1])._repr_html_()
    assert top.provenance["basis_vectors"] * objective.size * 8 == pytest.approx(top.provenance["basis_MB"] * 1e6, 0.1)
