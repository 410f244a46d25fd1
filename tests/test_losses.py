"""Every loss of torch.nn.functional by every method, against differences of gradients; in a process that may die."""

import json
import subprocess
import sys
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import eigenstep as es
from eigenstep.curvature.operators.ggn import GGNOperator
from eigenstep.curvature.operators.hessian import HessianOperator

torch.manual_seed(0)
X, Y = torch.randn(6, 2, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
CLASS, HOT, SIGN = torch.tensor([0, 2, 1, 1, 0, 2]), (Y > 0).double(), Y.sign()
WEIGHT = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "binary_cross_entropy": lambda o: F.binary_cross_entropy(o.sigmoid(), HOT),
    "binary_cross_entropy_with_logits": lambda o: F.binary_cross_entropy_with_logits(o, HOT, pos_weight=WEIGHT),
    "cosine_embedding_loss": lambda o: F.cosine_embedding_loss(o, Y, SIGN[:, 0], margin=0.1),
    "cross_entropy": lambda o: F.cross_entropy(o, CLASS, weight=WEIGHT, label_smoothing=0.1),
    "cross_entropy over places": lambda o: F.cross_entropy(o.view(2, 3, 3).movedim(2, 1), CLASS.view(2, 3)),
    "cross_entropy of probabilities": lambda o: F.cross_entropy(o, Y.softmax(1)),
    "ctc_loss": lambda o: F.ctc_loss(
        o.view(6, 1, 3).log_softmax(-1), torch.tensor([[1, 2]]), torch.tensor([6]), torch.tensor([2])
    ),
    "gaussian_nll_loss": lambda o: F.gaussian_nll_loss(o, Y, F.softplus(o) + 0.1),
    "hinge_embedding_loss": lambda o: F.hinge_embedding_loss(o**2, SIGN),
    "huber_loss": lambda o: F.huber_loss(o, Y, delta=0.7, weight=HOT + 0.5),
    "kl_div": lambda o: F.kl_div(o.log_softmax(1), Y.softmax(1), reduction="batchmean"),
    "l1_loss": lambda o: F.l1_loss(o**2, Y),
    "margin_ranking_loss": lambda o: F.margin_ranking_loss(o[:, 0] ** 2, o[:, 1] ** 2, SIGN[:, 0], margin=0.1),
    "mse_loss": lambda o: F.mse_loss(o, Y),
    "mse_loss, weighted": lambda o: F.mse_loss(o, Y, weight=HOT + 0.5),
    "mse_loss, summed": lambda o: F.mse_loss(o, Y, reduction="sum"),
    "multi_margin_loss": lambda o: F.multi_margin_loss(o, CLASS, p=2),
    "multilabel_margin_loss": lambda o: F.multilabel_margin_loss(o**2, torch.tensor([[1, -1, 0]] * 6)),
    "multilabel_soft_margin_loss": lambda o: F.multilabel_soft_margin_loss(o, HOT),
    "nll_loss": lambda o: F.nll_loss(o.log_softmax(1), CLASS),
    "poisson_nll_loss": lambda o: F.poisson_nll_loss(o, HOT),
    "smooth_l1_loss": lambda o: F.smooth_l1_loss(o, Y, beta=0.6),
    "soft_margin_loss": lambda o: F.soft_margin_loss(o, SIGN),
    "triplet_margin_loss": lambda o: F.triplet_margin_loss(o[:2], o[2:4], o[4:], margin=3.0),
    "triplet_margin_with_distance_loss": lambda o: F.triplet_margin_with_distance_loss(
        o[:2], o[2:4], o[4:], margin=3.0
    ),
}
METHODS = ("graph", "fresh", "linearize", "differences", "auto", "ggn")
SECOND = {"ctc_loss", "multi_margin_loss", "multilabel_margin_loss"}  # without: torch 2.13 has no double backward
REFUSED = {
    *((name, method) for name in SECOND for method in ("graph", "fresh", "linearize", "ggn")),
    ("gaussian_nll_loss", "linearize"),  # it looks at its numbers, which a recording does not have
}


def by_differences(model: nn.Module, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """The Hessian (n, n) by central differences of gradients in float64."""
    params = list(model.parameters())
    start = nn.utils.parameters_to_vector(params).detach()
    rows = []
    for step in torch.eye(len(start), dtype=torch.float64) * 1e-5:
        ends = []
        for vector in (start + step, start - step):
            nn.utils.vector_to_parameters(vector, params)
            ends.append(nn.utils.parameters_to_vector(torch.autograd.grad(loss(model(X)), params)))
        rows.append((ends[0] - ends[1]) / 2e-5)
    nn.utils.vector_to_parameters(start, params)
    return torch.stack(rows)


def judge(name: str, method: str) -> str | float:
    """How far the products are off, relative to the Hessian; or the words of a refusal."""
    torch.manual_seed(1)
    model = nn.Linear(2, 3, dtype=torch.float64)  # linear: the Gauss-Newton matrix is the Hessian
    objective = es.Objective(model, lambda model, x: LOSSES[name](model(x)), X)
    right = by_differences(model, LOSSES[name])
    try:
        with objective.session():
            operator = GGNOperator(objective) if method == "ggn" else HessianOperator(objective, method)  # type: ignore[arg-type]
            found = [torch.stack([operator.matvec(e) for e in torch.eye(9, dtype=torch.float64)]) for _ in range(2)]
    except es.EigenstepError as error:
        return str(error)
    return max(float((one - right).norm() / right.norm()) for one in found)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_loss_by_every_method_is_right_or_refused_in_words(method: str) -> None:
    run = subprocess.run([sys.executable, __file__, method], capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout.splitlines()[-1])
    assert set(found) == set(LOSSES)
    for name, answer in found.items():
        if (name, method) in REFUSED:
            assert isinstance(answer, str), (name, answer)
            assert "Operator: " in answer
        else:
            assert not isinstance(answer, str), (name, answer)
            assert answer < 1e-6, (name, answer)


@pytest.mark.parametrize("name", ["mse_loss", "binary_cross_entropy_with_logits", "cosine_embedding_loss"])
def test_losses_that_were_recorded_wrongly(name: str) -> None:
    answer = judge(name, "linearize")
    assert not isinstance(answer, str)
    assert answer < 1e-6


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps({name: judge(name, sys.argv[1]) for name in LOSSES}))
