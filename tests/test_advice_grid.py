"""The grid that advice is scored against: side by side as alone in torch, schedules included; scores by hand."""

import math
from dataclasses import replace

import pytest
import torch
from benchmarks.advice.grid import Case, load, planned
from benchmarks.advice.lanes import CONSTANT, SETTINGS, Setting, batches, train
from benchmarks.advice.tasks import TASKS, Task, optimizer_of
from torch.optim.lr_scheduler import LambdaLR

NAMED = {task.name: task for task in TASKS}


def alone(task: Task, optimizer: str, lr: float, seed: int, setting: Setting) -> float:
    """The loss on all data after a plain loop of torch's own."""
    model = task.model(seed).train()
    stepper = optimizer_of(optimizer, model, lr)
    scheduler = LambdaLR(stepper, lambda done: setting.factor(done + 1))
    x, y = task.data()
    for rows in batches(len(x), setting.steps, seed, setting.batch_of(task)):
        stepper.zero_grad()
        task.loss(model(x[rows]), y[rows]).backward()
        stepper.step()
        scheduler.step()
    with torch.no_grad():
        return float(task.loss(model(x), y))


@pytest.mark.parametrize(
    ("name", "optimizer", "setting"),
    [
        ("character transformer", "adamw", CONSTANT),
        ("LSTM on characters", "momentum", SETTINGS["cosine"]),
        ("BatchNorm, decay", "decayed momentum", SETTINGS["cosine"]),
        ("embeddings, rare words", "adam", SETTINGS["batch 8"]),
        ("fine-tuning", "sgd", CONSTANT),
    ],
)
def test_runs_side_by_side_are_those_of_a_plain_loop(name: str, optimizer: str, setting: Setting) -> None:
    task, short, lrs = NAMED[name], replace(setting, steps=20), [3e-3, 1e-2]
    found = train(task, optimizer, lrs, (0, 1), setting=short).final
    truth = [[alone(task, optimizer, lr, seed, short) for seed in (0, 1)] for lr in lrs]
    torch.testing.assert_close(found, torch.tensor(truth).double(), rtol=2e-4, atol=0)


def test_a_cosine_rises_over_its_warm_up_and_falls_to_nothing() -> None:
    cosine = SETTINGS["cosine"]
    factors = [cosine.factor(t) for t in range(1, cosine.steps + 1)]
    assert factors[0] == pytest.approx(1 / 101) and factors[100] == max(factors) == 1.0
    assert factors[550] == pytest.approx(0.5) and factors[-1] == pytest.approx((math.pi / 900) ** 2 / 4, rel=1e-4)
    assert {CONSTANT.factor(t) for t in (1, 500, 1000)} == {1.0}


def test_scores_ceiling_and_failure_of_a_case_by_hand() -> None:
    e = math.e
    runs = ((1 / e, 1 / e), (e**-4, e**-2), (e**-2, e**-3), (math.inf, 2.0), (3.0, 0.9))
    case = Case(NAMED["tanh"], "adam", CONSTANT, (1.0, 1.0), (0.1, 0.2, 0.4, 0.8, 1.6), runs)
    assert case.best == pytest.approx((e**-4 + e**-2) / 2) and case.best_lr == 0.2
    assert case.score(case.best) == 1.0 and case.score(case.best / 2) == 1.0 and case.score(1.0) == 0.0
    assert case.score(math.inf) == case.score(1.02) == -1.0
    assert case.ceiling == pytest.approx((2 / 4 + 2 / 3) / 2)  # each seed's best lr gets the other to e^-2
    assert [case.fails(lr) for lr in case.lrs] == [False, False, False, True, None]
    assert case.between(math.sqrt(0.1 * 0.2)) == pytest.approx(math.sqrt(case.finals[0] * case.finals[1]))
    assert case.between(0.7) == math.inf and case.between(0.05) is None


def test_both_halves_have_fifteen_tasks_and_the_grid_holds_every_case() -> None:
    assert [sum(task.half == half for task in TASKS) for half in ("development", "held out")] == [15, 15]
    assert len(NAMED) == 30
    kept = {(case.task.name, case.optimizer, case.setting.name) for name in SETTINGS for case in load(setting=name)}
    assert kept == {(task.name, optimizer, setting.name) for task, optimizer, setting in planned()}
