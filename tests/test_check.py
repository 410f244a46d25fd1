"""`check`: its sentence does what it says, its line of code runs and trains better than what stood before."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import lr_scheduler as schedulers

import eigenstep as es
from eigenstep.cli import main
from eigenstep.front.code import line_of

DIGITS = load_digits()
X, Y = torch.tensor(DIGITS.data / 16, dtype=torch.float32)[:512], torch.tensor(DIGITS.target)[:512]
BATCHES = [(X[i : i + 64], Y[i : i + 64]) for i in range(0, 512, 64)]


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, updates: int) -> float:
    for t in range(updates):
        optimizer.zero_grad()
        loss(model, BATCHES[t % len(BATCHES)]).backward()
        optimizer.step()
    return float(F.cross_entropy(model(X), Y).detach())


@pytest.mark.parametrize(
    ("lr", "verb", "failing"),
    [(1e-4, "Raise", False), pytest.param(0.7, "Keep", False, marks=pytest.mark.slow), (400.0, "Lower", True)],
)
def test_the_sentence_says_what_to_do_and_the_line_of_code_does_it(lr: float, verb: str, failing: bool) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.5, nesterov=True)
    found = es.check(model, loss, BATCHES, optimizer, seconds=300, horizon=200)
    assert found.sentence.startswith(f"{verb} the lr ")
    assert found.failing == failing
    assert found.lr == found.recommendation.lr
    names: dict[str, Any] = {"torch": torch, "model": model}
    exec(found.code, names)
    built = names["optimizer"]
    assert built.param_groups[0]["lr"] == pytest.approx(found.lr, rel=5e-3)
    assert {k: v for k, v in built.param_groups[0].items() if k not in ("lr", "params")} == {
        k: v for k, v in optimizer.param_groups[0].items() if k not in ("lr", "params")
    }
    old = copy.deepcopy(model)
    before = trained(old, torch.optim.SGD(old.parameters(), lr=lr, momentum=0.5, nesterov=True), 200)
    after = trained(model, built, 200)
    assert after < (1.6 * before if verb == "Keep" else before)


def test_a_model_that_no_lr_trains_gets_no_lr_and_says_what_to_look_at() -> None:
    model = network()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    model[1] = nn.ReLU()
    with torch.no_grad():
        model[0].bias.fill_(-1.0)
    found = es.check(
        model,
        lambda model, batch: model(batch[0]).square().mean() + 1,
        BATCHES[:2],
        torch.optim.SGD(model.parameters(), lr=0.1),
        horizon=100,
    )
    assert found.lr is None
    assert found.code == ""
    assert found.failing
    assert str(found).startswith(found.sentence)


def test_an_option_that_there_is_not_is_named() -> None:
    model = network()
    with pytest.raises(es.InvalidValue, match="no option fast="):
        es.check(model, loss, BATCHES, torch.optim.Adam(model.parameters()), fast=True)
    with pytest.raises(es.InvalidValue, match="seconds=0"):
        es.check(model, loss, BATCHES, torch.optim.Adam(model.parameters()), seconds=0)


def groups(model: nn.Module, *lrs: float) -> torch.optim.Optimizer:
    first, *rest = model.parameters()
    return torch.optim.AdamW([{"params": [first], "lr": lrs[0]}, {"params": rest, "lr": lrs[1]}])


class Own(torch.optim.SGD):
    """An optimizer that torch.optim does not have."""


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda m: torch.optim.AdamW(m.parameters()), "optimizer = torch.optim.AdamW(model.parameters(), lr=0.0123)"),
        (
            lambda m: torch.optim.Adam(m.parameters(), betas=(0.8, 0.999), amsgrad=True),
            "optimizer = torch.optim.Adam(model.parameters(), lr=0.0123, betas=(0.8, 0.999), amsgrad=True)",
        ),
        (
            lambda m: torch.optim.SGD(m.parameters(), lr=torch.tensor(0.5), weight_decay=1e-4),
            'for group in optimizer.param_groups: group["lr"] *= 0.0247',
        ),
        (lambda m: groups(m, 0.01, 0.02), 'for group in optimizer.param_groups: group["lr"] *= 1.23'),
        (lambda m: groups(m, 0.0, 0.02), 'for group in optimizer.param_groups: group["lr"] *= 0.617'),
        (
            lambda m: groups(m, 0.0, 0.0),
            'for group, lr in zip(optimizer.param_groups, [0.0123, 0.0123]): group["lr"] = lr',
        ),
        (lambda m: Own(m.parameters(), lr=0.1), 'for group in optimizer.param_groups: group["lr"] *= 0.123'),
        (
            lambda m: torch.optim.SGD(m[0].parameters(), lr=0.1),
            'for group in optimizer.param_groups: group["lr"] *= 0.123',
        ),
    ],
)
def test_the_line_keeps_everything_but_the_lr(make: Any, line: str) -> None:
    model = network()
    optimizer = make(model)
    told = line_of(model, optimizer, 0.01234)
    assert told == line
    names: dict[str, Any] = {"torch": torch, "model": model, "optimizer": optimizer}
    exec(told, names)
    built = names["optimizer"]
    moving = next(float(g["lr"]) for g in built.param_groups if float(g["lr"]) > 0)
    assert moving == pytest.approx(0.01234, rel=5e-3)


def test_an_optimizer_that_has_begun_is_not_built_anew() -> None:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    trained(model, optimizer, 3)
    assert line_of(model, optimizer, 0.02) == 'for group in optimizer.param_groups: group["lr"] *= 2'


@pytest.mark.parametrize(
    "make",
    [
        lambda o: schedulers.LambdaLR(o, lambda t: min(1, t / 10)),
        pytest.param(lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=60), marks=pytest.mark.slow),
        pytest.param(lambda o: schedulers.CosineAnnealingLR(o, 60), marks=pytest.mark.slow),
    ],
)
def test_where_a_scheduler_is_attached_the_line_reaches_its_peak(make: Any) -> None:
    model = network()
    optimizer = groups(model, 2e-3, 5e-4)
    scheduler = make(optimizer)
    found = es.check(model, loss, BATCHES, optimizer, horizon=60)
    names: dict[str, Any] = {"found": found, "optimizer": optimizer}
    exec(found.code, names)
    assert names["scheduler"] is scheduler
    lrs = []
    for _ in range(60):
        lrs.append([g["lr"] for g in optimizer.param_groups])
        optimizer.step()
        scheduler.step() if len(lrs) < 60 else None
    assert max(first for first, _ in lrs) == pytest.approx(found.lr)


def test_it_is_saved_and_read_again(tmp_path: Path) -> None:
    model = network()
    found = es.check(model, loss, BATCHES[:2], torch.optim.Adam(model.parameters()), horizon=60)
    found.save(tmp_path / "check.json")
    again = es.Check.load(tmp_path / "check.json")
    assert (again.sentence, again.lr, again.code) == (found.sentence, found.lr, found.code)
    assert again.diagnosis.verdict == found.diagnosis.verdict


SCRIPT = """
import torch
import eigenstep as es

def task(lr=0.001):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    x = torch.randn(32, 3)
    data = [(x[:16], x[:16].sum(1, keepdim=True)), (x[16:], x[16:].sum(1, keepdim=True))]
    objective = es.Objective(model, lambda m, b: (m(b[0]) - b[1]).square().mean(), data)
    return objective, torch.optim.SGD(model.parameters(), lr=lr)

def wild():
    return task(30.0)
"""


@pytest.mark.parametrize(("name", "code", "verb"), [("task", 0, "Raise"), ("wild", 3, "Lower")])
def test_the_command_says_the_same(tmp_path: Path, name: str, code: int, verb: str) -> None:
    (tmp_path / "train.py").write_text(SCRIPT, encoding="utf-8")
    told = CliRunner().invoke(main, ["check", f"{tmp_path / 'train.py'}:{name}", "--horizon", "100"])
    assert told.exit_code == code, told.output
    assert told.stdout.startswith(f"{verb} the lr from ")
    assert "optimizer = torch.optim.SGD(model.parameters(), lr=" in told.stdout
