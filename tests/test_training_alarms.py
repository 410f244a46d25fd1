"""Alarms and diagnosis: ten staged spikes told apart, the edge of stability left in peace, words from records alone."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import eigenstep as es
from eigenstep.training import Monitor, Postmortem, after_the_fact, read_log
from eigenstep.training.alarms import RatioChange, RatioWatch, Usual
from eigenstep.training.anomaly import Jump, judge

AT = 120  # the update at which something is done to the run
Batch = tuple[Tensor, Tensor]


def digits() -> Batch:
    data = load_digits()
    return torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


@dataclass
class Run:
    """A training run that a stage may interfere with before update AT and after."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scale: float = 1.0
    alter: Callable[[int, Batch], Batch] = field(default=lambda step, batch: batch)


def trained(
    stage: Callable[[int, Run], None],
    kind: str = "momentum",
    lr: float = 0.05,
    updates: int = AT + 40,
    **options: object,
) -> Monitor:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 10))
    optimizer: torch.optim.Optimizer
    if kind == "adam":
        optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    run = Run(model, optimizer)
    x, y = digits()
    probe = es.Objective(model, cross_entropy, (x[:256], y[:256]))
    monitor = Monitor(probe, optimizer, **{"dense": 3, "every": 20, "budget": 1.0, **options})
    generator = torch.Generator().manual_seed(1)
    for step in range(1, updates + 1):
        rows = torch.randint(len(x), (64,), generator=generator)
        stage(step, run)
        batch = run.alter(step, (x[rows], y[rows]))
        optimizer.zero_grad()
        value = cross_entropy(model, batch) * run.scale
        value.backward()
        optimizer.step()
        monitor.step(value)
    monitor.close()
    return monitor


def at(step: int, act: Callable[[Run], object]) -> Callable[[int, Run], None]:
    return lambda now, run: act(run) if now == step else None


def sets(**settings: object) -> Callable[[Run], object]:
    return lambda run: [group.update(settings) for group in run.optimizer.param_groups]


def alters(change: Callable[[Batch], Batch], lasting: bool = False) -> Callable[[int, Run], None]:
    def stage(step: int, run: Run) -> None:
        run.alter = lambda now, batch: change(batch) if now == AT or (lasting and now > AT) else batch

    return stage


def explode(layer: int, factor: float) -> Callable[[Run], object]:
    def act(run: Run) -> None:
        with torch.no_grad():
            run.model[layer].weight.mul_(factor)

    return act


def wrong_scale(step: int, run: Run) -> None:
    run.scale = 300.0 if step == AT else 1.0


STAGES: dict[str, tuple[Callable[[int, Run], None], dict[str, object], str, str]] = {
    "lr times 100": (at(AT, sets(lr=5.0)), {}, "curvature", "lr"),
    "weight decay times 1000": (at(AT, sets(weight_decay=300.0)), {}, "curvature", "settings"),
    "a layer explodes": (at(AT, explode(4, 30.0)), {}, "curvature", "sharpness"),
    "Adam's lr times 300": (at(AT, sets(lr=0.6)), {"kind": "adam", "lr": 2e-3}, "curvature", "lr"),
    "a mislabelled batch": (alters(lambda b: (b[0], (b[1] + 5) % 10)), {}, "data", "gradient"),
    "labels permuted from then on": (alters(lambda b: (b[0], (b[1] + 3) % 10), lasting=True), {}, "data", "gradient"),
    "inputs shift for good": (alters(lambda b: (1 - 4 * b[0], b[1]), lasting=True), {}, "data", "gradient"),
    "a batch in raw units": (alters(lambda b: (b[0] * 255, b[1])), {}, "data", "gradient"),
    "a wrong loss scale": (wrong_scale, {}, "data", "gradient"),
    "a batch of nan": (alters(lambda b: (b[0] * math.nan, b[1])), {}, "data", "gradient"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_staged_spikes_are_told_apart(name: str) -> None:
    stage, options, cause, driver = STAGES[name]
    monitor = trained(stage, **options)
    found = monitor.diagnose()
    check_against_records(found.sentence, monitor.records, found.spike)
    assert found.spike is not None and AT <= found.spike <= AT + 12
    assert (found.cause, found.driver) == (cause, driver)
    if cause == "curvature":
        assert found.crossed is not None and AT - 20 <= found.crossed[0] < AT + 12 and found.crossed[1] >= AT
        assert found.lead is not None and found.lead[0] <= found.spike - AT <= found.lead[1]
        assert found.change and any("lr" in line for line in found.change)
    else:
        assert f"update {found.spike}" in found.change[0]
    if name == "a layer explodes":
        assert max(found.layers, key=found.layers.get) in ("0", "2")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "lr"), [("momentum", 0.05), ("momentum", 0.3), ("adam", 2e-3), ("adam", 1e-2)])
def test_ordinary_training_raises_no_alarm(kind: str, lr: float) -> None:
    monitor = trained(lambda step, run: None, kind, lr, updates=400)
    assert monitor.alarms == []
    assert monitor.diagnose().spike is None
    check_against_records(monitor.diagnose().sentence, monitor.records, None)


@pytest.mark.slow
def test_the_edge_of_stability_raises_no_alarm_and_is_called_normal() -> None:
    """Full-batch gradient descent, squared loss: the ratio rises to 1 and stays (theory, section 6)."""
    torch.manual_seed(0)
    x, y = digits()
    target = F.one_hot(y, 10).float()
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 10))

    def squares(model: nn.Module, batch: Batch) -> Tensor:
        return 0.5 * ((model(batch[0]) - batch[1]) ** 2).sum(1).mean()

    optimizer = torch.optim.SGD(model.parameters(), lr=0.4)
    with Monitor(es.Objective(model, squares, (x, target)), optimizer, every=20, budget=1.0) as monitor:
        for _ in range(700):
            optimizer.zero_grad()
            value = squares(model, (x, target))
            value.backward()
            optimizer.step()
            monitor.step(value)
    late = [r["stability_ratio"] for r in monitor.measured if r["step"] > 450]
    assert sum(late) / len(late) == pytest.approx(1, abs=0.2) and max(late) > 1
    assert monitor.alarms == []
    found = monitor.diagnose()
    check_against_records(found.sentence, monitor.records, None)
    assert found.spike is None and found.crossed is not None and found.crossed[1] - found.crossed[0] <= 25
    assert "normal" in found.sentence


def test_the_log_alone_gives_the_same_diagnosis(tmp_path: Path) -> None:
    stage, options, *_ = STAGES["lr times 100"]
    monitor = trained(stage, updates=AT + 5, log=tmp_path / "run.jsonl", **options)
    log = read_log(tmp_path / "run.jsonl")
    again = after_the_fact(log.records, log.alarms)
    assert again == monitor.diagnose()
    assert again.crossed_estimate == AT and "lr grew" in again.sentence
    assert log.alarms[0]["sentence"] == monitor.alarms[0].sentence
    assert next(a for a in monitor.alarms if a.code == "loss-jump").evidence["after"]["stability_ratio"] > 1


def test_a_gradient_that_jumps_on_the_probe_too_is_not_the_datas_fault() -> None:
    model = nn.Linear(2, 1, bias=False, dtype=torch.float64)
    nn.init.ones_(model.weight)
    x = torch.tensor([[2.0, 0.0], [0.0, 0.1]], dtype=torch.float64)

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        return 100 + 0.5 * model(x).square().sum()  # of curvatures 4 and .01; the loss hardly tells

    optimizer = torch.optim.SGD(model.parameters(), lr=0.45)
    with Monitor(es.Objective(model, loss, x), optimizer) as monitor:
        for k in range(55):
            optimizer.param_groups[0]["lr"] = 0.45 if k < 40 else 0.8
            optimizer.zero_grad()
            value = loss(model, x)
            value.backward()
            optimizer.step()
            monitor.step(value)
    jumps = [alarm for alarm in monitor.alarms if alarm.code == "gradient-jump"]
    assert jumps and jumps[0].cause == "curvature" and jumps[0].evidence["stability_ratio"] == pytest.approx(1.6)
    assert jumps[0].evidence["probe_factor"] == pytest.approx(jumps[0].evidence["factor"])


def test_each_kind_of_evidence_is_weighed() -> None:
    def verdict(**given: object) -> tuple[str, str | None]:
        nothing = {
            "factor": 5.0,
            "probe_factor": None,
            "ratio": None,
            "earlier": None,
            "moved": None,
        }
        return judge(Jump(**{**nothing, **given}))

    assert verdict(probe_factor=1.1) == ("data", "gradient")  # the batch alone jumped
    assert verdict(probe_factor=0.2, ratio=3.0) == ("data", "gradient")  # whatever the ratio
    assert verdict(factor=math.nan, probe_factor=1.2) == ("data", "gradient")
    assert verdict(probe_factor=4.0, ratio=1.5) == ("curvature", None)
    assert verdict(probe_factor=4.0, ratio=0.5) == ("unclear", None)
    assert verdict(probe_factor=4.0, ratio=1.5, earlier=("data", "gradient")) == ("data", "gradient")
    assert verdict(probe_factor=4.0, ratio=1.5, earlier=("unclear", None)) == ("curvature", None)  # it told nothing
    raised = RatioChange(lr=60.0, sharpness=1.0, preconditioner=1.0, settings=False)
    assert verdict(probe_factor=4.0, ratio=8.0, earlier=("data", "gradient"), moved=raised) == ("curvature", "lr")
    assert verdict(probe_factor=math.nan, ratio=1.5) == ("curvature", None)
    assert verdict() == ("unclear", None)


def measured(step: int, ratio: float, lr: float = 0.1, **more: object) -> dict:
    return {
        **{"step": step, "lr": lr, "stability_ratio": ratio, "ratio_low": 0.99 * ratio, "ratio_high": 1.01 * ratio},
        **{"sharpness": 20 * ratio * 0.1 / lr, "preconditioned_sharpness": None, "max_stable_lr": lr / ratio},
        **{"layers": {"4": 0.8}, **more},
    }


def raised(ratios: list[float], every: int = 10, **more: object) -> list[tuple[int, str]]:
    watch, found = RatioWatch(), []
    for k, ratio in enumerate(ratios):
        alarm = watch.look(measured(every * k, ratio, **more))
        found += [(k, alarm.code)] if alarm else []
    return found


def test_hovering_about_one_is_normal_a_lasting_excess_and_a_jump_are_not() -> None:
    assert raised([0.5, 0.8, 1.0, 1.1, 0.95, 1.15, 1.3, 1.25, 1.2, 1.3, 1.12, 1.0]) == []
    assert raised([0.5, 0.8, 1.5, 1.6, 1.5, 1.6, 1.5, 1.6, 1.5]) == [(6, "lasting-excess")]
    assert raised([1.5] * 12, every=2) == [(10, "lasting-excess")]  # not before twenty updates
    assert raised([0.3, 0.3, 0.3, 2.0, 2.0, 2.0]) == [(3, "ratio-jump")]  # one alarm an episode
    assert raised([0.3, 0.3, 0.3, 2.0, 0.3, 0.3, 0.3, 0.3, 2.0]) == [(3, "ratio-jump"), (8, "ratio-jump")]
    adapts = {"preconditioned_sharpness": 5.0}
    assert raised([0.5, 1.7, 1.8, 1.7, 1.8, 1.7, 1.8, 1.7], **adapts) == []  # Adam adapts
    assert raised([0.9, 2.3, 2.4, 2.3, 2.4, 2.3, 2.4, 2.3], **adapts) == [(5, "lasting-excess")]
    watch = RatioWatch()
    for k in range(3):
        watch.look(measured(k, 0.5))
    alarm = watch.look(measured(3, 5.0, lr=1.0))
    assert alarm is not None and alarm.driver == "lr" and "lr grew 10 times" in alarm.sentence
    assert "80% of the sharp direction lies in '4'" in alarm.sentence and "below 0.2 " in alarm.sentence


def test_usual_needs_a_new_high_far_from_the_spread() -> None:
    usual = Usual()
    for value in [1.0, 1.1, 0.9, 1.05, 0.95] * 3:
        assert not usual.jumps(value, 1.5)
        usual.add(value)
    assert not usual.jumps(1.2, 1.5) and not usual.jumps(1.6, 2.0) and usual.jumps(2.5, 1.5)
    assert usual.jumps(math.inf, 1.5) and usual.jumps(math.nan, 1.5)
    small = Usual()
    for _ in range(12):
        small.add(2.0)
    for _ in range(50):
        small.add(1e-4)
    assert not small.jumps(1e-2, 1.5) and small.jumps(0.5, 1.5)  # a hundredth of where it began is no spike


def test_diagnosis_from_records_in_each_case() -> None:
    below, above = measured(10, 0.5), measured(30, 1.5)
    plain = [{"step": s, "lr": 0.1} for s in range(1, 40)]
    never = after_the_fact([below, measured(20, 0.6)], [])
    assert never.crossed is None and "stayed below 1" in never.sentence and never.reasons["crossed"]
    sharper = after_the_fact([*plain, below, above], [])
    assert (sharper.crossed, sharper.driver, sharper.crossed_estimate) == ((10, 30), "sharpness", None)
    first = after_the_fact([measured(1, 2.0)], [])
    assert first.crossed == (0, 1) and "first measurement" in first.sentence and "start with an lr" in first.change[0]
    alarm = {"step": 35, "alarm": "loss-jump", "sentence": "s.", "cause": "curvature", "driver": None, "evidence": {}}
    spiked = after_the_fact([*plain, below, above], [alarm])
    assert spiked.lead == (5, 25) and spiked.driver == "sharpness"
    assert "lower lr below 0.0667" in spiked.change[0] and "'4'" in spiked.change[1] and "5 to 25" in str(spiked)


def numbers_in(sentence: str, pattern: str) -> tuple[float, ...]:
    found = re.search(pattern, sentence)
    assert found, sentence
    return tuple(float(number) for number in found.groups())


NUMBER = r"(-?[\d.]+(?:e[+-]?\d+)?|nan|inf|-inf)"


def check_against_records(sentence: str, records: Sequence[dict], jumped: int | None) -> None:
    """Every fact of a post-mortem's sentence, worked out from the records by another way."""
    losses = {r["step"]: r["loss"] for r in records if r.get("loss") is not None}
    finite = {step: loss for step, loss in losses.items() if math.isfinite(loss)}
    steps = sorted(losses)
    first, last, start, end = numbers_in(
        sentence, rf"over updates (\d+) to (\d+) the loss went from {NUMBER} to {NUMBER}[,;.]"
    )
    assert (first, last) == (steps[0], steps[-1])
    assert [start, end] == pytest.approx([losses[steps[0]], losses[steps[-1]]], rel=1e-3, nan_ok=True)
    if finite:
        high, place = numbers_in(sentence, rf"at its highest {NUMBER} at update (\d+)")
        assert high == pytest.approx(max(finite.values()), rel=1e-3) and finite[int(place)] == max(finite.values())
    broken = [step for step in steps if not math.isfinite(losses[step])]
    assert ("not finite at" in sentence) == bool(broken)
    if broken:
        assert numbers_in(sentence, r"not finite at (\d+) of them, first at update (\d+)") == (len(broken), broken[0])
    real = "grad_norm" in records[0]  # a run, not numbers made up
    if jumped is None:
        assert sentence.startswith(f"{len(records)} updates without a jump of the loss;")
        assert not real or all(losses[b] < 2.5 * max(losses[s] for s in steps if b - 50 <= s < b) for b in steps[1:])
    else:
        assert "without a jump" not in sentence
        step, value = numbers_in(sentence, rf"^step (\d+): the (?:loss|gradient's norm) is {NUMBER}")
        assert step == jumped
        name = "loss" if ": the loss is" in sentence else "grad_norm"
        earlier = [r[name] for r in records if real and jumped - 50 <= r["step"] < jumped]
        assert not earlier or not value <= 1.19 * max(earlier)
        assert value == pytest.approx(next(r[name] for r in records if r["step"] == jumped), rel=1e-3, nan_ok=True)
    ratios = {r["step"]: r["stability_ratio"] for r in records if r.get("stability_ratio") is not None}
    if told := re.search(r"at its highest the ratio was ([\d.e+-]+), before update (\d+)", sentence):
        assert float(told[1]) == pytest.approx(max(ratios.values()), rel=5e-3)
        assert ratios[int(told[2])] == max(ratios.values())
        adapts = any(r.get("preconditioned_sharpness") is not None for r in records)
        high = jumped is None and max(ratios.values()) > (2.0 if adapts else 1.4)
        assert ("so high is not" in sentence) == high
    if told := re.search(r"rose past 1 between updates (\d+) and (\d+)", sentence):
        assert ratios[int(told[1])] < 1  # the measurement after an update that jumped is no record
        assert int(told[2]) not in ratios or ratios[int(told[2])] >= 1
    if "stayed below 1" in sentence:
        above = [r for r in records if r["step"] in ratios and ratios[r["step"]] >= 1]
        assert jumped is None or not above
        assert all(r["provisional"] > 0.5 for r in above)  # of which most is the unit that one more update would make
        assert not above or "stayed below 1 once most second moments had begun" in sentence


def told_of(losses: Sequence[float], ratios: dict[int, float] | None = None, **more: object) -> Postmortem:
    records = [{"step": k + 1, "lr": 0.3, "loss": loss} for k, loss in enumerate(losses)]
    for step, ratio in (ratios or {}).items():
        records[step - 1] |= measured(step, ratio, lr=0.3, **more)
    found = after_the_fact(records, [])
    check_against_records(found.sentence, records, found.spike)
    return found


def noise(count: int, seed: int = 0, spread: float = 0.5) -> list[float]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, generator=generator, dtype=torch.float64).mul(spread).exp().tolist()


RISES: dict[str, tuple[list[float], int]] = {
    "three updates": ([3.5, 1402.0, 24.0], 2),
    "and back": ([3.5, 1402.0, 500.0, 24.0, *[3.4] * 30], 2),
    "to stay": ([2.3, 40.0, 60.0, *[50.0] * 30], 2),
    "by and by, so that none is unusual": ([1.5**k for k in range(30)], 6),
    "swinging": ([3.5, 1402.0, 24.0, 900.0, 30.0, 1100.0], 2),
    "at the end": ([*[2.0] * 60, 300.0], 61),
    "not a number": ([2.0, 2.0, math.nan, math.nan], 3),
    "infinite at once": ([math.inf], 1),
    "below zero": ([-5.0, -5.1, 30.0, 31.0, 30.0], 3),
}
NO_RISES: dict[str, list[float]] = {
    "a fall": [2.0 * 0.98**k for k in range(100)],
    "a slow rise": [2.0 + 0.01 * k for k in range(60)],
    "single samples": [(0.001, 0.5, 0.002, 0.3)[k % 4] for k in range(60)],
    "small beside the start": [*[2.0] * 10, *[1e-4] * 60, 0.01, 1e-4, 1e-4],
    **{f"noise {seed}": noise(200, seed) for seed in range(5)},
}


@pytest.mark.parametrize("name", [*RISES, *NO_RISES])
def test_a_headline_tells_of_the_jump_its_update_and_its_height(name: str) -> None:
    losses, at = RISES[name] if name in RISES else (NO_RISES[name], None)
    found = told_of(losses)
    assert found.spike == at
    if at is not None:
        assert found.cause == "unclear" and "not measured" in found.sentence


def test_a_jump_seen_in_hindsight_has_its_cause_from_the_measurements() -> None:
    losses = [3.5, 3.4, 1402.0, 24.0]
    curved = told_of(losses, {1: 0.5, 3: 60.0})
    assert (curved.cause, curved.crossed, curved.lead) == ("curvature", (1, 3), (0, 2))
    assert told_of(losses, {1: 0.5}).cause == "unclear"
    records = [{"step": k + 1, "lr": 0.3, "loss": loss} for k, loss in enumerate(losses)]
    records[0] |= measured(1, 0.5, probe_loss=3.5)
    records[2] |= measured(3, 0.6, probe_loss=3.4)  # at the weights of the jump the fixed probe stands where it stood
    assert after_the_fact(records, []).cause == "data"
    back = told_of([3.0] * 30, {1: 0.5, 10: 1.2, 20: 0.9})
    assert "below 1 again, last measured at 0.9, before update 20" in back.sentence
    assert "so high is not" in told_of([3.0] * 30, {1: 0.5, 10: 6.0, 20: 0.9}).sentence


@pytest.mark.parametrize("name", ["lr .3 at once", "an ordinary lr"])
def test_a_transformers_post_mortem_is_its_run(name: str) -> None:
    """AdamW at lr .3 under a cosine: the loss goes off within a few updates, and comes back part of the way."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, norm_first=True)
    model = nn.Sequential(nn.Embedding(16, 16), block, nn.Linear(16, 16))
    optimizer = torch.optim.AdamW(model.parameters(), 0.3 if name == "lr .3 at once" else 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())

    def batch() -> Batch:
        x = torch.randint(16, (8, 8), generator=generator)
        return x, (x + 1) % 16

    with Monitor(es.Objective(model, loss, batch()), optimizer, dense=3, every=20, budget=1.0) as monitor:
        for _ in range(40):
            optimizer.zero_grad()
            value = loss(model, batch())
            value.backward()
            optimizer.step()
            monitor.step(value)
            schedule.step()
    found = monitor.diagnose()
    check_against_records(found.sentence, monitor.records, found.spike)
    losses = [r["loss"] for r in monitor.records]
    assert (max(losses) > 3 * losses[0]) == (name == "lr .3 at once") == (found.spike is not None)
    if found.spike is not None:
        assert found.cause == "curvature" and found.spike <= 10 and any("lr" in line for line in found.change)
