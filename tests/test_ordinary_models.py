"""Models as people write them: sparse embeddings, checkpoints, straight-through functions, compiled parts, contexts."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from dense import eigenvalues
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import eigenstep as es
from eigenstep.errors import InvalidValue, Unsupported

IDS = torch.tensor([[0, 1, 2], [3, 3, 4], [5, 0, 1], [2, 2, 6]])
GOAL = torch.linspace(-1, 1, 8, dtype=torch.float64).view(4, 2)


def squared(model: Any, batch: Any) -> Tensor:
    """The loss of most tests here."""
    loss: Tensor = F.mse_loss(model(batch[0]), batch[1])
    return loss


class Table(nn.Module):
    """A table of vectors, read in one of the ways there are, with sparse gradients or not."""

    def __init__(self, kind: str, sparse: bool) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.kind, self.sparse = kind, sparse
        self.table = nn.Parameter(torch.randn(7, 4, dtype=torch.float64))
        self.head = nn.Linear(4, 2, dtype=torch.float64)

    def forward(self, ids: Tensor) -> Tensor:
        """Read, then a little network."""
        sparse, flat = self.sparse, ids.flatten()
        read: dict[str, Callable[[], Tensor]] = {
            "F.embedding": lambda: F.embedding(ids, self.table, sparse=sparse).mean(1),
            "torch.embedding": lambda: torch.embedding(self.table, ids, -1, False, sparse).mean(1),
            "gather": lambda: torch.gather(self.table, 0, ids[:, :1].expand(-1, 4), sparse_grad=sparse),
            "bag": lambda: F.embedding_bag(ids, self.table, sparse=sparse, padding_idx=2),
            "bags": lambda: F.embedding_bag(
                flat, self.table, torch.tensor([0, 2, 2, 9]), mode="sum", sparse=sparse,
                per_sample_weights=torch.linspace(0.1, 2, len(flat), dtype=torch.float64),
            ),
            "largest": lambda: F.embedding_bag(flat, self.table, torch.tensor([0, 2, 2, 9]), mode="max"),
        }  # fmt: skip
        out: Tensor = self.head(read[self.kind]().tanh())
        return out

    def plainly(self, ids: Tensor) -> Tensor:
        """The same by indexing, bag by bag."""
        flat, rows = ids.flatten(), self.table[ids]
        cut = [slice(0, 2), slice(2, 2), slice(2, 9), slice(9, 12)]
        if self.kind == "gather":
            mixed = self.table[ids[:, 0]]
        elif self.kind == "bag":
            mixed = torch.stack([self.table[[i for i in bag if i != 2]].mean(0) for bag in ids.tolist()[:3]])
            mixed = torch.cat([mixed, self.table[[6]]])
        elif self.kind == "bags":
            factors = torch.linspace(0.1, 2, len(flat), dtype=torch.float64).unsqueeze(1)
            mixed = torch.stack([(self.table[flat] * factors)[part].sum(0) for part in cut])
        elif self.kind == "largest":
            empty = torch.zeros(4, dtype=torch.float64)
            mixed = torch.stack([self.table[flat[p]].amax(0) if p.stop > p.start else empty for p in cut])
        else:
            mixed = rows.mean(1)
        out: Tensor = self.head(mixed.tanh())
        return out


@pytest.mark.parametrize("kind", ["F.embedding", "torch.embedding", "gather", "bag", "bags", "largest"])
def test_sparse_gradients_and_bags_are_measured_as_the_dense_function_that_they_compute(kind: str) -> None:
    model = Table(kind, sparse=kind != "largest")
    right = eigenvalues(lambda: F.mse_loss(model.plainly(IDS), GOAL), model.parameters())
    objective = es.Objective(model, squared, (IDS, GOAL))
    for method in ("auto", "fresh"):
        found = es.measure(objective, method=method, tol=1e-8)
        assert found.provenance["products_by"] != "differences"
        torch.testing.assert_close(found.eigenvalues, right[:1], rtol=1e-7, atol=0)
    dense = Table(kind, sparse=False)
    same = es.measure(es.Objective(dense, squared, (IDS, GOAL)), curvature="ggn").eigenvalues
    torch.testing.assert_close(es.measure(objective, curvature="ggn").eigenvalues, same, rtol=1e-12, atol=0)


@pytest.mark.slow
def test_every_public_call_takes_a_sparse_embedding() -> None:
    answers = []
    for sparse in (False, True):
        model = Table("F.embedding", sparse)
        objective = es.Objective(model, squared, [(IDS, GOAL), (IDS + 0, GOAL.flip(0))])
        sgd, adagrad = torch.optim.SGD(model.parameters(), 0.1), torch.optim.Adagrad(model.parameters(), 0.1)
        answers.append(
            [
                es.trace(objective, 20).value,
                es.limit_now(objective, sgd).ratio,
                es.limit_now(objective, adagrad).ratio,
                es.critical_sharpness(objective, adagrad).value,
                es.diagnose(objective, sgd).ratio,
                es.recommend(objective, sgd, budget=60).lr,
            ]
        )
    assert answers[0] == pytest.approx(answers[1], rel=1e-9)


def test_sparse_adam_is_judged_by_its_own_step() -> None:
    torch.manual_seed(0)
    table = nn.Embedding(7, 2, sparse=True, dtype=torch.float64)
    objective = es.Objective(table, lambda model, batch: F.mse_loss(model(batch[0]).mean(1), batch[1]), (IDS, GOAL))
    optimizer = torch.optim.SparseAdam(table.parameters(), lr=0.1)
    with pytest.raises(Unsupported, match="SparseAdam"):
        es.limit_now(objective, optimizer)
    found = es.critical_sharpness(objective, optimizer)
    assert found.interval is not None
    start = table.weight.detach().clone()
    losses = []
    for lr in (0.0, found.interval[0], found.interval[1]):
        with torch.no_grad():
            table.weight.copy_(start)
        step = torch.optim.SparseAdam(table.parameters(), lr=max(lr, 1e-12))
        step.zero_grad()
        objective.loss(table, (IDS, GOAL)).backward()
        step.step()
        losses.append(float(objective.loss(table, (IDS, GOAL)).detach()))
    assert losses[1] <= losses[0] < losses[2]


class Attention(nn.Module):
    """Two blocks of attention with dropout and batch statistics, checkpointed or not."""

    def __init__(self, on: bool, p: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.on, self.p = on, p
        self.first, self.last = nn.Embedding(7, 8), nn.Linear(8, 2)
        self.qkv = nn.ModuleList(nn.Linear(8, 24) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm1d(3) for _ in range(2))
        self.double()

    def block(self, k: int, x: Tensor) -> Tensor:
        """One block."""
        q, key, v = self.qkv[k](x).view(*x.shape[:2], 2, 12).transpose(1, 2).split(4, -1)
        mixed = F.scaled_dot_product_attention(q, key, v, is_causal=True, dropout_p=self.p)
        x = x + F.dropout(mixed.transpose(1, 2).reshape(x.shape), self.p)
        out: Tensor = self.norms[k](x)
        return out

    def forward(self, ids: Tensor) -> Tensor:
        """Both blocks."""
        x = self.first(ids)
        for k in range(2):
            run = partial(self.block, k)
            x = checkpoint(run, x, use_reentrant=False) if self.on else run(x)
        out: Tensor = self.last(x).mean(1)
        return out


@pytest.mark.parametrize(("p", "dropout"), [(0.0, "off"), (0.5, "off"), (0.5, "fixed")])
def test_checkpointed_blocks_are_computed_anew_as_they_were_the_first_time(p: float, dropout: Any) -> None:
    values: dict[bool, list[Tensor]] = {}
    for on in (False, True):
        model = Attention(on, p)
        before = [b.clone() for b in model.buffers()]
        objective = es.Objective(model, squared, (IDS, GOAL), dropout=dropout)
        values[on] = [es.measure(objective, method=m, tol=1e-6).eigenvalues for m in ("auto", "fresh")]
        if not (on and dropout == "fixed"):
            values[on].append(es.measure(objective, curvature="ggn", tol=1e-6).eigenvalues)
        else:
            values[on].append(values[False][2])
        with objective.session():
            moved = objective.at(torch.full((objective.size,), 0.3, dtype=torch.float64))
            values[on].append(objective.gradient(moved))
        assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))
    for plain, anew in zip(values[False], values[True], strict=True):
        torch.testing.assert_close(plain, anew, rtol=1e-8, atol=1e-10)


def test_what_cannot_be_recorded_under_a_checkpoint_is_refused_in_words() -> None:
    with pytest.raises(Unsupported, match=r"method='linearize'.*method='graph'"):
        es.measure(es.Objective(Attention(True), squared, (IDS, GOAL)), method="linearize")


@pytest.mark.slow
def test_hugging_face_checkpointing_gives_the_same_curvature() -> None:
    transformers = pytest.importorskip("transformers")
    found = []
    for on in (False, True):
        torch.manual_seed(0)
        config = transformers.GPT2Config(
            vocab_size=17, n_positions=8, n_embd=8, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
        )
        model = transformers.GPT2LMHeadModel(config).double().train()
        if on:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # its new name is activation_checkpointing_enable
                model.gradient_checkpointing_enable({"use_reentrant": False})
        ids = torch.randint(17, (3, 8), generator=torch.Generator().manual_seed(1))
        objective = es.Objective(model, lambda model, ids: model(input_ids=ids, labels=ids).loss, [ids])
        found.append(es.measure(objective, tol=1e-6).eigenvalues)
    torch.testing.assert_close(*found, rtol=1e-6, atol=0)


class Rounded(torch.autograd.Function):
    """Straight through: rounds, and passes the gradient on."""

    @staticmethod
    def forward(ctx: Any, w: Tensor) -> Tensor:  # type: ignore[override]
        return (2 * w).round() / 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad


class Once(Rounded):
    """The same, not to be differentiated again."""

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad.clone()


X = torch.tensor([[1.0, 2.0], [0.5, -1.0], [1.5, 0.3]], dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("smooth", [False, True])
def test_a_straight_through_function_has_the_curvature_of_its_gradient_and_says_so(
    dtype: torch.dtype, smooth: bool
) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Linear(1, 1)).to(dtype)
    x = X.to(dtype)

    def loss(model: Any, x: Tensor) -> Tensor:
        first = F.linear(x, Rounded.apply(model[0].weight))
        return (model[1](first) if smooth else first).sub(1).square().mean()

    found = es.measure(es.Objective(model, loss, [x]), tol=1e-4)
    right = eigenvalues(lambda: loss(model, x), [p for p in model.parameters() if smooth or p is model[0].weight])
    if not smooth:
        torch.testing.assert_close(right[:1].float(), torch.linalg.eigvalsh(2 / 3 * x.T @ x).flip(0)[:1].float())
    torch.testing.assert_close(found.eigenvalues[:1], right[:1], rtol=1e-3, atol=0)
    assert any("Rounded is not the loss's own slope" in note for note in found.notes)
    assert found.provenance["products_by"] == "graph"
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    assert es.limit_now(es.Objective(model, loss, [x], parameters="0.*"), optimizer).ratio is not None


def test_a_straight_through_function_without_a_second_derivative_is_refused() -> None:
    model = nn.Linear(2, 1, bias=False, dtype=torch.float64)
    objective = es.Objective(model, lambda m, x: F.linear(x, Once.apply(m.weight)).sub(1).square().mean(), [X])
    with (
        pytest.warns(UserWarning, match="no second derivatives"),
        pytest.raises(Unsupported, match="not the loss's own"),
    ):
        es.measure(objective)
    with pytest.raises(Unsupported, match="not the loss's own"):
        es.measure(objective, method="differences")
    with pytest.raises(Unsupported, match=r"once_differentiable.*method='differences'"):
        es.measure(objective, method="graph")


@pytest.mark.slow
def test_compiled_losses_and_models_reached_from_outside_are_run_as_they_are() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    right = eigenvalues(lambda: model(X).square().mean(), model.parameters())[:1]
    compiled = torch.compile(model, backend="aot_eager")
    losses: list[Any] = [
        torch.compile(lambda model, x: model(x).square().mean(), backend="aot_eager"),
        lambda model, x: compiled(x).square().mean(),
    ]
    compiled(X).sum().backward()
    model.zero_grad()
    for loss in losses:
        found = es.measure(es.Objective(model, loss, [X]), tol=1e-6)
        torch.testing.assert_close(found.eigenvalues, right, rtol=1e-6, atol=0)
        assert found.provenance["products_by"] == "graph"
    assert torch._dynamo.eval_frame._stance.stance == "default"


def problem() -> tuple[nn.Module, list[Any]]:
    torch.manual_seed(1)
    inputs, targets = torch.randn(32, 5), torch.randn(32, 2)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 2))
    return model, [(inputs[k::2], targets[k::2]) for k in range(2)]


@contextlib.contextmanager
def default_device(name: str) -> Iterator[None]:
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def measured(model: nn.Module, data: Any) -> list[Any]:
    """Numbers of the public calls that measure."""
    objective = es.Objective(model, squared, data)
    return [
        float(es.measure(objective).eigenvalues[0]),
        es.trace(objective, 20).value,
        es.limit_now(objective, torch.optim.Adam(model.parameters(), 1e-3)).ratio,
        es.critical_sharpness(objective, torch.optim.SGD(model.parameters(), 0.05, momentum=0.5)).value,
    ]


def advised(model: nn.Module, data: Any) -> list[Any]:
    """Numbers of those that advise, which take seconds."""
    objective = es.Objective(model, squared, data)
    sgd = torch.optim.SGD(model.parameters(), 0.05, momentum=0.5)
    return [es.diagnose(objective, sgd).ratio, es.recommend(objective, sgd, budget=60).lr]


def same_in_the_callers_modes(numbers: Callable[[nn.Module, Any], list[Any]]) -> None:
    model, data = problem()
    right = numbers(model, data)
    with torch.inference_mode():
        made = [(x.clone(), y.clone()) for x, y in data]
        assert numbers(model, data) == right
    assert numbers(model, made) == right
    for context in (torch.no_grad(), default_device("meta"), default_dtype(torch.float64)):  # meta: no data at all
        with context:
            assert numbers(model, data) == pytest.approx(right, rel=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert numbers(model, data) == pytest.approx(right, rel=0.05)


def test_the_callers_modes_and_defaults_change_no_measurement() -> None:
    same_in_the_callers_modes(measured)


@pytest.mark.slow
def test_the_callers_modes_and_defaults_change_no_advice() -> None:
    same_in_the_callers_modes(advised)


def test_the_callers_modes_and_defaults_change_no_advice_all_at_once() -> None:
    model, data = problem()
    right = advised(model, data)
    with torch.inference_mode(), default_device("meta"), default_dtype(torch.float64):
        assert advised(model, data) == pytest.approx(right, rel=1e-5)


def test_a_loss_makes_its_tensors_where_the_caller_has_asked_for() -> None:
    model, data = problem()
    seen: list[str] = []

    def loss(model: Any, batch: Any) -> Tensor:
        seen.append(torch.zeros(1).device.type)
        return squared(model, batch)

    with default_device("meta"):
        es.recommend(es.Objective(model, loss, data), torch.optim.SGD(model.parameters(), 0.1), budget=60)
        assert set(seen) == {"meta"}
        assert torch.zeros(1).device.type == "meta"


def test_a_model_made_in_inference_mode_is_refused() -> None:
    with torch.inference_mode():
        model = nn.Linear(2, 1)
    with pytest.raises(InvalidValue, match=r"'weight' was made under torch.inference_mode"):
        es.Objective(model, squared, [X])
