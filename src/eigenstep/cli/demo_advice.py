"""The demo's advice on the digits network: diagnosis, predicted limit, recommendation, runs around the edge."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eigenstep.cli import common

if TYPE_CHECKING:
    import torch

    from eigenstep.objective import Objective
    from eigenstep.recommendation import Recommendation

UPDATES, EVERY = 300, 10  # of the verification runs, and between their losses


def advise(where: Path, quiet: bool) -> tuple[dict[str, Any], list[Path]]:
    """Diagnose gradient descent on digits, recommend an lr, run it and its like above the edge; print, and save."""
    from eigenstep import draw
    from eigenstep.diagnosis import diagnose
    from eigenstep.files import write_envelope
    from eigenstep.recommendation import recommend

    with common.one_thread():
        objective, optimizer, batches = _digits()
        diagnosis = diagnose(objective, optimizer, train=batches)
        found = recommend(objective, optimizer, train=batches, budget=300)
        limit = None if found.limit is None else found.limit.max_stable_lr
        lrs = {} if found.lr is None else {"a tenth of it": found.lr / 10, "recommended": found.lr}
        lrs |= {} if found.edge is None else {"above the edge": 2 * found.edge[1]}
        runs = {name: _run(lr) for name, lr in lrs.items()}
    figure, axes = draw.panels(columns=2, width=7.0, height=3.3)
    found.plot(axes[0]).set_title("rehearsals", fontsize=8, loc="left")
    for (name, losses), color in zip(runs.items(), (draw.SKY, draw.BLUE, draw.VERMILION), strict=False):
        shown = [min(v, 30.0) if math.isfinite(v) else 30.0 for v in losses]
        steps = [EVERY * i for i in range(len(shown))]
        draw.curve(shown, steps, axes[1], label=f"lr {lrs[name]:.2g}: {name}", color=color)
    draw.describe(axes[1], "updates", "loss on all data (cut off at 30)", "verification", log="y")
    draw.legend(axes[1], "below")
    files = draw.save(figure, where, "advice")
    reports = {"diagnosis": json.loads(diagnosis.to_json()), "recommendation": json.loads(found.to_json())}
    written = []
    for kind, report in reports.items():
        written.append(where / f"{kind}.json")
        write_envelope(written[-1], kind, report)
    if not quiet:
        common.say(f"digits, tanh 64-32-32-10, mini-batches of 64, gradient descent at lr 0.001: {diagnosis.sentence}")
        _show(found, limit, lrs, runs)
    return {**reports, "limit": limit, "lrs": lrs, "losses": runs}, [files[0], *written]


def _show(found: "Recommendation", limit: float | None, lrs: dict[str, float], runs: dict[str, list[float]]) -> None:
    """Print the answer, and what the runs ended at."""
    if limit is not None:
        common.say(f"predicted limit at the start: lr {limit:.3g}")
    common.say(found.headline)
    common.say(found.reason)
    rows = [(name, f"{lrs[name]:.3g}", f"{losses[0]:.4g}", f"{losses[-1]:.4g}") for name, losses in runs.items()]
    common.table("", ("run", "lr", "loss at the start", f"after {UPDATES} updates"), rows)
    common.say()


def _digits() -> "tuple[Objective, torch.optim.Optimizer, list[Any]]":
    """The network, gradient descent at torch's default lr, and an epoch of mini-batches."""
    import torch
    from sklearn.datasets import load_digits

    from eigenstep.objective import Objective

    x, y = load_digits(return_X_y=True)
    images, classes = torch.as_tensor(x / 16, dtype=torch.float32), torch.as_tensor(y)
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 32), torch.nn.Tanh()]
        model = torch.nn.Sequential(*layers, torch.nn.Linear(32, 10))
    order = torch.randperm(len(images), generator=generator)
    batches = [(images[i], classes[i]) for i in torch.split(order, 64) if len(i) == 64]
    objective = Objective(model, lambda m, b: torch.nn.functional.cross_entropy(m(b[0]), b[1]), (images, classes))
    return objective, torch.optim.SGD(model.parameters(), lr=1e-3), batches


def _run(lr: float) -> list[float]:
    """The losses on all data of plain training at this lr, every EVERY updates."""
    objective, optimizer, batches = _digits()
    optimizer.param_groups[0]["lr"] = lr
    losses = []
    for step in range(UPDATES + 1):
        if step % EVERY == 0:
            with objective.session():
                losses.append(objective.value())
        optimizer.zero_grad()
        objective.loss(objective.model, batches[step % len(batches)]).backward()
        optimizer.step()
    return losses
