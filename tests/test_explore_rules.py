"""The explorer's arithmetic in the real browser, against golden vectors that eigenstep generates here."""

from typing import Any

import pytest
import torch
from playwright.sync_api import Page

import eigenstep as es
from eigenstep.page import Server
from eigenstep.rules import RULES, Rule, rule_named
from eigenstep.theory import frozen_limit, largest_stable_eigenvalue, radii, tune

STEPS, F64 = 200, torch.float64
TUNED = ("gradient-descent", "heavy-ball", "nesterov")  # whose best lr is compared: Python's search takes a second each
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("gradient-descent", {"lr": 0.019}),
    ("gradient-descent", {"lr": 0.0215, "weight_decay": 0.3}),  # leaves
    ("gradient-descent", {"lr": 0.01, "weight_decay": 0.5, "decoupled": True}),
    ("heavy-ball", {"lr": 0.01}),  # complex roots
    ("heavy-ball", {"lr": 0.0395}),  # leaves
    ("heavy-ball", {"lr": 0.01, "weight_decay": 0.5, "decoupled": True}),
    ("momentum", {"lr": 0.02, "momentum": 0.9, "dampening": 0.5}),
    ("momentum", {"lr": 0.01}),
    ("ema-momentum", {"lr": 0.2}),
    ("ema-momentum", {"lr": 0.02, "momentum": 0.3}),  # the other half of lerp
    ("nesterov", {"lr": 0.012}),
    ("nesterov", {"lr": 0.0145, "weight_decay": 0.2}),  # leaves
    ("adagrad", {"lr": 0.3}),
    ("adagrad", {"lr": 0.3, "lr_decay": 0.02, "initial_accumulator_value": 0.1, "delta": 1e-6}),
    ("rmsprop", {"lr": 0.01}),
    ("rmsprop", {"lr": 0.01, "momentum": 0.9, "centered": True, "eps": 0.01, "weight_decay": 0.1}),
    ("rmsprop", {"lr": 0.01, "alpha": 0.4, "delta": 1e-4}),
    ("adam", {"lr": 0.0198}),
    ("adam", {"lr": 0.05, "amsgrad": True, "weight_decay": 0.1}),
    ("adam", {"lr": 0.003, "delta": 1e-6, "betas": (0.4, 0.45)}),
    ("adam", {"lr": 2.0, "eps": 3.0}),  # above its limit
    ("adamw", {"lr": 0.02, "weight_decay": 0.5}),
    ("adamw", {"lr": 0.02, "amsgrad": True}),
    ("adamax", {"lr": 0.02}),
    ("nadam", {"lr": 0.02}),
    ("nadam", {"lr": 0.02, "momentum_decay": 0.5, "weight_decay": 0.1, "decoupled": True}),
    ("radam", {"lr": 0.02}),
    ("radam", {"lr": 0.02, "betas": (0.8, 0.95), "delta": 1e-8}),
    ("sign-descent", {"lr": 0.013}),
    ("lion", {"lr": 0.013, "weight_decay": 0.1}),
]


def golden(rule: Rule, angle: float | None, point: str) -> tuple[list[float], list[float]]:
    """Points of the run, flat, and the largest value so far at each."""
    problem = es.Quadratic([1.0, 100.0], [0.8, 0.6], start=[0.0, 0.0])
    if angle is not None:
        problem = problem.rotated(angle=angle)
    run = es.simulate(rule, problem, steps=STEPS, keep=("points",), point=point)
    assert run.points is not None
    largest = run.points.abs().amax(-1).cummax(0).values.clamp(min=1.0)
    return run.points.flatten().tolist(), largest.tolist()


def in_browser(hyperparameters: dict[str, Any]) -> dict[str, Any]:
    """The same under the page's flat names."""
    flat = {name: value for name, value in hyperparameters.items() if name != "betas"}
    if "betas" in hyperparameters:
        flat["beta1"], flat["beta2"] = hyperparameters["betas"]
    return flat


def test_every_rule_is_there(page: Page) -> None:
    with Server() as server:
        page.goto(server.url)
        names = page.evaluate("import('./rules.js').then((m) => Object.keys(m.RULES))")
    assert sorted(names) == sorted(RULES)
    assert {name for name, _ in VARIANTS} == set(RULES)


def test_the_recurrences_are_those_of_python(page: Page) -> None:
    cases, wanted = [], []
    for name, given in VARIANTS:
        for angle in (None, 0.6) if len(given) == 1 else (0.6,):
            points = ("iterate", "stored") if name == "nesterov" else ("iterate",)
            for point in points:
                cases.append([name, in_browser(given), angle or 0, point == "stored"])
                wanted.append(golden(rule_named(name, **given), angle, point))
    with Server() as server:
        page.goto(server.url)
        found = page.evaluate(
            """async (cases) => {
              const {RULES, settings} = await import('./rules.js'), {Quadratic} = await import('./problems.js');
              const {simulate} = await import('./simulate.js');
              return cases.map(([name, changes, angle, stored]) => {
                const problem = new Quadratic([1, 100], [0.8, 0.6], angle), p = settings(name, changes);
                const start = problem.point([-0.8, -0.6]);
                const run = simulate(RULES[name], p, problem, start, {steps: 200, stored});
                return Array.from(run.points.subarray(0, 2 * (run.last + 1)));
              });
            }""",
            cases,
        )
    for case, points, (expected, largest) in zip(cases, found, wanted, strict=True):
        assert len(points) == 2 * (STEPS + 1), case
        off = (torch.tensor(points, dtype=F64) - torch.tensor(expected, dtype=F64)).reshape(-1, 2).abs().amax(-1)
        relative = float((off / torch.tensor(largest, dtype=F64)).max())
        assert relative < 1e-10, (case, relative)


def test_limits_best_lr_and_counts_are_those_of_python(page: Page) -> None:
    spectrum = es.Spectrum.from_eigenvalues([1.0, 7.0, 100.0])
    chosen = [(name, given) for name, given in VARIANTS if isinstance(rule_named(name, **given), es.LinearRule)]
    plain = [(name, given) for name, given in chosen if not rule_named(name, **given).adaptive]
    start = [-0.8, 0.5, -0.6]
    with Server() as server:
        page.goto(server.url)
        found = page.evaluate(
            """async ([cases, start]) => {
              const {RULES, settings} = await import('./rules.js'), theory = await import('./theory.js');
              return cases.map(([name, changes]) => {
                const rule = RULES[name], p = settings(name, changes), values = [1, 7, 100];
                const options = {tolerance: 1e-6, kept: 50, shown: 0, budget: 1e6};
                const foretold = theory.predict(rule, p, values, start, [0, 0, 0], options);
                return {
                  limit: theory.frozenLimit(rule, p, 100), radii: values.map((v) => theory.radius(rule, p, v)),
                  best: theory.bestLr(rule, p, values), bears: theory.largestStableEigenvalue(rule, p),
                  steps: foretold?.steps ?? null, settled: foretold?.settled ?? null,
                  losses: foretold ? Array.from(foretold.losses) : null,
                };
              });
            }""",
            [[[name, in_browser(given)] for name, given in chosen], start],
        )
    for (name, given), js in zip(chosen, found, strict=True):
        rule = rule_named(name, **given)
        assert isinstance(rule, es.LinearRule)
        exact = {"rel": 1e-9, "abs": 1e-12}
        assert js["limit"] == pytest.approx(float(frozen_limit(rule, torch.tensor(100.0, dtype=F64))), **exact), name
        assert js["radii"] == pytest.approx(radii(rule, spectrum.eigenvalues).tolist(), **exact), name
        assert js["bears"] == pytest.approx(largest_stable_eigenvalue(rule), **exact), name
        if (name, given) not in plain:
            assert js["steps"] is None
            continue
        if name in TUNED and len(given) == 1:
            tuned = tune(rule, spectrum)
            assert js["best"]["rate"] == pytest.approx(tuned.rate, rel=1e-8), name
            assert js["best"]["lr"] == pytest.approx(tuned.lr, rel=1e-3), name
        if rule.weight_decay == 0:  # with decay the page counts about the loss's own minimum
            fate = es.predict(rule, spectrum, start=start, loss=1e-6)
            assert (js["steps"], js["settled"]) == (fate.steps, fate.settled), (name, given)


def test_predicted_losses_with_decay_are_those_simulated(page: Page) -> None:
    with Server() as server:
        page.goto(
            server.url + "#rule=heavy-ball,lr=0.01,weight_decay=0.5&rule=nesterov,lr=0.01,weight_decay=0.1"
            "&rule=heavy-ball,lr=0.01,weight_decay=0.5,decoupled=true&angle=30&steps=400"
        )
        page.wait_for_selector("html[data-ready]")
        off = page.evaluate(
            """() => explorer.model.racers.map((r) => {
              let worst = 0;
              for (let k = 0; k <= r.run.last; k++)
                worst = Math.max(worst, Math.abs(r.run.losses[k] - r.prediction.losses[k]) / r.run.losses[0]);
              return worst;
            })"""
        )
    assert max(off) < 1e-12


def test_surfaces_are_those_of_python(page: Page) -> None:
    points = torch.randn(40, 2, generator=torch.Generator().manual_seed(3), dtype=F64) * 1.5
    with Server() as server:
        page.goto(server.url)
        found = page.evaluate(
            """async (points) => {
              const {Rosenbrock, DoubleWell} = await import('./problems.js');
              return [new Rosenbrock(), new DoubleWell()].map((problem) => ({
                values: [...problem.eigenvalues],
                rows: points.map((x) => {
                  const g = [0, 0], loss = problem.lossAndGradient(x, g);
                  return [loss, problem.height(...x), ...g];
                }),
              }));
            }""",
            points.tolist(),
        )
    for problem, js in zip((es.Rosenbrock(), es.DoubleWell(dimension=2)), found, strict=True):
        losses, gradients = problem.loss_and_gradient(points)
        wanted = torch.cat([losses[:, None], losses[:, None], gradients], dim=1)
        torch.testing.assert_close(torch.tensor(js["rows"], dtype=F64), wanted, rtol=1e-10, atol=1e-9)
        sharp = torch.linalg.eigvalsh(problem.hessian(problem.minima[-1]))
        assert sorted(js["values"]) == pytest.approx(sharp.tolist(), rel=1e-9)
