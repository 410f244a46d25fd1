"""The monitor: what it records, that it changes nothing, when it measures, how it resumes."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import eigenstep as es
from eigenstep.errors import InvalidValue, Unsupported
from eigenstep.stability import limit_now
from eigenstep.training import Monitor, read_log
from eigenstep.training.hooks import Handle
from eigenstep.training.probe import Cadence

INPUTS = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
LABELS = torch.randint(3, (64,), generator=torch.Generator().manual_seed(2))
PROBE = (INPUTS[:32], LABELS[:32])


def network(drop: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(drop), nn.Linear(16, 3))


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, updates: int, after: Callable[[Tensor], object] = lambda x: None
) -> None:
    for _ in range(updates):
        optimizer.zero_grad()
        value = loss(model, (INPUTS, LABELS))
        value.backward()
        optimizer.step()
        after(value)


def test_each_update_is_recorded_with_the_lr_it_used() -> None:
    model = network().double()
    optimizer = sgd(model)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    data = (INPUTS.double(), LABELS)
    expected = []
    with Monitor(es.Objective(model, loss, data), optimizer, dense=2) as monitor:
        for _ in range(4):
            optimizer.zero_grad()
            value = loss(model, data)
            value.backward()
            flat = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
            gradient = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
            lr = optimizer.param_groups[0]["lr"]
            optimizer.step()
            schedule.step()
            change = nn.utils.parameters_to_vector(model.parameters()).detach() - flat
            expected.append((float(value.detach()), lr, float(gradient.norm()), float(change.norm())))
            monitor.step(value)
    names = ("loss", "lr", "grad_norm", "update_norm")
    assert [tuple(r[n] for n in names) for r in monitor.records] == [pytest.approx(e, rel=1e-12) for e in expected]
    assert [r["step"] for r in monitor.records] == [1, 2, 3, 4]
    times = [r["time"] for r in monitor.records]
    assert times == sorted(times) and times[0] > 0


def test_a_measurement_is_that_of_the_state_before_its_update() -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=0.1)
    objective = es.Objective(model, loss, PROBE)
    monitor = Monitor(objective, optimizer, dense=3)
    for step in range(3):
        optimizer.zero_grad()
        loss(model, (INPUTS, LABELS)).backward()
        optimizer.param_groups[0]["lr"] = 1e-3 * (step + 1)
        here = limit_now(objective, optimizer)
        optimizer.step()
        record = monitor.records[-1]
        assert record["ratio_low"] <= here.ratio * 1.02 and here.ratio <= record["ratio_high"] * 1.02
        assert record["stability_ratio"] == pytest.approx(here.ratio, rel=0.02)
        assert record["max_stable_lr"] == pytest.approx(here.max_stable_lr, rel=0.02)
        assert record["sharpness"] == pytest.approx(here.sharpness, rel=0.02)
        assert record["preconditioned_sharpness"] == pytest.approx(here.preconditioned_sharpness, rel=0.02)
        assert record["products"] > 0 and record["seconds"] > 0 and sum(record["layers"].values()) <= 1.001
    assert monitor.records[0]["certified"] and not monitor.records[1]["certified"]


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_training_is_the_same_bit_for_bit_with_it_and_without(kind: str, tmp_path: Path) -> None:
    """Dropout, BatchNorm, a shuffling loader with the global generator, several refreshes after the dense ones."""

    def run(watch: bool) -> tuple[list[Tensor], Tensor, int]:
        model = network(0.3)
        optimizer = sgd(model) if kind == "sgd" else torch.optim.AdamW(model.parameters(), lr=1e-2)
        torch.manual_seed(3)
        loader = DataLoader(TensorDataset(INPUTS, LABELS), batch_size=16, shuffle=True)
        probe = es.Objective(model, loss, loader)
        monitor = Monitor(probe, optimizer, every=3, budget=1.0, dense=2, log=tmp_path / f"{watch}") if watch else None
        for _ in range(5):
            for batch in loader:
                optimizer.zero_grad()
                value = loss(model, batch)
                value.backward()
                optimizer.step()
                if monitor is not None:
                    monitor.step(value)
        state = [*model.state_dict().values(), *(p.grad for p in model.parameters() if p.grad is not None)]
        return state, torch.rand(3), len(monitor.measured) if monitor else 0

    with_it, drawn, measured = run(True)
    without, same_drawn, _ = run(False)
    assert measured >= 2 + 3
    assert torch.equal(drawn, same_drawn)
    assert all(torch.equal(a, b) for a, b in zip(with_it, without, strict=True))


def test_attached_without_losses_each_record_is_closed_at_its_update() -> None:
    model = network()
    optimizer = sgd(model)
    monitor = Monitor(es.Objective(model, loss, PROBE), optimizer, dense=1)
    train(model, optimizer, 3)
    assert [r["step"] for r in monitor.records] == [1, 2, 3]
    assert all(r["loss"] is None and r["update_norm"] > 0 for r in monitor.records)
    handle = monitor.attach()
    assert isinstance(handle, Handle) and monitor.attach() is handle  # attached already: the same
    handle.remove()
    handle.remove()
    train(model, optimizer, 2)
    assert len(monitor.records) == 3
    with monitor:
        train(model, optimizer, 1)
    train(model, optimizer, 1)
    assert [r["step"] for r in monitor.records] == [1, 2, 3, 4]


def test_losses_of_micro_batches_are_averaged_and_may_come_before_the_update() -> None:
    model = network()
    optimizer = sgd(model)
    monitor = Monitor(es.Objective(model, loss, PROBE), optimizer, dense=0)
    for k in range(2):
        for part in (1.0, 2.0, 6.0):
            loss(model, (INPUTS, LABELS)).backward()
            monitor.step(part + k)
        optimizer.step()
        optimizer.zero_grad()
    assert [r["loss"] for r in monitor.records] == [3.0, 4.0]


def test_a_closure_is_recorded_with_its_own_gradient() -> None:
    model = network()
    optimizer = sgd(model)
    monitor = Monitor(es.Objective(model, loss, PROBE), optimizer, dense=0)
    norms = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(model, (INPUTS, LABELS))
        value.backward()
        norms.append(float(torch.cat([p.grad.reshape(-1) for p in model.parameters()]).norm()))
        return value

    for _ in range(2):
        optimizer.step(closure)
    assert [r["grad_norm"] for r in monitor.records] == pytest.approx(norms, rel=1e-5)


def test_a_schedule_from_zero_several_groups_and_clipping() -> None:
    model = network()
    groups = [
        {"params": model[0].parameters(), "lr": 0.1},
        {"params": [*model[1].parameters(), *model[4].parameters()]},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.3, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: k / 4)
    monitor = Monitor(es.Objective(model, loss, PROBE), optimizer, dense=0, every=1000)
    for _ in range(4):
        optimizer.zero_grad()
        loss(model, (INPUTS, LABELS)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()
        schedule.step()
    first = monitor.records[0]
    assert [r["lr"] for r in monitor.records] == pytest.approx([0.0, 0.025, 0.05, 0.075])
    assert first["update_norm"] == 0 and first["grad_norm"] == pytest.approx(0.01, rel=1e-3)
    measured = [r["step"] for r in monitor.measured]
    assert measured == [1]  # lr = 0: no ratio, but how far lr may rise
    assert first["stability_ratio"] is None and "lr = 0" in first["reason"] and first["max_stable_lr"] > 0


def test_a_setting_that_changes_is_measured_at_once() -> None:
    model = network()
    optimizer = sgd(model)
    monitor = Monitor(es.Objective(model, loss, PROBE), optimizer, dense=1, every=10_000)
    train(model, optimizer, 8)
    optimizer.param_groups[0]["nesterov"] = True
    train(model, optimizer, 8)
    optimizer.param_groups[0]["lr"] = 0.3
    train(model, optimizer, 2)
    assert [r["step"] for r in monitor.measured] == [1, 9, 17]
    before, nesterov, lr = monitor.measured
    assert before["stability_ratio"] / before["sharpness"] == pytest.approx(0.1 / 3.8, rel=0.01)
    assert nesterov["stability_ratio"] / nesterov["sharpness"] == pytest.approx(0.1 / (3.8 / 2.8), rel=0.01)
    assert lr["stability_ratio"] / lr["sharpness"] == pytest.approx(0.3 / (3.8 / 2.8), rel=0.01)


def test_the_budget_wins_over_every_and_says_so(tmp_path: Path) -> None:
    cadence = Cadence(every=10, budget=0.1, dense=2)
    assert cadence.due(1, False, 0.0) and cadence.due(2, False, 1.0)
    cadence.took(2, 5.0)
    measured = []
    for step in range(3, 1003):  # updates of a second, measurements of 5: one in 50 keeps to a tenth of the time
        if cadence.due(step, False, float(step)):
            cadence.took(step, 5.0)
            measured.append(step)
    assert cadence.measuring <= 0.1 * 1000
    assert len(measured) >= 19 and min(b - a for a, b in itertools.pairwise(measured)) >= 50
    cheap = Cadence(every=10, budget=0.1, dense=0)
    assert [s for s in range(1, 32) if cheap.due(s, False, float(s)) and not cheap.took(s, 0.001)] == [1, 11, 21, 31]
    assert not cheap.due(33, True, 33.0) and cheap.due(36, True, 36.0)  # what is urgent waits a little too
    alarmed = Cadence(every=10, budget=0.1, dense=0)
    taken = [s for s in range(1, 1001) if alarmed.due(s, True, float(s)) and not alarmed.took(s, 5.0)]
    alarmed.took(1000, 50.0, certified=True)
    assert alarmed.affordable(2000.0) and not alarmed.affordable(2000.0, certified=True)  # which costs more
    assert (
        taken[:3] == [1, 6, 51] and alarmed.measuring - 50 <= 0.1 * 1000 + 2 * 5
    )  # at once, on credit, then as it is paid

    model = network()
    optimizer = sgd(model)
    with Monitor(es.Objective(model, loss, PROBE), optimizer, every=1, dense=1, log=tmp_path / "log") as monitor:
        train(model, optimizer, 40)
    (note,) = monitor.notes
    assert "every=1 was asked for" in note and "2%" in note
    assert any(r.get("note") == note for r in read_log(tmp_path / "log").records)
    assert len(monitor.measured) < 40


def test_a_killed_run_resumes_and_its_log_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"

    def start() -> tuple[nn.Module, torch.optim.Optimizer, Monitor]:
        model = network()
        optimizer = sgd(model)
        return model, optimizer, Monitor(es.Objective(model, loss, PROBE), optimizer, dense=2, log=path)

    model, optimizer, monitor = start()
    train(model, optimizer, 3, monitor.step)
    saved = monitor.state_dict(), model.state_dict(), optimizer.state_dict()
    saved = torch.load(_saved(saved, tmp_path), weights_only=True)
    train(model, optimizer, 3, monitor.step)
    monitor.close()
    lost = read_log(path).records
    path.write_bytes(path.read_bytes()[:-25])  # killed while it wrote

    model, optimizer, monitor = start()
    assert monitor.count == 5  # what the log says, until the checkpoint is loaded
    model.load_state_dict(saved[1])
    optimizer.load_state_dict(saved[2])
    monitor.load_state_dict(saved[0])
    assert monitor.count == 3 and [r["step"] for r in monitor.records] == [1, 2, 3]
    train(model, optimizer, 4, monitor.step)
    monitor.close()
    records = [r for r in read_log(path).records if "grad_norm" in r]
    assert [r["step"] for r in records] == [1, 2, 3, 4, 5, 6, 7]
    assert [r["loss"] for r in records[:6]] == [r["loss"] for r in lost if "grad_norm" in r]
    times = [r["time"] for r in records]
    assert times == sorted(times)


def _saved(state: object, folder: Path) -> Path:
    torch.save(state, folder / "checkpoint.pt")
    return folder / "checkpoint.pt"


def test_weights_that_are_not_finite_are_said_not_raised() -> None:
    model = network()
    optimizer = sgd(model)
    monitor = Monitor(es.Objective(model, loss, PROBE), optimizer, dense=5)
    train(model, optimizer, 2, monitor.step)
    with torch.no_grad():
        model[0].weight[0, 0] = math.nan
    train(model, optimizer, 2, monitor.step)
    last = monitor.records[-1]
    assert last["stability_ratio"] is None and "weights are not finite" in last["reason"]
    assert [a.code for a in monitor.alarms] == ["non-finite"]


def test_a_run_that_begins_broken_is_measured_once_it_is_mended() -> None:
    model = network()
    optimizer = sgd(model)
    with torch.no_grad():
        kept = model[4].weight[0, 0].clone()
        model[4].weight[0, 0] = math.inf
    monitor = Monitor(es.Objective(model, loss, PROBE), optimizer, dense=5)
    optimizer.step()
    with torch.no_grad():
        model[4].weight[0, 0] = kept
    train(model, optimizer, 1)
    assert [r["stability_ratio"] is None for r in monitor.records] == [True, False]


def test_a_method_without_a_limit_is_recorded_all_the_same() -> None:
    model = network()
    optimizer = es.Optimizer(model.parameters(), es.Lion(lr=1e-3))
    monitor = Monitor(es.Objective(model, loss, PROBE), optimizer, dense=2)
    train(model, optimizer, 2, monitor.step)
    assert all(r["stability_ratio"] is None and "not measured" in r["reason"] for r in monitor.records)
    assert all(r["update_norm"] > 0 for r in monitor.records)
    now = monitor.measure().as_record()
    expected = es.critical_sharpness(monitor.objective, optimizer)
    assert now["critical_lr"] == pytest.approx(expected.lr, rel=0.3)
    assert now["critical_sharpness"] == pytest.approx(2 / now["critical_lr"])
    assert all(r["critical_lr"] > 0 for r in monitor.records)


def test_mistakes_are_refused_with_a_remedy() -> None:
    model, other = network(), network()
    objective = es.Objective(model, loss, PROBE)
    with pytest.raises(Unsupported, match=r"an Objective\(model, loss, data\) is needed"):
        Monitor(model, sgd(model))
    for wrong in ({"every": 0}, {"budget": 0.0}, {"budget": 2.0}, {"dense": -1}, {"every": True}):
        with pytest.raises(InvalidValue):
            Monitor(objective, sgd(model), **wrong)
    with pytest.raises(InvalidValue, match="not the model's; build the optimizer"):
        Monitor(objective, sgd(other))
    with pytest.raises(InvalidValue, match="nothing has been recorded"):
        Monitor(objective, sgd(model)).diagnose()
    with pytest.raises(Unsupported, match="DistributedDataParallel"):
        es.Objective(_Wrapped(model), loss, PROBE)


class DistributedDataParallel(nn.Module):
    """What torch's looks like by name, without the processes."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


_Wrapped = DistributedDataParallel


def test_the_writer_gets_the_keys_that_people_know() -> None:
    seen: dict[int, dict[str, float]] = {}
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    with Monitor(es.Objective(model, loss, PROBE), optimizer, dense=2, writer=seen.__setitem__):
        train(model, optimizer, 2)
    names = ("sharpness", "preconditioned_sharpness", "stability_ratio", "max_stable_lr", "seconds")
    assert set(seen[1]) == {f"curvature/{name}" for name in names}
    assert sorted(seen) == [1, 2]


def test_plot_draws_what_was_recorded() -> None:
    model = network()
    optimizer = sgd(model)
    with Monitor(es.Objective(model, loss, PROBE), optimizer, dense=5) as monitor:
        train(model, optimizer, 6, monitor.step)
    axes = monitor.plot()
    assert [ax.get_ylabel() for ax in axes] == ["loss", "eigenvalue", "ratio", "lr"]
    assert axes[0].lines[0].get_xdata().tolist() == [1, 2, 3, 4, 5, 6]
    drawn = dict(zip(axes[2].lines[0].get_xdata(), axes[2].lines[0].get_ydata(), strict=True))
    assert drawn == {r["step"]: r["stability_ratio"] for r in monitor.measured}
    alone = axes[1].figure.add_subplot()
    assert monitor.plot(alone) is alone
