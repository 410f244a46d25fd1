"""A file's rule arrives in the explorer as it is, by every kind of file; what an older one does not tell is said."""

import importlib.util
import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from explorer_page import until, visit
from playwright.sync_api import Page

import eigenstep as es
from eigenstep.files import envelope
from eigenstep.rules import RULES, Rule

LR = 0.0123456789  # more digits than a slider would leave
NESTEROV = (torch.optim.SGD, {"lr": LR, "momentum": 0.5, "nesterov": True}, es.Nesterov(lr=LR, momentum=0.5))
ADAM = (
    torch.optim.Adam,
    {"lr": LR, "betas": (0.5, 0.99), "eps": 1e-4},
    es.Adam(lr=LR, betas=(0.5, 0.99), eps=1e-4),
)
CHANGED: dict[str, Any] = {
    **{"lr": LR, "weight_decay": 1e-3, "momentum": 0.999999, "dampening": -1.5, "alpha": 0.7, "betas": (0.5, 0.99)},
    **{"eps": 1e-4, "lr_decay": 0.1, "initial_accumulator_value": 2.0, "momentum_decay": 0.25},
    **dict.fromkeys(("amsgrad", "centered"), True),
}


def made(kind: Any, **settings: Any) -> tuple[es.Objective, torch.optim.Optimizer]:
    torch.manual_seed(3)
    model, x = torch.nn.Linear(3, 1), torch.randn(16, 3)
    objective = es.Objective(model, lambda model, x: (model(x) - 1).square().mean(), [x[:8], x[8:]])
    return objective, kind(model.parameters(), **settings)


def by_diagnosis(objective: es.Objective, optimizer: torch.optim.Optimizer, path: Path) -> str:
    return es.diagnose(objective, optimizer, quick=True).to_json()


def by_recommendation(objective: es.Objective, optimizer: torch.optim.Optimizer, path: Path) -> str:
    return es.recommend(objective, optimizer, budget=60).to_json()


def by_log(objective: es.Objective, optimizer: torch.optim.Optimizer, path: Path) -> str:
    with es.Monitor(objective, optimizer, log=path) as monitor:
        loss = objective.batch_loss(0, next(iter(objective.batches.source)))
        loss.backward()
        optimizer.step()
        monitor.step(loss)
    return path.read_text()


def by_spectrum(objective: es.Objective, optimizer: torch.optim.Optimizer, path: Path) -> str:
    es.measure(objective, optimizer=optimizer).save(path)
    return path.read_text()


WAYS: list[Callable[[es.Objective, torch.optim.Optimizer, Path], str]] = [by_diagnosis, by_recommendation, by_log]


def flat(rule: Rule) -> dict[str, Any]:
    """A rule's hyperparameters under the page's names."""
    told = {f.name: getattr(rule, f.name) for f in fields(rule)}
    pair = told.pop("betas", None)
    return told if pair is None else {**told, "beta1": pair[0], "beta2": pair[1]}


def give(page: Page, content: str, label: str) -> tuple[str, dict[str, Any], str]:
    """The first racer's name and hyperparameters after a file was opened by hand, and the notes beside it."""
    page.set_input_files("#file", {"name": label, "mimeType": "application/json", "buffer": content.encode()})
    until(page, f"document.getElementById('report-title').textContent.startsWith('{label}: ')")
    first = page.evaluate("explorer.state.racers[0]")
    return first["rule"], first["p"], page.inner_text("#report-notes")


def read(page: Page, *contents: str) -> list[tuple[str, dict[str, Any], str, str]]:
    """The same of several files, as the page's modules read them and race them, and the code that they come to."""
    found = page.evaluate(
        """async (contents) => {
          const {readReport} = await import('./report.js'), {raceFor} = await import('./race.js');
          const {compute} = await import('./model.js'), {pytorch} = await import('./code.js');
          const {decode, encode} = await import('./state.js');
          return contents.map((content) => {
            const report = readReport(content, "a"), state = raceFor(report), [{rule, p}] = state.racers;
            if (compute(state, report).racers.some((r) => !(r.p.lr > 0))) throw new Error("a racer does not move");
            if (JSON.stringify(decode(encode(state)).racers) !== JSON.stringify(state.racers)) throw new Error("link");
            return [rule, p, report.notes.join(" "), pytorch(rule, p)];
          });
        }""",
        list(contents),
    )
    return [tuple(each) for each in found]


@pytest.mark.parametrize("setting", [NESTEROV, ADAM], ids=["nesterov", "adam"])
def test_it_arrives_as_it_is(page: Page, url: str, tmp_path: Path, setting: Any) -> None:
    kind, settings, rule = setting
    visit(page, url)
    for way in WAYS:
        objective, optimizer = made(kind, **settings)
        content = way(objective, optimizer, tmp_path / "file")
        wanted = rule.replace(lr=json.loads(content)["lr"]) if way is by_recommendation else rule
        name, p, notes = give(page, content, way.__name__)
        assert (name, p) == (rule.name, flat(wanted)), way
        assert "assumed" not in notes


def test_a_preconditioned_spectrum_brings_its_rule(page: Page, url: str, tmp_path: Path) -> None:
    kind, settings, rule = ADAM
    page.goto(url)
    ((name, p, notes, _),) = read(page, by_spectrum(*made(kind, **settings), tmp_path / "file"))
    assert (name, p) == (rule.name, flat(rule))
    assert "assumed" not in notes


def test_every_rule_and_setting_arrives_and_leaves_as_code(page: Page, url: str) -> None:
    rules: list[Rule] = []
    for name, kind in RULES.items():
        own = {f.name: CHANGED[f.name] for f in fields(kind) if f.name in CHANGED}
        rules += [kind(), kind(**own)]
        if name in ("adagrad", "rmsprop", "adam", "adamw", "nadam", "radam"):
            rules += [kind(delta=1e-6), kind(decoupled=True, weight_decay=0.5), kind(weight_decay=0.0, decoupled=True)]
        if "momentum" in {f.name for f in fields(kind)}:
            rules.append(kind(momentum=0.0))
    page.goto(url)
    files = []
    for rule in rules:
        operator = "preconditioned" if isinstance(rule, es.LinearRule) and rule.adaptive else "hessian"
        content = {"lr": rule.lr, "rules": [rule.as_dict()], "spectrum": {"values": [3.0], "operator": operator}}
        files.append(envelope("diagnosis", {"sentence": "x", **content}))
    for rule, (name, p, notes, code) in zip(rules, read(page, *files), strict=True):
        wanted = {field: value for field, value in flat(rule).items() if field in p or value is not None}
        assert (name, p) == (rule.name, wanted)
        assert "assumed" not in notes
        names: dict[str, Any] = {"model": torch.nn.Linear(2, 1)}
        exec(code, names)
        (group,) = es.rule_of(names["optimizer"])
        for field, value in flat(group.rule).items():  # decoupled or not, no decay is no decay
            if field in p and not (field == "decoupled" and p["weight_decay"] == 0):
                assert value == p[field], (rule, code)
        assert type(group.rule) is type(rule) or (rule.name, group.rule.name) in ALIKE, (rule, code)


# What torch cannot tell apart, or what without momentum is the same.
ALIKE = {("heavy-ball", "momentum"), ("heavy-ball", "gradient-descent"), ("momentum", "gradient-descent")}


def test_what_an_older_file_does_not_tell_is_said(page: Page, url: str) -> None:
    page.goto(url)
    log = {"format": "eigenstep", "version": 1, "kind": "monitor", "optimizer": "AdamW"}
    log["settings"] = "betas=(0.5, 0.99) weight_decay=0.01 eps=0.0001 amsgrad=False"
    record = {"step": 1, "lr": LR, "loss": 1.0, "stability_ratio": 0.1, "preconditioned_sharpness": 4.0}
    limit = {"rules": ["nesterov"], "max_stable_lr": 0.4, "sharpness": 4.0, "coupled_decay": 0.25}
    bare = {"sentence": "x", "lr": LR, "limit": limit, "spectrum": {"values": [4.0]}}
    own = {"name": "adam", **{f.name: getattr(es.Adam(), f.name) for f in fields(es.Adam)}, "betas": [0.25, 0.5]}
    whole = {"sentence": "x", "lr": LR, "rule": own, "spectrum": {"values": [4.0], "operator": "preconditioned"}}
    first, second, third = read(
        page,
        json.dumps(log) + "\n" + json.dumps(record),
        envelope("diagnosis", bare),
        envelope("diagnosis", whole),
    )
    assert first[:2] == ("adamw", flat(es.AdamW(lr=LR, betas=(0.5, 0.99), eps=1e-4)))
    assert "Check these hyperparameters of AdamW" in first[2]
    assert "assumed: decoupled true." in first[2]
    assert second[:2] == ("nesterov", flat(es.Nesterov(lr=LR, weight_decay=0.25)))
    assert "assumed: momentum 0.9." in second[2]
    assert third[:2] == ("adam", flat(es.Adam(lr=LR, betas=(0.25, 0.5))))
    assert "assumed" not in third[2]


def test_hostile_and_foreign_rules_are_named(page: Page, url: str) -> None:
    page.goto(url)
    hostile = {"lr": "x", "momentum": 7, "decoupled": 3, "weight_decay": None, "__proto__": {}}
    cases: list[tuple[list[Any], str]] = [
        ([{"name": "nesterov", **hostile}], "assumed: lr half its limit, momentum 0.9, weight_decay 0."),
        ([{"name": "<b>Muon</b>", "lr": 0.1}], "Its rule, “<b>Muon</b>”, is not one that this page runs"),
        ([{"name": "constructor"}], "Its rule, “constructor”"),
        ([es.Nesterov(lr=0.0).as_dict(), es.Nesterov(lr=0.25).as_dict()], "Its 2 param groups differ"),
        ([{"name": "adam", "lr": [0.1, 0.2], "betas": 3}], "beta1 0.9, beta2 0.999"),
        ([{"name": "adam", "lr": 1e300, "delta": -1}], "assumed: lr half its limit"),
        ([None, 3, "x"], ""),
    ]
    files = [envelope("diagnosis", {"sentence": "x", "rules": r, "spectrum": {"values": [4.0]}}) for r, _ in cases]
    for (_, says), (name, p, notes, _) in zip(cases, read(page, *files), strict=True):
        assert says in notes
        if "groups" in says:
            assert (name, p["lr"]) == ("nesterov", 0.25)


def catalogue() -> ModuleType:
    found = importlib.util.spec_from_file_location("catalogue", Path(__file__).parents[1] / "docs" / "catalogue.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_catalogue_is_fresh() -> None:
    module = catalogue()
    assert module.FILE.read_text(encoding="utf-8") == module.script(), "run python docs/catalogue.py"
    told = module.catalogue()["CATALOGUE"]
    assert list(told) == list(RULES)
    assert {name for name, rule in told.items() if rule["torch"] is None} == {"ema-momentum", "sign-descent", "lion"}


def test_the_catalogue_is_read_as_it_was_written(page: Page, url: str) -> None:
    page.goto(url)
    read = page.evaluate("import('./catalogue.js').then((m) => ({...m}))")
    assert read == json.loads(json.dumps(catalogue().catalogue()))
