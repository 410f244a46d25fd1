"""Rules as plain data: each comes back from JSON as it was, one's own too; what cannot is refused."""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import eigenstep as es
from eigenstep.bridge import rules_told
from eigenstep.errors import InvalidValue, UnknownName

NOT_DEFAULT: dict[str, Any] = {
    **{"lr": 0.123456789, "weight_decay": 1e-3, "momentum": 0.5, "dampening": 0.25, "alpha": 0.7, "betas": (0.5, 0.99)},
    **{"eps": 1e-4, "lr_decay": 0.1, "initial_accumulator_value": 2.0, "momentum_decay": 0.25},
    **dict.fromkeys(("decoupled", "amsgrad", "centered"), True),
}


@dataclass(frozen=True)
class Three(es.LinearRule):
    """One's own, without a name: a tuple of numbers, a label, a mode, a mapping."""

    memories: tuple[float, ...] = (0.9, 0.99, 0.999)
    label: str | None = None
    fast: bool = False
    table: Any = None

    def move(self, x, grad, unit, buffers, c):  # type: ignore[no-untyped-def]
        return x - self.lr * grad, ()


@dataclass(frozen=True)
class Warmer(es.Adam):
    """One's own that says no name, so that it is not to be taken for Adam."""

    heat: float = 2.0


def again(rule: es.Rule) -> es.Rule:
    return es.Rule.from_dict(json.loads(json.dumps(rule.as_dict(), allow_nan=False)))


def same(one: Any, other: Any) -> bool:
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return isinstance(other, Tensor) and torch.equal(torch.as_tensor(one).double(), other.double())
    return type(one) is type(other) and bool(one == other)


@pytest.mark.parametrize("name", es.RULES)
def test_every_rule_comes_back(name: str) -> None:
    kind = es.RULES[name]
    changed = {f.name: NOT_DEFAULT[f.name] for f in fields(kind) if f.name != "delta"}
    for rule in (kind(), kind(**changed)):
        found = again(rule)
        assert type(found) is kind
        assert found == rule
        assert set(rule.as_dict()) == {"name", *(f.name for f in fields(kind))}
    assert all(kind(**changed).as_dict()[field] != kind().as_dict()[field] or field in ("name", "decoupled")
               for field in kind().as_dict() if field != "delta")  # fmt: skip
    assert kind.from_dict(kind().as_dict()) == kind()


def test_lanes_deltas_and_pairs_come_back() -> None:
    lanes = es.Adam(lr=torch.tensor([0.1, 0.2]), betas=(torch.tensor([0.5, 0.75]), 0.99), delta=[1e-6, 1e-7])
    found = again(lanes)
    assert all(same(getattr(lanes, f.name), getattr(found, f.name)) for f in fields(lanes))
    assert found.lanes == (2,)
    assert again(es.RMSProp(delta=1e-6)) == es.RMSProp(delta=1e-6)
    assert again(es.AdaGrad(delta=1e-6)).eps is None


def test_ones_own_come_back() -> None:
    for rule in (Three(), Three(0.5, memories=(0.5,), label="nan", fast=True), Three(table={"a": [1, 2]}), Warmer(0.1)):
        found = again(rule)
        assert type(found) is type(rule)
        assert found == rule
    assert Warmer().as_dict()["name"] == "Warmer"
    assert type(es.Adam.from_dict(Warmer().as_dict())) is Warmer
    assert again(Three(memories=(0.1, float("inf")))) == Three(memories=(0.1, float("inf")))


def test_what_cannot_come_back_is_refused() -> None:
    with pytest.raises(InvalidValue, match="table was <built-in function max>, which a file cannot hold"):
        again(Three(table=max))
    with pytest.raises(UnknownName, match="did you mean 'adam'"):
        es.Rule.from_dict({"name": "adams", "lr": 0.1})
    with pytest.raises(UnknownName, match="rule 'nesterov' does not exist"):
        es.Adam.from_dict(es.Nesterov().as_dict())
    with pytest.raises(UnknownName, match="hyperparameter 'betta' does not exist"):
        es.Rule.from_dict({"name": "adam", "betta": 0.1})
    with pytest.raises(InvalidValue, match="lr=-1 must be"):
        es.Rule.from_dict({"name": "adam", "lr": -1})
    with pytest.raises(UnknownName, match="rule 'None' does not exist"):
        es.Rule.from_dict({})

    @dataclass(frozen=True)
    class Other(es.SignDescent):
        name = "lion"

    with pytest.raises(UnknownName, match="'lion' names several rules"):
        es.Rule.from_dict(es.Lion().as_dict())
    assert es.Lion.from_dict(es.Lion().as_dict()) == es.Lion()
    del Other
    import gc

    gc.collect()  # a class is gone with its last user: the name is Lion's again
    assert again(es.Lion()) == es.Lion()


def test_an_optimizer_tells_its_rules() -> None:
    w, v = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(3))
    groups = [{"params": [w], "lr": torch.tensor(0.1)}, {"params": [v], "betas": (0.5, 0.99), "eps": 1e-4}]
    told = rules_told(torch.optim.AdamW(groups, lr=0.2, amsgrad=True))
    assert [es.Rule.from_dict(rule) for rule in told] == [
        es.AdamW(lr=float(torch.tensor(0.1)), amsgrad=True),
        es.AdamW(lr=0.2, betas=(0.5, 0.99), eps=1e-4, amsgrad=True),
    ]
    (mine,) = rules_told(es.Optimizer([w], Warmer(lr=0.25)))
    assert es.Rule.from_dict(mine) == Warmer(lr=0.25)
    (none,) = rules_told(torch.optim.LBFGS([w], lr=0.5, line_search_fn="strong_wolfe"))
    assert none["name"] == "LBFGS"
    assert (none["lr"], none["history_size"], none["line_search_fn"]) == (0.5, 100, "strong_wolfe")
    (up,) = rules_told(torch.optim.SGD([w], lr=0.5, maximize=True))
    assert (up["name"], up["maximize"]) == ("SGD", True)  # not the rule: it climbs
    json.dumps([none, up, mine], allow_nan=False)


def objective_and(kind: Any, **settings: Any) -> tuple[es.Objective, torch.optim.Optimizer]:
    torch.manual_seed(3)
    model = torch.nn.Linear(3, 1)
    x = torch.randn(16, 3)
    optimizer = kind(model.parameters(), **settings)
    return es.Objective(model, lambda model, x: (model(x) - 1).square().mean(), [x[:8], x[8:]]), optimizer


NESTEROV = (torch.optim.SGD, {"lr": 0.0123456789, "momentum": 0.5, "nesterov": True})
ADAM = (torch.optim.Adam, {"lr": 0.0123456789, "betas": (0.5, 0.99), "eps": 1e-4})
RULES_OF = {
    "nesterov": (NESTEROV, es.Nesterov(lr=0.0123456789, momentum=0.5)),
    "adam": (ADAM, es.Adam(lr=0.0123456789, betas=(0.5, 0.99), eps=1e-4)),
}


@pytest.mark.parametrize("name", RULES_OF)
def test_every_result_names_its_rule(name: str) -> None:
    (kind, settings), rule = RULES_OF[name]
    objective, optimizer = objective_and(kind, **settings)
    told = [rule.as_dict()]
    limit = es.limit_now(objective, optimizer)
    critical = es.critical_sharpness(objective, optimizer)
    diagnosis = json.loads(es.diagnose(objective, optimizer).to_json())
    recommendation = es.recommend(objective, optimizer, budget=60)
    for rules in (limit.as_dict()["rules"], limit.edge.preconditioner["rules"], critical.as_dict()["rules"]):
        assert json.loads(json.dumps(rules)) == told
    assert diagnosis["rules"] == diagnosis["limit"]["rules"] == diagnosis["critical"]["rules"] == told
    assert diagnosis["rule"] == told[0]
    found = json.loads(recommendation.to_json())
    assert found["rules"] == [{**told[0], "lr": found["lr"]}]
    if rule.adaptive:
        spectrum = es.measure(objective, optimizer=optimizer)
        assert json.loads(json.dumps(spectrum.as_dict()["preconditioner"]))["rules"] == told


def test_groups_keep_their_ratio_in_what_is_recommended() -> None:
    objective, _ = objective_and(torch.optim.SGD, lr=0.1)
    weight, bias = objective.model.parameters()
    optimizer = torch.optim.SGD([{"params": [weight], "lr": 0.1}, {"params": [bias], "lr": 0.025}], momentum=0.3)
    found = es.recommend(objective, optimizer, budget=60, momentum=[0.7])
    first, second = (es.Rule.from_dict(rule) for rule in found.rules)
    assert first == es.Momentum(lr=found.lr, momentum=0.7)
    assert second == es.Momentum(lr=found.lr * 0.25, momentum=0.7)


def test_what_has_diverged_or_has_no_rule_is_named_too() -> None:
    objective, optimizer = objective_and(torch.optim.SGD, lr=0.1, momentum=0.5)
    with torch.no_grad():
        next(iter(objective.model.parameters())).fill_(float("inf"))
    assert es.diagnose(objective, optimizer).rules == (es.Momentum(lr=0.1, momentum=0.5).as_dict(),)
    objective, optimizer = objective_and(torch.optim.Adadelta, lr=0.5, rho=0.8)
    (told,) = es.critical_sharpness(objective, optimizer).as_dict()["rules"]
    assert (told["name"], told["lr"], told["rho"]) == ("Adadelta", 0.5, 0.8)


def test_a_log_names_the_rules_of_each_measurement(tmp_path: Path) -> None:
    objective, optimizer = objective_and(ADAM[0], **ADAM[1])
    log = tmp_path / "run.jsonl"
    with es.Monitor(objective, optimizer, log=log) as monitor:
        for step in range(3):
            if step == 2:
                optimizer.param_groups[0]["betas"] = (0.25, 0.99)
            optimizer.zero_grad()
            objective.loss(objective.model, next(iter(objective.batches.source))).backward()
            optimizer.step()
        monitor.step()
    found = es.read_log(log)
    assert [es.Rule.from_dict(rule) for rule in found.header["rules"]] == [RULES_OF["adam"][1]]
    told = [es.Rule.from_dict(record["rules"][0]) for record in found.measured]
    assert told == [RULES_OF["adam"][1]] * 2 + [es.Adam(lr=0.0123456789, betas=(0.25, 0.99), eps=1e-4)]
