"""What is given wrong is named in words, on the command line and in Python; a user's prints stay out of the JSON."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import eigenstep as es
from eigenstep.cli import main

HEAD = """
import torch, eigenstep as es
print("imported")
def loss(model, x):
    print("a user's line")
    return (model(x) ** 2).mean()
def build():
    print("built")
    model = torch.nn.Linear(2, 1)
    return es.Objective(model, loss, torch.ones(3, 2)), torch.optim.SGD(model.parameters(), lr=0.1)
"""


def test_a_users_prints_do_not_land_in_the_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("noisy.py").write_text(HEAD)
    words = ["measure", "--quick", "noisy.py:build", "--json"]
    call = [sys.executable, "-m", "eigenstep", *words]
    process = subprocess.run(call, capture_output=True, text=True, timeout=200, check=False)
    words[0] = "diagnose"
    here = CliRunner().invoke(main, words)
    for code, out, err in (
        (process.returncode, process.stdout, process.stderr),
        (here.exit_code, here.stdout, here.stderr),
    ):
        assert code in (0, 3), err
        assert json.loads(out)["kind"] and "a user's line" in err and "built" in err


WRONG = [
    (HEAD + "obj = build()[0]", "obj", "'obj' is Objective, not a function"),
    (HEAD + "async def later(): return build()", "later", "'later' is an async function; write a plain one"),
    ("x = 3", "build", "function 'build' does not exist, nor does any other"),
    ("def build(:", "build", "(wrong2.py, line 1)"),
]


@pytest.mark.parametrize("case", range(len(WRONG)))
def test_a_target_that_will_not_do_is_told_once_and_in_words(case: int, tmp_path: Path) -> None:
    text, name, said = WRONG[case]
    file = tmp_path / "wrong2.py"
    file.write_text(text)
    done = CliRunner().invoke(main, ["diagnose", f"{file}:{name}"])
    assert done.exit_code == 2 and done.stderr.count(said) == 1, done.stderr
    assert done.stderr.count("line 1)") <= 1 and "Traceback" not in done.stderr


def test_python_finds_the_command_line_as_a_module() -> None:
    call = [sys.executable, "-m", "eigenstep", "--version"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.startswith("eigenstep ")


MODEL = nn.Linear(2, 1)


def objective() -> es.Objective:
    return es.Objective(MODEL, lambda model, x: (model(x) ** 2).mean(), torch.ones(3, 2))


def no_loss(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model(x).sum()


def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD(MODEL.parameters(), lr=0.1)


REFUSED: list[tuple[Any, str]] = [
    (lambda: es.Optimizer(MODEL, es.Adam()), "Linear is no parameters; give model.parameters()"),  # type: ignore
    (lambda: es.Optimizer(3, es.Adam()), "int is no parameters"),  # type: ignore
    (lambda: es.diagnose(objective(), sgd(), clip="1"), "clip='1' must be positive"),  # type: ignore
    (lambda: es.diagnose(objective(), sgd(), train=5), "train is int, which yields no batches"),
    (lambda: es.diagnose(objective(), sgd(), batches=-1), "batches=-1 must be a whole number"),
    (lambda: es.diagnose(objective(), sgd(), seed="a"), "seed='a' must be a whole number"),  # type: ignore
    (lambda: es.measure(objective(), seed="a"), "seed='a' must be a whole number"),  # type: ignore
    (lambda: es.density(objective(), seed=1.0), "density: seed=1.0 must be a whole number"),  # type: ignore
    (lambda: es.trace(objective(), seed=None), "trace: seed=None must be a whole number"),  # type: ignore
    (lambda: es.density(objective(), "a"), "density: probes='a' must be a whole number, at least 1"),  # type: ignore
    (lambda: es.density(objective(), steps=2.5), "density: steps=2.5 must be a whole number"),  # type: ignore
    (lambda: es.trace(objective(), 5), "trace: products=5 must be a whole number, at least 6"),
    (lambda: es.trace(objective(), level="a"), "trace: level='a' must lie between 0 and 1"),  # type: ignore
    (lambda: es.measure(objective(), tol="a"), "measure: tol='a' must lie between 0 and 1"),  # type: ignore
    (lambda: es.measure(objective(), True), "measure: top=True must be a whole number"),
    (lambda: es.limit_now(objective(), sgd(), tol=None), "tol=None must lie between 0 and 1"),  # type: ignore
    (lambda: es.critical_sharpness(objective(), sgd(), max_passes=0), "max_passes=0 must be a whole number"),
    (lambda: es.critical_sharpness(objective(), sgd(), tol=1), "critical_sharpness: tol=1 must lie between 0 and 1"),
    (lambda: es.Monitor(objective(), sgd(), seed="a"), "Monitor: seed='a' must be a whole number"),  # type: ignore
    (lambda: es.measure(objective(), seed=2**70), "must be a whole number, below 2**62"),
    (lambda: es.Quadratic([1.0, 2.0], seed="a"), "Quadratic: seed='a' must be a whole number"),  # type: ignore
    (lambda: es.Objective(MODEL, no_loss, torch.ones(3, 2), seed=True), "Objective: seed=True must be"),
    (lambda: es.Monitor(objective(), sgd()).step("x"), "loss must be a number, or a tensor that holds one, not a str"),
    (lambda: es.Monitor(objective(), sgd()).step("1.5"), "not a str"),  # type: ignore
    (lambda: es.Monitor(objective(), sgd()).step([0.5]), "not a list"),  # type: ignore
    (lambda: es.Monitor(objective(), sgd()).step(torch.ones(2)), "not a Tensor of shape (2,)"),
    (lambda: es.Monitor(objective(), sgd()).step(torch.ones(1) * 1j), "not a Tensor of shape (1,)"),
    (lambda: es.diagnose(objective(), 0.1), "0.1 is not a torch optimizer"),  # type: ignore
    (lambda: es.diagnose(objective(), "sgd"), "'sgd' is not a torch optimizer"),  # type: ignore
    (lambda: es.diagnose(objective(), MODEL), "Linear is not a torch optimizer"),  # type: ignore
    (lambda: es.measure(torch.eye(2), 1, [(torch.ones(500, 2),)]), "which= must be one of"),  # type: ignore
    (lambda: es.Spectrum.load(None), "a path is needed"),  # type: ignore
]


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_what_is_given_wrong_in_python_is_named(case: int) -> None:
    call, said = REFUSED[case]
    with pytest.raises(es.EigenstepError) as caught:
        call()
    assert said in str(caught.value) and len(str(caught.value)) < 250
