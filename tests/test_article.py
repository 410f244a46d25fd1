"""The article reproduced: against its own loop, the textbook's formulas, brute force over lr; what its figures show."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import eigenstep as es
from eigenstep.article.experiments import ETA_MAX, ETA_STAR, EXPERIMENTS, Outcome, predicted_count, run_experiments
from eigenstep.article.figures import FIGURES, Results
from eigenstep.article.tuned import CONTENDERS, settled_counts, tune_alike
from eigenstep.article.wells import well_shares
from eigenstep.problems import article

AS_PRINTED: dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
    "gradient-descent-too-high": lambda p: torch.optim.SGD(p, lr=1.01 * ETA_MAX),
    "gradient-descent": lambda p: torch.optim.SGD(p, lr=ETA_STAR),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.175 * ETA_STAR, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=ETA_STAR),
}


def the_articles_loop(make: Callable[[list[Tensor]], torch.optim.Optimizer]) -> tuple[int, Tensor]:
    """Its code, `minima` spelt as it is defined: passes, and the history of points."""
    minima = torch.Tensor([0.8, 0.6])

    def f(p: Tensor) -> Tensor:
        h = torch.Tensor([[1, 0], [0, 100]])
        delta = p - minima
        return delta @ h @ delta / 2

    p = torch.tensor([0.0, 0.0], requires_grad=True)
    opt = make([p])
    history = [p.detach().clone()]
    f_eval: Tensor | float = 1
    epoch = 0
    while f_eval > 1e-6 and epoch < int(1e4) and abs(p[0]) < 5 and abs(p[1]) < 5:
        f_eval = f(p)
        f_eval.backward()
        opt.step()
        opt.zero_grad()
        history.append(p.detach().clone())
        epoch += 1
    return epoch, torch.stack(history)


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    return {outcome.experiment.name: outcome for outcome in run_experiments()}


@pytest.fixture(scope="module")
def results(outcomes: dict[str, Outcome]) -> Results:
    return Results(tuple(outcomes.values()), tune_alike())


@pytest.mark.parametrize(("name", "count"), [("gradient-descent", 420), ("momentum", 137), ("adam", 117)])
def test_the_printed_counts(outcomes: dict[str, Outcome], name: str, count: int) -> None:
    outcome = outcomes[name]
    assert (outcome.article_count, outcome.float32, outcome.experiment.printed) == (count, count, count)
    assert not outcome.diverged
    assert outcome.exact


def test_it_diverges_at_pass_101(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["gradient-descent-too-high"]
    assert (outcome.article_count, outcome.float32, outcome.predicted, outcome.diverged) == (101, 101, 101, True)
    # .6 * 1.02^t first reaches 5 - .6 or, on the other side, 5 + .6, in the sharp coordinate
    assert next(t for t in range(200) if abs(0.6 - 0.6 * (-1.02) ** t) >= 5) == 101


@pytest.mark.parametrize("name", AS_PRINTED)
def test_against_the_articles_own_loop(outcomes: dict[str, Outcome], name: str) -> None:
    epochs, history = the_articles_loop(AS_PRINTED[name])
    assert epochs == outcomes[name].article_count
    shared = min(len(history), len(outcomes[name].points))
    assert shared >= epochs  # the loop takes one step beyond the loss that ends it
    assert (history[:shared] - outcomes[name].points[:shared]).abs().max() < 1e-4 * history.abs().max()


def test_predicted_is_measured_and_at_45_degrees(outcomes: dict[str, Outcome]) -> None:
    for name in ("gradient-descent", "momentum"):
        outcome = outcomes[name]
        assert outcome.predicted == outcome.article_count == outcome.rotated == outcome.predicted_rotated
        assert outcome.settled == outcome.predicted_settled
    assert [outcomes[name].settled for name in ("gradient-descent", "momentum")] == [419, 160]
    adam = outcomes["adam"]
    assert (adam.rotated, adam.predicted, adam.settled) == (1265, None, None)
    assert (adam.last_above, adam.within) == (164, 10_000)


def test_a_prediction_of_all_passes_is_none() -> None:
    assert predicted_count(es.GradientDescent(lr=ETA_MAX), article()) is None  # oscillates for ever
    assert predicted_count(es.GradientDescent(lr=1e-5), article()) is None  # too slow


def test_every_optimiser_tuned_alike(results: Results) -> None:
    found = {one.name: one for one in results.tuned}
    counts = {name: one.measured for name, one in found.items()}
    assert counts == {
        "heavy ball, β*": 46,
        "heavy ball, β*, Polyak's lr": 66,
        "Nesterov, .9": 94,
        "heavy ball, .9": 155,
        "gradient descent": 320,
        "Adam, default betas": 148,
    }
    for one in found.values():
        assert one.predicted == (None if isinstance(one.rule, es.Adam) else one.measured)
    adam = found["Adam, default betas"]
    assert (adam.within, adam.tried) == (10_000, 1000)


@pytest.mark.parametrize("name", [c.name for c in CONTENDERS[:-1] if not c.fixed])
def test_no_lr_does_better(results: Results, name: str) -> None:
    best = next(one for one in results.tuned if one.name == name)
    lr = best.lr * torch.linspace(0.2, 1.3, 9001, dtype=torch.float64)  # fine enough for a window of 1 in 3,000
    counts = settled_counts(best.rule, lr, 400).nan_to_num(math.inf)
    assert counts.min() == best.measured


def test_lr_selects_between_the_wells() -> None:
    well = es.DoubleWell(flat=4.0, sharp=100.0)
    shares = well_shares(well, torch.tensor([0.01, 0.0195, 0.0202, 0.1, 0.6], dtype=torch.float64))
    assert bool((shares.sharp[:2] > 0.1).all())
    assert shares.sharp[2:].tolist() == [0.0, 0.0, 0.0]
    assert shares.flat[3:].tolist() == [1.0, 0.0]
    assert (shares.sharp + shares.flat)[0] == 1.0


def test_the_article_has_its_five_figures_and_more() -> None:
    assert {"overall-convergence", *(e.name for e in EXPERIMENTS)} < set(FIGURES)
    assert len(FIGURES) == 11


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n in ("tuned-alike", "double-well") else []) for n in FIGURES],
)
def test_every_axis_of_every_figure_says_what_it_is(results: Results, name: str) -> None:
    figure = FIGURES[name](results)
    axes = [ax for ax in figure.axes if ax.get_visible()]
    assert axes
    for ax in axes:
        assert ax.get_xlabel()
        named = [label.get_text() for label in ax.get_yticklabels()]
        assert ax.get_ylabel() or any(text.strip("0123456789.−") for text in named)
        assert ax.lines or ax.patches


def test_overall_convergence_marks_a_third_and_two_thirds(results: Results) -> None:
    (ax,) = FIGURES["overall-convergence"](results).axes
    cross = next(line for line in ax.lines if line.get_marker() == "x")
    assert [float(cross.get_xdata()[0]), float(cross.get_ydata()[0])] == pytest.approx([1 / 3, 2 / 3])  # type: ignore[index]
    band = ax.lines[0].get_ydata()  # R, the largest
    assert min(band) == pytest.approx(2 / 3, abs=2e-3)  # type: ignore[arg-type]


def test_the_predicted_losses_lie_on_the_measured_ones(results: Results) -> None:
    (ax,) = FIGURES["losses"](results).axes
    measured = [line for line in ax.lines if line.get_alpha()]
    predicted = [line for line in ax.lines if line.get_linestyle() == "--" and len(line.get_xdata()) > 2]  # type: ignore[arg-type]
    assert (len(measured), len(predicted)) == (4, 3)
    for seen, said in zip(measured, predicted, strict=False):
        assert list(said.get_ydata()) == pytest.approx(list(seen.get_ydata()), rel=1e-9)  # type: ignore[arg-type]


def test_a_trajectory_is_the_run(results: Results) -> None:
    (ax,) = FIGURES["momentum"](results).axes
    drawn = torch.tensor(ax.lines[0].get_xydata())
    assert torch.equal(drawn, results["momentum"].points)
