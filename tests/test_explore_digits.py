"""The digits network explored: what measure, density, diagnose and a monitor really write, opened in the page."""

import json
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Page
from sklearn.datasets import load_digits

import eigenstep as es
from eigenstep.diagnosis import diagnose
from eigenstep.page import Server, read_report
from eigenstep.training import Monitor

pytestmark = pytest.mark.slow


def write_reports(folder: Path) -> list[Path]:
    """Train a small network under a monitor, then measure it in every way."""
    torch.manual_seed(0)
    digits = load_digits()
    data = (torch.tensor(digits.data[:256] / 16, dtype=torch.float32), torch.tensor(digits.target[:256]))
    model = torch.nn.Sequential(torch.nn.Linear(64, 16), torch.nn.Tanh(), torch.nn.Linear(16, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    objective = es.Objective(
        model, lambda model, batch: torch.nn.functional.cross_entropy(model(batch[0]), batch[1]), data
    )
    with Monitor(objective, optimizer, every=5, budget=0.9, dense=5, log=folder / "monitor.jsonl") as monitor:
        for _ in range(40):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(data[0]), data[1])
            loss.backward()
            optimizer.step()
            monitor.step(loss)
    es.measure(objective, top=3).save(folder / "top.json")
    es.measure(objective, top=2, which="ends").save(folder / "ends.json")
    es.density(objective, probes=2, steps=15).save(folder / "density.json")
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    es.measure(objective, top=2, optimizer=adam).save(folder / "adam.json")
    (folder / "diagnosis.json").write_text(diagnose(objective, optimizer).to_json(), encoding="utf-8")
    return sorted(folder.iterdir())


def test_the_digits_network_is_explored(page: Page, tmp_path: Path) -> None:
    shown = {}
    for path in write_reports(tmp_path):
        with Server(read_report(path), path.name) as server:
            page.goto(server.url)
            page.wait_for_selector("html[data-ready]")
            page.wait_for_selector("#report-charts canvas")
            shown[path.stem] = page.evaluate(
                """() => ({
                  name: explorer.model.racers[0].name, p: explorer.model.racers[0].p,
                  limit: explorer.model.racers[0].limit, atMost: explorer.model.racers[0].atMost,
                  values: explorer.report.spectrum && [...explorer.report.spectrum.values],
                  ratio: explorer.report.ratio?.values, charts: document.querySelectorAll('.plot').length,
                  hidden: explorer.charts[0].hidden,
                  text: document.getElementById('yours').innerText,
                })"""
            )
    sgd = es.Momentum(lr=0.3, momentum=0.9)
    top = es.Spectrum.load(tmp_path / "top.json")
    assert top.largest is not None
    assert shown["top"]["values"] == sorted(top.eigenvalues.tolist())
    assert shown["top"]["limit"] == pytest.approx(2 / top.largest, rel=1e-9)  # gradient descent's
    assert shown["density"]["limit"] is None and shown["density"]["atMost"] is not None
    assert shown["adam"]["name"] == "adam"
    assert shown["adam"]["limit"] == pytest.approx(38 / max(shown["adam"]["values"]), rel=1e-9)
    for name in ("monitor", "diagnosis"):
        assert shown[name]["name"] == "momentum"
        assert (shown[name]["p"]["lr"], shown[name]["p"]["momentum"]) == (0.3, 0.9)
    records = [json.loads(line) for line in (tmp_path / "monitor.jsonl").read_text().splitlines()[1:]]
    measured = [r for r in records if "stability_ratio" in r]
    assert shown["monitor"]["ratio"] == [r["stability_ratio"] for r in measured]
    assert shown["monitor"]["limit"] == pytest.approx(es.max_stable_lr(sgd, measured[-1]["sharpness"]), rel=1e-9)
    assert shown["monitor"]["charts"] == 3
    assert shown["ends"]["hidden"] == [min(shown["ends"]["values"]), max(shown["ends"]["values"])]
    assert "not positive" in shown["ends"]["text"]
