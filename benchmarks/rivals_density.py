"""The spectral density and the trace: time and the error really reached, on an MLP whose whole spectrum is known."""

import copy
import math
import statistics
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from scipy.stats import wasserstein_distance
from torch import nn

import eigenstep as es
from benchmarks.rivals import INSTALLED, Task, eigenthings, pyhessian, rival_rules, tasks, timed, why

TITLE = "Density and trace against a dense Hessian's 2,410 eigenvalues, and their time on larger models"
SEEDS, ROUNDS = 10, 3
PROBES, STEPS = 8, 30


def small() -> tuple[Task, np.ndarray]:
    """An MLP 64-32-10 on 599 digits, trained for a moment, and all eigenvalues of its Hessian, by double backward."""
    import digits_mlp

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    images, labels = digits_mlp.batches(599)[0]
    task = Task("small MLP", model, images, labels)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    for _ in range(100):
        optimizer.zero_grad()
        task.loss(model, task.batch).backward()
        optimizer.step()
    optimizer.zero_grad()
    exact = copy.deepcopy(model).double()
    params = list(exact.parameters())
    loss = task.criterion(exact(images.double()), labels)
    flat = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, params, create_graph=True)])
    rows = [torch.cat([r.reshape(-1) for r in torch.autograd.grad(entry, params, retain_graph=True)]) for entry in flat]
    return task, torch.linalg.eigvalsh(torch.stack(rows).detach()).numpy()


Nodes = tuple[Any, Any]  # places and weights


def densities() -> Iterator[tuple[str, Callable[[Task, int], Nodes]]]:
    """(name, function of (task, seed) that returns nodes and weights)."""

    def ours(task: Task, seed: int) -> Nodes:
        found = es.curvature.density(task.objective(), PROBES, STEPS, seed=seed)
        return found.values, found.weights

    yield f"eigenstep, {PROBES} x {STEPS}", ours
    if INSTALLED["hessian_eigenthings"]:
        import hessian_eigenthings as he

        def theirs(task: Task, seed: int, raw: bool, **sizes: int) -> Nodes:
            found = he.spectral_density(eigenthings(task), seed=1000 * seed, **sizes)
            if raw:
                return found.raw_eigenvalues.reshape(-1), found.raw_weights.reshape(-1)
            return found.grid, found.density

        same = {"num_runs": PROBES, "lanczos_steps": STEPS}
        yield f"hessian-eigenthings, {PROBES} x {STEPS}, raw nodes", lambda t, s: theirs(t, s, True, **same)
        yield f"hessian-eigenthings, {PROBES} x {STEPS}, its curve", lambda t, s: theirs(t, s, False, **same)
        yield "hessian-eigenthings, default (10 x 80), its curve", lambda t, s: theirs(t, s, False)
    if INSTALLED["pyhessian"]:

        def power(task: Task, seed: int) -> Nodes:
            torch.manual_seed(seed)
            with pyhessian(task) as made:
                nodes, weights = made.density(iter=STEPS, n_v=PROBES)
            return np.ravel(nodes), np.ravel(weights)

        yield f"pyhessian, {PROBES} x {STEPS}", power


def traces() -> Iterator[tuple[str, Callable[[Task, int], float]]]:
    """(name, function of (task, seed) that returns an estimate)."""
    yield "eigenstep, 40 products", lambda task, seed: es.curvature.trace(task.objective(), 40, seed=seed).value
    if INSTALLED["hessian_eigenthings"]:
        import hessian_eigenthings as he

        for number in (40, 100):
            said = " (its default)" * (number == 100)
            yield (
                f"hessian-eigenthings, Hutch++, {number} products{said}",
                lambda task, seed, number=number: he.trace(eigenthings(task), num_matvecs=number, seed=seed).estimate,
            )
    if INSTALLED["pyhessian"]:

        def hutchinson(task: Task, seed: int) -> float:
            torch.manual_seed(seed)
            with pyhessian(task) as made:
                return float(np.mean(made.trace()))

        yield "pyhessian, default (up to 100 products)", hutchinson


def judged(
    task: Task, entries: list[tuple[str, Callable[[Task, int], Any]]], off: Callable[[Any], float], seeds: int
) -> list[list[str]]:
    """Interleaved by seed: time in gradients, and the root mean square error."""
    seconds: dict[str, list[float]] = {}
    errors: dict[str, list[float]] = {}
    failed: dict[str, str] = {}
    gradients: list[float] = []
    for seed in range(seeds):
        gradients += [timed(task.gradient)[0] for _ in range(3)]
        for name, work in entries:
            if name in failed:
                continue
            try:
                with rival_rules(), warnings.catch_warnings():
                    took, found = timed(lambda work=work, seed=seed: work(task, seed))
            except Exception as error:
                failed[name] = why(error)
                continue
            seconds.setdefault(name, []).append(took)
            errors.setdefault(name, []).append(off(found))
    unit = statistics.median(gradients)
    cost = {name: statistics.median(times) / unit for name, times in seconds.items()}
    ours = entries[0][0]
    rows = []
    for name, _ in entries:
        if name in failed:
            rows.append([name, failed[name], "", ""])
            continue
        error = math.sqrt(sum(e * e for e in errors[name]) / len(errors[name]))
        shown = "" if math.isnan(error) else f"{error:.2%}"
        rows.append([name, f"{cost[name]:.0f}", shown, f"{cost[name] / cost[ours]:.2f}"])
    return rows


def run() -> tuple[list[str], list[list[str]]]:
    """Errors on the small MLP (Wasserstein distance in parts of the spectrum's width; trace relative); then times."""
    task, truth = small()
    width = float(truth.max() - truth.min())

    def distance(found: Nodes) -> float:
        places, weights = (np.nan_to_num(np.asarray(part, dtype=np.float64)) for part in found)
        return float(wasserstein_distance(places, truth, np.clip(weights, 0, None))) / width

    rows = [[f"density, {task.name}", *row] for row in judged(task, list(densities()), distance, SEEDS)]
    total = float(truth.sum())
    rows += [
        [f"trace, {task.name}", *row]
        for row in judged(task, list(traces()), lambda value: (value - total) / total, SEEDS)
    ]
    for larger in tasks():
        short = [entry for entry in densities() if "raw" in entry[0] or "eigenstep" in entry[0]]
        rows += [[f"density, {larger.name}", *row] for row in judged(larger, short, lambda found: math.nan, ROUNDS)]
    return ["what", "library, setting", "gradients", "error (rms over 10 seeds)", "times eigenstep's time"], rows
