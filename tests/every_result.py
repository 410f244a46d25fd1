"""One or more of every result, built by the calls that users make, on a module whose name is markup."""

from typing import Any

import torch
from torch import Tensor, nn

import eigenstep as es
from eigenstep.training import after_the_fact

HOSTILE = "<script>alert('&')</script>"


def small() -> tuple[nn.Module, es.Objective]:
    """A smooth network whose module has a name that is markup."""
    torch.manual_seed(0)
    model = nn.Module()
    model.add_module(HOSTILE, nn.Linear(3, 3))
    model.add_module("head", nn.Linear(3, 1))

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        parts = dict(model.named_children())
        value: Tensor = parts["head"](parts[HOSTILE](x).tanh()).square().mean()
        return value

    return model, es.Objective(model, loss, torch.randn(16, 3, generator=torch.Generator().manual_seed(1)))


def watched() -> es.Monitor:
    """A monitor after a few updates, the last at an lr past the edge."""
    model, objective = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with es.Monitor(objective, optimizer) as monitor:
        for update in range(6):
            optimizer.zero_grad()
            value = objective.loss(model, torch.ones(4, 3))
            value.backward()
            if update == 4:
                optimizer.param_groups[0]["lr"] = 5.0
            optimizer.step()
            monitor.step(value)
    return monitor


def every_result() -> dict[str, Any]:
    """One or more of each result, built by the calls that users make."""
    model, objective = small()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    adam = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.5, 0.99), eps=1e-4)
    spectrum = es.Spectrum.from_eigenvalues([4.0, 1.0], bounds=[0.1, 0.0])
    top = es.measure(objective, 2, vectors=True)
    assert top.directions is not None
    monitor = watched()
    problem = es.Quadratic([1.0, 100.0], start=[1.0, 1.0])
    lanes = torch.tensor([[0.01], [0.5]], dtype=torch.float64)
    return {
        "spectrum": spectrum,
        "measurement": top,
        "preconditioned": es.measure(objective, optimizer=adam),
        "density": es.density(objective, 2, 4),
        "limit": es.limit_now(objective, sgd, alone=True),
        "limit at rest": es.limit_now(objective, torch.optim.SGD(model.parameters(), lr=0.0)),
        "diagnosis": es.diagnose(objective, sgd),
        "diagnosis of Adam": es.diagnose(objective, adam),
        "recommendation": es.recommend(objective, sgd, train=[torch.eye(3), torch.ones(2, 3)], horizon=40, budget=120),
        "check": es.check(model, objective.loss, [torch.eye(3), torch.ones(2, 3)], sgd, horizon=60),
        "critical sharpness": es.critical_sharpness(objective, adam),
        "prediction": es.predict(es.HeavyBall(lr=0.1), spectrum, start=[1.0, 1.0], loss=1e-6),
        "prediction without answers": es.predict(es.Adam(lr=0.1), spectrum, unit=2.0),
        "tuning": es.tune(es.Nesterov(), spectrum),
        "run": es.simulate(es.Momentum(lr=0.01), problem, steps=50, loss=1e-3, keep=("losses", "points"), settle=True),
        "runs": es.simulate(es.RMSProp(lr=lanes, alpha=0.5), problem, steps=20, box=3.0, keep=("losses",)),
        "runs without losses": es.simulate(es.Lion(lr=lanes), problem, steps=5),
        "trace": es.trace(objective, 6),
        "layers": es.layers(objective),
        "finite step": es.finite_step(objective, top.directions[0], [0.1, 0.4]),
        "postmortem": monitor.diagnose(),
        "postmortem of calm": after_the_fact([{"step": 1, "lr": 0.1}], []),
        "monitor": monitor,
    }


NAMES = [
    *("spectrum", "measurement", "preconditioned", "density", "limit", "limit at rest", "diagnosis"),
    *("diagnosis of Adam", "recommendation", "check", "critical sharpness", "prediction"),
    *(
        "prediction without answers",
        "tuning",
        "run",
        "runs",
        "runs without losses",
        "trace",
        "layers",
        "finite step",
        "postmortem",
    ),
    *("postmortem of calm", "monitor"),
]
