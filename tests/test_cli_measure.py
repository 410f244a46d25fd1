"""`eigenstep measure FILE.py:FUNCTION`: what it writes, and what it says of code that will not do."""

import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import eigenstep as es
from eigenstep.cli import main

GOOD = """
import torch, eigenstep as es

def objective():
    model = torch.nn.Linear(3, 1, bias=False).double()
    x = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    return es.Objective(model, lambda model, x: (model(x) ** 2).mean() / 2, x), sgd

def broken():
    raise RuntimeError("no data\\nhere")

def number():
    return 3

def pair():
    return objective()[0], 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(GOOD)
    return path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["measure", *arguments])


def test_it_measures_and_writes(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run(f"{file}:objective", "--top", "2", "--layers", "--density", "--out", str(out), "--json")
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["kind"] == "measurement"
    assert content["values"] == pytest.approx([3.0, 4 / 3])  # x^2 / 3 for x = 3, 2
    assert math.fsum(content["shares"].values()) == pytest.approx(1)
    assert content["trace"]["value"] == pytest.approx(14 / 3)
    assert sorted(p.name for p in out.iterdir()) == sorted(content["files"])
    loaded = es.Spectrum.load(out / "spectrum.json")
    assert loaded.covers == "top"
    assert es.predict(es.GradientDescent(lr=0.1), loaded).max_stable_lr == pytest.approx(2 / 3)


def test_words(file: Path, tmp_path: Path) -> None:
    result = run(f"{file}:objective", "--top", "1", "--preconditioned", "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert "certified" in result.stdout
    assert "100.0%" in result.stdout


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("nowhere.py:objective", "no such file"),
        ("mine.py", "FILE.py:FUNCTION"),
        ("mine.py:objectiv", "did you mean 'objective'"),
        ("mine.py:broken", "RuntimeError: no data here (mine.py, line 11)"),
        ("mine.py:number", "returned int"),
        ("mine.py:pair", "returned int beside"),
    ],
)
def test_one_line_for_what_will_not_do(file: Path, monkeypatch: pytest.MonkeyPatch, target: str, says: str) -> None:
    monkeypatch.chdir(file.parent)
    result = run(target)
    assert result.exit_code == 2
    assert says in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_file_that_does_not_import(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import nothing_of_that_name\n")
    result = run(f"{tmp_path / 'bad.py'}:objective")
    assert result.exit_code == 2
    assert "ModuleNotFoundError" in result.stderr


FOUR = """
import eigenstep as es
import torch


def task(kept=True, foreign=False):
    model = torch.nn.Linear(2, 1)
    batches = [(torch.eye(2), torch.ones(2, 1))]
    objective = es.Objective(model, lambda m, batch: (m(batch[0]) - batch[1]).square().mean(), batches)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)
    if foreign:
        scheduler = torch.optim.lr_scheduler.StepLR(torch.optim.SGD(model.parameters(), lr=0.1), 3)
    return (objective, optimizer, None, scheduler) if kept else (objective, optimizer)


def gone():
    return task(kept=False)


def foreign():
    return task(foreign=True)


def five():
    return (*task(), 1)
"""


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("task", 0, "CosineAnnealingLR"),
        ("gone", 2, "is gone"),
        ("foreign", 2, "returned StepLR as the optimizer's scheduler"),
        ("five", 2, "returned 5 things"),
    ],
)
def test_a_scheduler_that_is_returned_is_kept_alive(tmp_path: Path, name: str, code: int, says: str) -> None:
    (tmp_path / "four.py").write_text(FOUR)
    result = CliRunner().invoke(main, ["diagnose", f"{tmp_path / 'four.py'}:{name}", "--quick", "--json"])
    assert result.exit_code == code, result.output
    assert says in result.output
