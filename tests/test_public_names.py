"""Every public name works whatever was imported before it: no module of ours stands where a function should."""

import subprocess
import sys

import eigenstep as es

# Run in a process of its own, in which our modules are forgotten and imported anew for each order: which name a module
# puts where depends on what was imported before it.
PROGRAM = """
import importlib, pkgutil, sys, tempfile, types
import torch

# What the adapters' packages give them; the adapters are tested in the real ones, which take seconds to import.
for name, base in (("transformers", "TrainerCallback"), ("lightning.pytorch", "Callback")):
    sys.modules[name] = types.ModuleType(name)
    setattr(sys.modules[name], base, type(base, (), {}))

def every_module(backwards):
    found = [m.name for m in pkgutil.walk_packages(es.__path__, "eigenstep.")]
    for name in sorted(found, reverse=backwards):
        importlib.import_module(name)

def every_name():
    for name in es.__all__:
        assert not isinstance(getattr(es, name), types.ModuleType), f"{name} is a module"

def ours():
    return [name for name in sys.modules if name.split(".")[0] == "eigenstep"]

def try_order(names_first, backwards):
    for name in ours():
        del sys.modules[name]
    globals()["es"] = importlib.import_module("eigenstep")
    if names_first:
        every_name()
    every_module(backwards)
    every_name()
    for package in [sys.modules[name] for name in ours()]:
        for name in getattr(package, "__all__", ()):
            assert not isinstance(getattr(package, name), types.ModuleType), f"{package.__name__}.{name} is a module"
    call_everything()

def call_everything():
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1, bias=False)
    x = torch.eye(2).repeat(8, 1)
    objective = es.Objective(model, lambda model, x: (model(x) - 1).square().mean(), [x, x])
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    spectrum = es.Spectrum.from_eigenvalues([1.0, 100.0])
    rule = es.HeavyBall(lr=0.01)
    one, ones = torch.tensor(1.0), torch.ones(2)
    log = tempfile.mkdtemp() + "/log.jsonl"

    def monitored():
        own = torch.optim.SGD(model.parameters(), lr=0.1)
        with es.Monitor(objective, own, log=log) as monitor:
            return es.StabilityLR(own, monitor), monitor

    def refused(kind, call):
        try:
            call()
        except kind as error:
            return error
        raise AssertionError(f"{kind} was not raised")

    calls = {
        "BadFile": lambda: refused(es.BadFile, lambda: es.Spectrum.load("no/such/file")),
        "Check": None, "CriticalSharpness": None, "Diagnosis": None, "EigenstepError": None, "Group": None,
        "Limit": None, "LinearRule": None, "Problem": None, "Recommendation": None, "Rule": None, "Run": None,
        "State": None,
        "InvalidValue": lambda: refused(es.InvalidValue, lambda: es.GradientDescent(lr=-1.0)),
        "Monitor": monitored,
        "StabilityLR": monitored,
        "Objective": lambda: objective,
        "Optimizer": lambda: es.Optimizer(model.parameters(), rule),
        "Quadratic": lambda: es.Quadratic((1.0, 100.0), start=(1.0, 1.0)),
        "RULES": lambda: [kind() for kind in es.RULES.values()],
        "RealLoss": lambda: importlib.import_module("eigenstep.problems").breast_cancer(),
        "Spectrum": lambda: spectrum,
        "UnknownName": lambda: refused(es.UnknownName, lambda: es.rule_named("heavyball")),
        "Unsupported": lambda: refused(es.Unsupported, lambda: es.Optimizer(model.parameters(), 3)),
        "advance": lambda: es.advance(ones, ones, 0.5),
        "check": lambda: es.check(model, objective.loss, [x, x], sgd, horizon=60),
        "critical_sharpness": lambda: es.critical_sharpness(objective, sgd),
        "density": lambda: es.density(objective, 1, 2),
        "diagnose": lambda: es.diagnose(objective, sgd),
        "finite_step": lambda: es.finite_step(objective, ones, [0.1]),
        "load": lambda: (spectrum.save(log + ".json"), es.load(log + ".json"))[1],
        "layers": lambda: es.layers(objective),
        "limit_now": lambda: es.limit_now(objective, sgd),
        "max_stable_lr": lambda: es.max_stable_lr(rule, 100.0),
        "measure": lambda: es.measure(objective),
        "predict": lambda: es.predict(rule, spectrum),
        "read_log": lambda: (monitored(), es.read_log(log))[1],
        "recommend": lambda: es.recommend(objective, sgd, budget=60),
        "rule_named": lambda: es.rule_named("adam"),
        "rule_of": lambda: es.rule_of(sgd)[0],
        "shares": lambda: es.shares(objective, ones),
        "simulate": lambda: es.simulate(rule, es.Quadratic((1.0, 100.0), start=(1.0, 1.0)), steps=3),
        "trace": lambda: es.trace(objective, 6),
        "tune": lambda: es.tune(rule, spectrum),
    }
    calls |= {kind.__name__: kind for kind in (*es.RULES.values(), es.Himmelblau, es.DoubleWell, es.Rosenbrock)}
    made = [rule.init(ones)]
    for name in es.__all__:
        if calls.get(name) is not None:
            made.append(calls[name]())
    seen = {kind.__name__ for value in made for one in (value if type(value) is tuple else (value,))
            for kind in type(one).__mro__}
    missing = [name for name in es.__all__ if calls.get(name) is None and name not in seen]
    assert not missing, f"nothing here calls or makes {missing}: add a call"

for order in ((True, False), (False, True)):
    try_order(*order)
"""


def test_every_public_name_works_after_every_module_is_imported_in_any_order() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_the_listing_shows_what_one_calls_and_gets_and_hides_what_helps() -> None:
    shown = set(dir(es))
    assert {"measure", "recommend", "tune", "Objective", "Limit", "Adam", "Monitor", "EigenstepError"} <= shown
    assert not {"advance", "rule_named", "State", "RULES", "importlib", "Any"} & shown
    assert shown - {"__version__"} < set(es.__all__)  # what is hidden is still there
    assert all(getattr(es, name) is not None for name in es.__all__)
