"""Every fact of a post-mortem and of the alarms, worked out anew from the records of runs that fail in many ways."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from statistics import median

import pytest
import torch
from torch import Tensor, nn

import eigenstep as es
from eigenstep.training import Monitor, after_the_fact
from eigenstep.training.failure import JUMPS

Batch = tuple[Tensor, Tensor]
Stage = Callable[[int, torch.optim.Optimizer, Batch], Batch]
NUMBER = r"(-?\d[\d.]*(?:e[+-]?\d+)?|nan|inf)"


def creep(by: float) -> Stage:
    def stage(t: int, optimizer: torch.optim.Optimizer, batch: Batch) -> Batch:
        optimizer.param_groups[0]["lr"] = 0.01 * by**t
        return batch

    return stage


def acts(at: dict[int, str], **settings: float) -> Stage:
    """Bad labels or a batch of nan at given updates; at those called 'set', and from then on, other settings."""

    def stage(t: int, optimizer: torch.optim.Optimizer, batch: Batch) -> Batch:
        x, y = batch
        if at.get(t) == "set":
            optimizer.param_groups[0].update(settings)
        return (x * math.nan if at.get(t) == "nan" else x), (y + 5 if at.get(t) == "labels" else y)

    return stage


@dataclass(frozen=True)
class Case:
    """How a run is staged, and what is to blame: the update at which the story begins, its cause and driver."""

    stage: Stage
    updates: int
    spike: int
    cause: str
    driver: str | None
    kind: str = "sgd"
    skips: bool = False  # the update of a batch whose loss is not finite


CASES = {
    "creep": Case(creep(1.01), 450, 413, "curvature", "lr"),
    "two": Case(acts({100: "labels", 250: "set"}, lr=3.0), 300, 251, "curvature", "lr"),
    "two data spikes": Case(acts({100: "labels", 200: "labels"}), 240, 200, "data", "gradient"),
    "Adam creeps": Case(creep(1.01), 800, 678, "curvature", "lr", "adam"),
    "a faster creep": Case(creep(1.015), 320, 290, "curvature", "lr"),
    "a nan batch": Case(acts({100: "nan"}), 120, 100, "data", "gradient"),
    "a nan batch skipped, then lr": Case(
        acts({60: "nan", 90: "set"}, lr=3.0), 130, 104, "curvature", "lr", "sgd", skips=True
    ),
    "lr within a data spike's window": Case(acts({60: "labels", 90: "set"}, lr=3.0), 130, 103, "curvature", "lr"),
    "momentum raised": Case(acts({80: "set"}, momentum=0.999, lr=0.4), 200, 149, "curvature", "sharpness"),
    "RMSprop, one bad batch": Case(acts({100: "labels"}), 150, 100, "data", "gradient", "rmsprop"),
}
LONG = {"Adam creeps", "a faster creep", "momentum raised"}


@cache
def run(name: str) -> Monitor:
    case = CASES[name]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 1))
    x = torch.randn(128, 5)
    y = torch.sin(x.sum(1, keepdim=True))

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return ((model(batch[0]) - batch[1]) ** 2).mean()

    optimizer: torch.optim.Optimizer = {
        "sgd": lambda: torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        "adam": lambda: torch.optim.Adam(model.parameters(), lr=0.01),
        "rmsprop": lambda: torch.optim.RMSprop(model.parameters(), lr=0.003),
    }[case.kind]()
    generator = torch.Generator().manual_seed(1)
    with Monitor(es.Objective(model, loss, (x, y)), optimizer, every=10, budget=1, dense=3) as monitor:
        for t in range(1, case.updates + 1):
            rows = torch.randint(0, 128, (16,), generator=generator)
            batch = case.stage(t, optimizer, (x[rows], y[rows]))
            optimizer.zero_grad()
            value = loss(model, batch)
            value.backward()
            if case.skips and not math.isfinite(value.item()):
                optimizer.zero_grad()  # torch's optimizers leave out parameters without a gradient
            optimizer.step()
            monitor.step(value)
    return monitor


def close(said: str, value: float) -> bool:
    return float(said) == pytest.approx(value, rel=6e-3, nan_ok=True)


def check_sentence(sentence: str, records: list[dict]) -> int:
    """Each number that a sentence says, of the update that it names; returns how many facts that were."""
    by = {r["step"]: r for r in records}
    ratio = {s: r["stability_ratio"] for s, r in by.items() if r.get("stability_ratio") is not None}
    facts = 0
    head = re.match(rf"step (\d+): the (loss|gradient's norm) is {NUMBER}(?:, {NUMBER} times its usual)?", sentence)
    at = int(head[1]) if head else None
    if head:
        key = "loss" if head[2] == "loss" else "grad_norm"
        assert close(head[3], by[at][key])
        if head[4]:
            before = [r[key] for r in records if r["step"] < at and math.isfinite(r[key])][-50:]
            assert close(head[4], by[at][key] / median(before))
        facts += 1
    named = None
    for said, step, scaled in re.findall(
        rf"ratio was {NUMBER} before update (\d+)(?: \({NUMBER} at the lr of this one\))?", sentence
    ):
        named = int(step)
        assert close(said, ratio[named]) and named <= at
        assert not scaled or close(scaled, ratio[named] * by[at]["lr"] / by[named]["lr"])
        facts += 1
    for said, step in re.findall(rf"ratio is {NUMBER} before update (\d+)", sentence):
        named = int(step)  # measured with the lr of the update before it
        assert named == at + 1 and close(said, ratio[named] * by[at]["lr"] / by[named]["lr"])
        facts += 1
    if jump := re.match(
        rf"step (\d+): the stability ratio (?:jumped to|has stayed above the edge, now at) {NUMBER}", sentence
    ):
        named = int(jump[1])
        assert close(jump[2], ratio[named])
        facts += 1
    if "yet the stability ratio" in sentence:
        assert float(re.search(rf"yet the stability ratio (?:was|is) {NUMBER}", sentence)[1]) < 1
    crossing = re.search(r"rose past 1 between updates (\d+) and (\d+)", sentence)
    for parts, a, b in re.findall(
        r"((?:lr|the sharpness|the preconditioner)[^,;:]*? grew [^;:]*?) between updates (\d+) and (\d+)", sentence
    ):
        facts += check_growth(parts, by[int(a)], by[int(b)])
    if (
        crossing
        and (told := re.search(r"and \d+(?:, by lr at \d+)? because ([^;]*?)(?:;|\.$)", sentence))
        and "between" not in told[1]
    ):
        facts += check_growth(told[1], by[int(crossing[1])], by[int(crossing[2])])
    first = re.split("; over updates", sentence)[0]
    if told := re.search(r"(\d+)% of the sharp direction lies in '(.*?)'", first):
        assert int(told[1]) == pytest.approx(100 * by[named]["layers"][told[2]], abs=1)
        facts += 1
    if told := re.search(rf"an lr below {NUMBER} would be stable (there|now)", first, re.IGNORECASE):
        assert close(told[1], by[named]["max_stable_lr"])
        facts += 1
    return facts


def check_growth(parts: str, old: dict, new: dict) -> int:
    factors = re.findall(rf"(lr|sharpness|curvature) grew {NUMBER} times", parts)
    for what, said in factors:
        lr, sharp = new["lr"] / old["lr"], new["sharpness"] / old["sharpness"]
        share = (new["preconditioned_sharpness"] or 0) / (old["preconditioned_sharpness"] or 1) / sharp
        assert close(said, {"lr": lr, "sharpness": sharp, "curvature": share}[what]), parts
    return len(factors)


def check_whole(monitor: Monitor) -> None:
    """What a post-mortem says of the whole run."""
    found, records = monitor.diagnose(), monitor.records
    ratios = {r["step"]: r["stability_ratio"] for r in records if r.get("stability_ratio") is not None}
    losses = {r["step"]: r["loss"] for r in records}
    text = found.sentence
    assert f"over updates 1 to {len(records)} the loss went from" in text
    said, step = re.search(rf"last measured at {NUMBER}, before update (\d+)", text).groups()
    assert int(step) == max(ratios) and close(said, ratios[max(ratios)])
    assert ("the ratio stayed below 1" in text) == all(value < 1 for value in ratios.values())
    assert ("below 1 again" in text) == (max(ratios.values()) >= 1 > ratios[max(ratios)])
    if max(ratios.values()) >= 1:
        said, step = re.search(rf"at its highest the ratio was {NUMBER}, before update (\d+)", text).groups()
        assert close(said, max(ratios.values())) and ratios[int(step)] == max(ratios.values())
        a, b = found.crossed
        assert ratios[b] >= 1
        if a:
            assert f"rose past 1 between updates {a} and {b}" in text and ratios[a] < 1
        else:
            assert f"was past 1 at the first measurement, before update {b}" in text and b == min(ratios)
        assert [s for s in ratios if a < s < b] == []
        if found.crossed_estimate:
            by = {r["step"]: r for r in records}
            limit = by[a]["max_stable_lr"]
            assert by[found.crossed_estimate]["lr"] >= limit > by[found.crossed_estimate - 1]["lr"]
            assert f"by lr at {found.crossed_estimate}" in text
        if found.lead:
            few, most = found.lead
            assert (few, most) == (max(found.spike - b, 0), found.spike - a)
            assert (f"{few} to {most} updates before" if few < most else f"{few} updates before") in text
    broken = [step for step, loss in losses.items() if not math.isfinite(loss)]
    if broken:
        assert f"not finite at {len(broken)} of them, first at update {broken[0]}" in text
    jumps = {a.step: a.cause for a in monitor.alarms if a.code in JUMPS}
    told = {int(s): cause for s, cause in re.findall(r"(\d+) \((curvature|data|unclear)\)", text.rpartition("; ")[2])}
    assert {s: c for s, c in jumps.items() if s != found.spike}.items() <= told.items()
    assert found.spike not in told


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in LONG else []) for n in CASES])
def test_a_post_mortem_and_its_alarms_say_what_the_records_hold(name: str) -> None:
    monitor, case = run(name), CASES[name]
    found = monitor.diagnose()
    assert (found.spike, found.cause, found.driver) == (case.spike, case.cause, case.driver), str(found)
    assert check_sentence(found.sentence, monitor.records) >= (1 if case.cause == "data" else 4)
    check_whole(monitor)
    for alarm in monitor.alarms:
        assert check_sentence(alarm.sentence, monitor.records) >= 1
    limits = [r["max_stable_lr"] for r in monitor.records if r["step"] in (found.crossed or ())]
    for said in re.findall(rf"lr below {NUMBER}", " ".join(found.change)):
        assert close(said, min(limits))
    again = after_the_fact(monitor.records, [])  # a log without its alarms
    assert check_sentence(again.sentence, monitor.records) >= 1
    if not math.isfinite(monitor.records[-1]["loss"]):
        assert again.spike is not None and abs(again.spike - found.spike) <= 20


def test_what_ended_the_run_wins_over_what_it_recovered_from() -> None:
    found = run("two").diagnose()
    assert "other jumps at updates 100 (data), 265 (curvature)" in found.sentence
    assert "lr grew 60 times" in found.sentence and not any("batch" in line for line in found.change)
    assert "lr grew 28.9 times" in run("creep").diagnose().sentence
    both = run("two data spikes").diagnose()
    assert both.sentence.endswith("other jump at update 100 (data).")


def test_a_batch_that_is_not_finite_is_to_be_skipped_not_clipped() -> None:
    nan, finite = run("a nan batch").diagnose().change, run("two data spikes").diagnose().change
    assert "skip an update" in nan[1] and "error_if_nonfinite" in nan[1]
    assert "clip gradients" in finite[1]
    model = nn.Linear(2, 1, bias=False)
    model.weight.grad = torch.tensor([[math.nan, 1.0]])
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    assert model.weight.grad.isnan().all()  # what clipping would do
    with pytest.raises(RuntimeError, match="non-finite"):
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
