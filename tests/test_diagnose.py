"""diagnose: its numbers in closed form, its files, its command, and that everything the user owns is left alone."""

import copy
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from contracts.snapshot import Snapshot
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import eigenstep as es
from eigenstep.cli import main
from eigenstep.curvature.operators.hessian import HessianOperator
from eigenstep.diagnosis.page import diagnosis_page
from eigenstep.diagnosis.sentence import sentence_of
from eigenstep.diagnosis.verdict import VERDICTS, VerdictInputs, ZeroGradient, code_of
from eigenstep.files import read_envelope
from eigenstep.html import Page
from eigenstep.theory import radii

F64 = torch.float64
CURVES = torch.tensor([8.0, 3.0, 1.0, 0.3, 0.01, 1e-4], dtype=F64)


class Bowl(nn.Module):
    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.steep, self.flat = nn.Parameter(start[:2].clone()), nn.Parameter(start[2:].clone())


def bowl(net: Bowl, _: Any) -> Tensor:
    return 0.5 * (CURVES * torch.cat([net.steep, net.flat]) ** 2).sum()


def problem() -> tuple[Bowl, es.Objective]:
    net = Bowl(torch.tensor([0.3, -0.5, 0.7, 1.0, 1.0, 2.0], dtype=F64))
    return net, es.Objective(net, bowl, torch.zeros(1))


def test_a_quadratic_in_closed_form() -> None:
    net, objective = problem()
    sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.5)
    found = es.diagnose(objective, sgd, horizon=60)
    assert found.limit is not None and found.direction is not None and found.slow is not None
    assert found.max_stable_lr == pytest.approx(3 / 8) and found.ratio == pytest.approx(0.1 * 8 / 3)
    assert found.shares == {"steep": pytest.approx(1), "flat": pytest.approx(0, abs=1e-9)}
    assert found.direction.where == "100% in steep" and found.direction.origin == "curvature"
    assert found.direction.smooth is True
    assert found.direction.step.curvatures == pytest.approx((8, 8), rel=1e-3)
    assert found.lowest is not None and float(found.lowest.values[0]) == pytest.approx(1e-4, rel=0.1)
    start = bowl(net, None).item()
    rule = es.Momentum(lr=0.1, momentum=0.5)
    error = torch.cat([net.steep, net.flat]).detach() * radii(rule, CURVES) ** 60
    assert found.slow.progress == pytest.approx(1 - float((CURVES * error**2).sum() / 2) / start, rel=1e-6)
    assert set(np.round(found.slow.density.values.numpy() * 3 / 0.1, 6)) <= set(np.round(CURVES.numpy(), 6))
    surely = [bool(r**60 > 0.9) for r in radii(rule, CURVES)]
    gradient = (CURVES * torch.cat([net.steep, net.flat]).detach()) ** 2
    assert found.slow.gradient_stuck[0] == pytest.approx(float(gradient[surely].sum() / gradient.sum()), rel=1e-6)
    assert found.slow.gradient_norm == pytest.approx(float(gradient.sum().sqrt()))


def test_the_table_of_changes_is_the_theory() -> None:
    net, objective = problem()
    found = es.diagnose(objective, torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.5))
    rows = {change.name: change for change in found.changes}
    bare: dict[str, Any] = {"lr": 0.1}
    decayed = 8.5
    assert rows["as it is"].max_stable_lr == pytest.approx(3.8 / decayed)
    assert rows["half the lr"].ratio == pytest.approx(rows["as it is"].ratio / 2)
    assert rows["momentum off"].max_stable_lr == pytest.approx(2 / decayed)
    nesterov = rows["nesterov, momentum 0.9"]
    assert nesterov.max_stable_lr == pytest.approx(es.max_stable_lr(es.Nesterov(**bare), decayed))
    assert rows["as it is"].max_stable_lr / nesterov.max_stable_lr == pytest.approx(2.8)
    assert rows["decay off"].max_stable_lr == pytest.approx(3.8 / 8)
    adam = es.limit_now(objective, torch.optim.Adam(net.parameters()))
    assert rows["Adam, lr 0.001"].max_stable_lr == pytest.approx(adam.max_stable_lr, rel=0.01)
    assert rows["as it is"].largest_stable == pytest.approx(38)


def test_what_puts_the_direction_there() -> None:
    net, objective = problem()
    with torch.no_grad():
        net.flat[0] = 1e-2  # a gradient of 1e-2 where the curvature is 1: 100 in Adam's unit
    adam = torch.optim.Adam(net.parameters(), lr=1e-3)
    found = es.diagnose(objective, adam)
    assert found.direction is not None and found.direction.origin == "preconditioner"
    assert found.shares["flat"] == pytest.approx(1)
    assert found.direction.of_sharpest is not None and found.direction.of_sharpest < 0.5
    groups = [{"params": [net.steep], "lr": 1e-4}, {"params": [net.flat], "lr": 0.1}]
    found = es.diagnose(objective, torch.optim.SGD(groups))
    assert found.direction is not None and found.direction.origin == "lr ratios"
    assert found.shares["flat"] == pytest.approx(1)


def test_all_downhill_is_no_saddle_while_there_is_a_gradient() -> None:
    net = nn.Linear(3, 1, bias=False).double()
    objective = es.Objective(net, lambda net, x: -0.5 * (net(x) ** 2).sum() + 10, torch.eye(3, dtype=F64))
    found = es.diagnose(objective, torch.optim.SGD(net.parameters(), lr=0.1))
    assert found.verdict == "safe" and found.max_stable_lr == float("inf") and "nothing limits" in found.sentence
    assert found.lowest is not None and float(found.lowest.values[0]) == pytest.approx(-1, rel=0.1)
    assert json.loads(found.to_json())["max_stable_lr"] == "inf"
    with torch.no_grad():
        net.weight.zero_()
    found = es.diagnose(objective, torch.optim.SGD(net.parameters(), lr=0.1))
    assert found.verdict == "saddle"


def test_a_group_at_lr_zero_stands_still() -> None:
    net, objective = problem()
    groups = [{"params": [net.steep], "lr": 0.0}, {"params": [net.flat], "lr": 0.1}]
    found = es.diagnose(objective, torch.optim.SGD(groups))
    assert found.ratio == pytest.approx(0.1 / 2, rel=0.01) and found.max_stable_lr == pytest.approx(2, rel=0.01)
    assert found.lr == 0.1 and found.limit is not None and list(found.limit.alone) == [1]


def test_kinks_are_seen_by_the_finite_step() -> None:
    net = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        net.weight.fill_(1e-4)

    def kinked(net: nn.Module, x: Tensor) -> Tensor:
        w = net(x)
        return (w**2 + 3 * torch.relu(-w)).sum()  # beyond the kink it rises much faster than its Hessian says

    x = torch.ones(1, 1, dtype=F64)
    found = es.diagnose(es.Objective(net, kinked, x), torch.optim.SGD(net.parameters(), lr=50.0))
    assert found.direction is not None and found.direction.smooth is False
    assert "DISAGREE" in str(found)


def test_mixed_groups_have_a_limit_and_say_what_they_lack() -> None:
    net, objective = problem()
    groups = [{"params": [net.steep], "momentum": 0.9}, {"params": [net.flat]}]
    found = es.diagnose(objective, torch.optim.SGD(groups, lr=0.1))
    assert found.ratio is not None and found.slow is None
    rows = {change.name: change for change in found.changes}  # of lrs alone: no one rate describes the groups
    assert rows["half the limit"].lr == pytest.approx(found.max_stable_lr / 2) and rows["half the limit"].ratio == 0.5
    assert all(row.rate is None and row.tenfold is None for row in rows.values())
    assert "different rules" in found.reasons["slow"]
    assert json.loads(found.to_json())["spectrum"]["covers"] == "top"


def real(generator: torch.Generator | None = None) -> tuple[nn.Module, es.Objective, torch.optim.Optimizer, DataLoader]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 2))
    x, y = torch.randn(24, 6), torch.randn(24, 2)
    loader = DataLoader(TensorDataset(x, y), batch_size=6, shuffle=True, generator=generator)

    def loss(net: nn.Module, batch: Any) -> Tensor:
        return ((net(batch[0]) - batch[1]) ** 2).mean()

    adam = torch.optim.AdamW(
        [{"params": net[0].parameters(), "weight_decay": 0.0}, {"params": [*net[1].parameters(), *net[4].parameters()]}]
    )
    loss(net, (x, y)).backward()
    adam.step()
    net[1].eval()
    return net, es.Objective(net, loss, (x, y)), adam, loader


def test_everything_is_left_bit_for_bit() -> None:
    generator = torch.Generator().manual_seed(5)
    net, objective, adam, loader = real(generator)
    before = Snapshot(net, adam, generator)
    first = es.diagnose(objective, adam, train=loader)
    before.check()
    assert first.spread is not None and len(first.spread.ratios) == 4
    es.limit_now(objective, adam, alone=True)
    before.check()
    again = es.diagnose(objective, adam, train=loader)
    assert again.ratio == first.ratio and again.spread == first.spread


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("call", [1, 4, 12, 25, 60])
def test_interrupted_or_failed_too(kind: type[BaseException], call: int) -> None:
    generator = torch.Generator().manual_seed(5)
    net, objective, adam, loader = real(generator)
    calls, inner = [0], objective.loss

    def fails(net: nn.Module, batch: Any) -> Tensor:
        calls[0] += 1
        if calls[0] == call:
            net.train()
            random.random()
            torch.rand(1)
            raise kind("now")
        return inner(net, batch)

    objective.loss = fails
    before = Snapshot(net, adam, generator)
    with pytest.raises(kind):
        es.diagnose(objective, adam, train=loader)
    assert calls[0] == call
    before.check()


def test_an_interrupt_between_products_too(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(5)
    net, objective, adam, _ = real(generator)
    count, exact = [0], HessianOperator.matvec

    def interrupted(self: HessianOperator, vector: Tensor) -> Tensor:
        count[0] += 1
        if count[0] == 5:
            raise KeyboardInterrupt
        return exact(self, vector)

    monkeypatch.setattr(HessianOperator, "matvec", interrupted)
    before = Snapshot(net, adam, generator)
    with pytest.raises(KeyboardInterrupt):
        es.diagnose(objective, adam)
    before.check()


def test_bad_input_is_refused_with_a_remedy() -> None:
    generator = torch.Generator().manual_seed(5)
    net, objective, adam, _ = real(generator)
    other, _, stranger, _ = real()
    before = Snapshot(net, adam, generator)
    with pytest.raises(es.InvalidValue, match="not the model's; build the optimizer from"):
        es.diagnose(objective, stranger)
    with pytest.raises(es.InvalidValue, match="not the model's"):
        es.diagnose(objective, es.Optimizer(other.parameters(), es.Lion()))
    with pytest.raises(es.InvalidValue, match=r"does not hold '0\.weight' .* build it on this model's parameters"):
        es.diagnose(objective, torch.optim.SGD(net[4].parameters()))
    with pytest.raises(es.InvalidValue, match="read only once; pass the loader"):
        es.diagnose(objective, adam, train=(batch for batch in [1, 2]))
    with pytest.raises(es.InvalidValue, match="max_norm"):
        es.diagnose(objective, adam, clip=0.0)
    with pytest.raises(es.InvalidValue, match="horizon"):
        es.diagnose(objective, adam, horizon=0)
    before.check()


def test_an_lr_schedule_in_place_is_named() -> None:
    net, objective = problem()
    sgd = torch.optim.SGD(net.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, 10)
    before = copy.deepcopy(schedule.state_dict())
    found = es.diagnose(objective, sgd)
    assert any("lr schedule is attached" in note for note in found.notes)
    assert schedule.state_dict() == before and sgd.param_groups[0]["lr"] == 0.1


def test_json_and_the_spectrum_in_it(tmp_path: Path) -> None:
    _, objective, adam, _ = real()
    found = es.diagnose(objective, adam)
    (tmp_path / "d.json").write_text(found.to_json())
    content = read_envelope(tmp_path / "d.json", "diagnosis")
    assert content["verdict"] == found.verdict and content["ratio"] == found.ratio
    assert {"spectrum", "limits", "shares", "sentence", "interval", "max_stable_lr"} <= set(content)
    spectrum = es.Spectrum(**content["spectrum"])
    assert spectrum.operator == "preconditioned"
    assert found.limit is not None and found.limit.preconditioned_sharpness is not None
    assert float(spectrum.values.max()) <= found.limit.preconditioned_sharpness * 1.01
    assert content["rule"]["name"] == "adamw" and content["rule"]["betas"] == [0.9, 0.999]
    assert [row["name"] for row in content["limits"]][:2] == ["as it is", "half the lr"]


def test_the_page_is_self_contained_and_escaped(tmp_path: Path) -> None:
    net = nn.Sequential()
    net.add_module("<script>alert(1)</script>", nn.Linear(2, 1).double())
    x = torch.eye(2, dtype=F64)
    objective = es.Objective(net, lambda net, x: (net(x) ** 2).mean(), x)
    found = es.diagnose(objective, torch.optim.SGD(net.parameters(), lr=5.0))
    diagnosis_page(found, "a<b>.py:f").write(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "<script" not in text and "&lt;script&gt;" in text and "a&lt;b&gt;.py" in text
    assert "<link" not in text and "src=" not in text and "<svg" in text
    assert 'group["lr"] *= ' in text.replace("&quot;", '"')
    assert "<script" not in found._repr_html_()
    with pytest.raises(es.BadFile, match="choose a folder"):
        Page("x").write(tmp_path / "nowhere" / "page.html")


def test_every_verdict_has_words_and_a_place() -> None:
    zero_gradient = ZeroGradient(0.9, flat=True)
    for code in set(VERDICTS) - {"one-step", "diverged"}:
        assert sentence_of(
            code, VerdictInputs(ratio=1.5, clip=0.5, batch_high=2.0, zero_gradient=zero_gradient), 0.1, 0.2
        )
    close: dict[str, Any] = {"low": 1.2, "high": 1.3, "memory": True}
    assert code_of(VerdictInputs(ratio=1.25, **close)) == "unstable"
    assert (
        code_of(VerdictInputs(ratio=1.25, **{**close, "memory": False})) == "edge"
    )  # gradient descent turns back from there
    assert code_of(VerdictInputs(ratio=1.25, adaptive=True, young=True, rises=True, **close)) == "warm-up"
    assert code_of(VerdictInputs(ratio=1.25, adaptive=True, young=True, rises=False, **close)) == "adapts"
    assert code_of(VerdictInputs(ratio=1.25, adaptive=True, decay_term=1.2, **close)) == "unstable"
    assert code_of(VerdictInputs(ratio=1.25, clip=0.5, **close)) == "clipped"
    below: dict[str, Any] = {"ratio": 0.7, "low": 0.69, "high": 0.71}
    assert code_of(VerdictInputs(**below, batch_high=2.0)) == "noisy"
    played: dict[str, Any] = {"played": 50, "fails": False}
    assert code_of(VerdictInputs(**below, batch_high=2.0, **played, trains=True)) == "safe"
    assert code_of(VerdictInputs(**below, played=50, fails=True)) == "unstable"
    assert code_of(VerdictInputs(ratio=1.25, **close, **played, rises=False)) == "settles"
    assert code_of(VerdictInputs(ratio=1.25, **close, **played, rises=True)) == "warm-up"
    young: dict[str, Any] = {"adaptive": True, "young": True, "settled": (50, 0.1, 1.0), **played}
    assert code_of(VerdictInputs(ratio=9.0, low=8.9, high=9.1, **young, rises=False)) == "safe"
    assert code_of(VerdictInputs(ratio=9.0, low=8.9, high=9.1, **young, rises=True)) == "warm-up"
    assert code_of(VerdictInputs(ratio=0.5, low=0.49, high=0.51, lowest=-0.5, possible=1e-3)) == "saddle"
    assert (
        code_of(VerdictInputs(ratio=0.01, low=0.01, high=0.01, lowest=0.0, progress=1.0)) == "safe"
    )  # small, and not slow


MINE = """
import torch, eigenstep as es

def make(lr):
    model = torch.nn.Linear(3, 1, bias=False).double()
    x = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    sgd = torch.optim.SGD(model.parameters(), lr=lr)
    return es.Objective(model, lambda model, x: (model(x) ** 2).mean() / 2, x), sgd, [x[:2], x[1:]]

def good():
    return make(0.1)

def bad():
    return make(2.0)

def alone():
    return make(0.1)[0]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path / "mine.py"


def test_the_command(file: Path, tmp_path: Path) -> None:
    shaped = ["--schedule", "cosine", "--warmup", "0.01", "--seconds", "50"]
    result = CliRunner().invoke(main, ["diagnose", f"{file}:good", "--json", *shaped])
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["play"]["schedule"] == "cosine after a warm-up of 10 updates" and content["play"]["losses"]
    assert content["kind"] == "diagnosis" and content["ratio"] == pytest.approx(0.15)
    assert content["spread"]["samples"] == [2, 2]
    page = tmp_path / "page.html"
    result = CliRunner().invoke(main, ["diagnose", f"{file}:bad", "--report", str(page)])
    assert result.exit_code == 3
    assert result.stdout.startswith("Unstable") and "What a change would do" in result.stdout
    assert "1/9 loss and gradient" in result.stderr and page.exists()


def test_the_command_refuses_in_one_line(file: Path) -> None:
    result = CliRunner().invoke(main, ["diagnose", f"{file}:alone"])
    assert result.exit_code == 2 and "returned no optimizer" in result.stderr
    result = CliRunner().invoke(main, ["diagnose", f"{file}:good", "--clip", "-1"])
    assert result.exit_code == 2 and "max_norm" in result.stderr
    assert len([line for line in result.stderr.splitlines() if line.startswith("error")]) == 1
