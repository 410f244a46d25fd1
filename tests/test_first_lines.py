"""What a newcomer types first: the answer names the line to write instead, and that line runs."""

import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import eigenstep as es

X, Y = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0, 1, 1, 0])
DATA = (X, Y)


class Scaled(nn.Module):
    """A criterion that is trained too."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(self.scale * logits, target)


class Whole(nn.Module):
    """A loss that takes the model and the batch, as it should."""

    def forward(self, model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])


@pytest.mark.parametrize("criterion", [nn.CrossEntropyLoss(), F.cross_entropy, Scaled()])
def test_a_criterion_in_the_place_of_the_loss(criterion: object) -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(es.Unsupported, match=r"write Objective\(") as caught:
        es.Objective(model, criterion, DATA)  # type: ignore[arg-type]
    line = re.search(r"write (Objective\(.*\))", str(caught.value))
    assert line is not None
    names = {"Objective": es.Objective, "model": model, "criterion": criterion, "data": DATA}
    made = eval(line[1], names)  # the line runs as it stands
    trained = [*model.parameters(), *(criterion.parameters() if isinstance(criterion, nn.Module) else ())]
    assert len(made.params) == len(trained)
    if len(trained) == 2:
        assert es.measure(made).largest == es.measure(es.Objective(model, Whole(), DATA)).largest


@pytest.mark.parametrize(
    "criterion",
    [
        *(nn.MSELoss(), nn.KLDivLoss(), nn.PoissonNLLLoss(), nn.GaussianNLLLoss(), nn.CTCLoss()),
        *(nn.CosineEmbeddingLoss(), nn.MarginRankingLoss(), nn.BCEWithLogitsLoss(), nn.TripletMarginLoss()),
        *(F.mse_loss, F.nll_loss, F.ctc_loss, F.cosine_embedding_loss, F.gaussian_nll_loss),
    ],
    ids=lambda c: getattr(c, "__name__", type(c).__name__),
)
def test_every_criterion_of_torch(criterion: object) -> None:
    with pytest.raises(es.Unsupported, match="criterion"):
        es.Objective(nn.Linear(3, 2), criterion, DATA)  # type: ignore[arg-type]


def test_a_class_and_a_name_in_the_place_of_the_loss() -> None:
    for loss, says in ((nn.MSELoss, "make one first"), ("mse", "a str"), (None, "a NoneType")):
        with pytest.raises(es.Unsupported, match=says):
            es.Objective(nn.Linear(3, 2), loss, DATA)  # type: ignore[arg-type]


def test_losses_that_are_right_pass() -> None:
    model = nn.Linear(3, 2)
    for loss in (Whole(), lambda m, b: Whole()(m, b), lambda *a: Whole()(*a), Whole().forward):
        assert es.Objective(model, loss, DATA).size == 8


def test_a_model_in_the_place_of_the_objective() -> None:
    model = nn.Linear(3, 2)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    line = r"Objective\(model, lambda model, batch: criterion\(model\(batch\[0\]\), batch\[1\]\), data\)"
    for call in (
        lambda: es.measure(model),
        lambda: es.density(model),
        lambda: es.trace(model),
        lambda: es.layers(model),
        lambda: es.shares(model, torch.ones(8)),
        lambda: es.finite_step(model, torch.ones(8), [0.1]),
        lambda: es.limit_now(model, sgd),
        lambda: es.critical_sharpness(model, sgd),
        lambda: es.diagnose(model, sgd),
        lambda: es.recommend(model, sgd),
        lambda: es.limit_now(sgd, es.Objective(model, Whole(), DATA)),
    ):
        with pytest.raises(es.Unsupported, match=line):
            call()
    with pytest.raises(es.Unsupported, match="Objective"):
        es.Monitor(model, sgd)


LOOKED_FOR = (
    *("sharpness", "lambda_max", "max_eigenvalue", "largest_eigenvalue", "hessian", "eigenvalues", "eigs", "eigsh"),
    *("top_eigenvalues", "spectral_density", "esd", "slq", "hessian_trace", "hutchinson", "lr_finder", "find_lr"),
    *("suggest_lr", "best_lr", "stability_ratio", "edge_of_stability", "critical_lr", "max_lr"),
)


def test_names_that_are_looked_for_first() -> None:
    objective = es.Objective(nn.Linear(3, 2), Whole(), DATA)
    with pytest.raises(AttributeError, match=r"write es.measure\(es.Objective\(model, loss, data\)\).largest"):
        getattr(es, "sharpness")  # noqa: B009
    model, loss, data = objective.model, objective.loss, DATA
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = {"es": es, "model": model, "loss": loss, "data": data, "objective": objective, "optimizer": optimizer}
    for name in LOOKED_FOR:
        with pytest.raises(AttributeError) as caught:
            getattr(es, name)
        _, _, line = str(caught.value).partition("; write ")
        if "recommend" not in line:
            eval(line, seen)  # each line runs as it stands
        assert line.startswith("es.")
    with pytest.raises(AttributeError, match="did you mean 'measure'"):
        getattr(es, "mesure")  # noqa: B009
    with pytest.raises(AttributeError, match=r"attribute '__path_of_nothing__'$"):
        getattr(es, "__path_of_nothing__")  # noqa: B009
