"""The top eigenvalue and the top five: time in gradients and the error that each library's settings really reached."""

import statistics
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

import eigenstep as es
from benchmarks.rivals import (
    INSTALLED,
    Task,
    curvlinops,
    eigenthings,
    exact_top,
    pyhessian,
    rival_rules,
    tasks,
    timed,
    why,
)

TITLE = "The largest eigenvalue, and the five largest, to a true 1% (truth: float64 SciPy; worst error over the seeds)"
SEEDS, FEW = 10, 3  # fewer for what takes more than a hundred gradients
Contestant = tuple[str, Callable[[Task, int], Any], int]


def contestants(k: int) -> Iterator[Contestant]:
    """(name, function of (task, seed) that returns k values, seeds): our modes; the rivals' defaults and others."""
    yield "eigenstep, certified", lambda task, seed: es.measure(task.objective(), k, seed=seed).values, SEEDS
    yield (
        "eigenstep, quick",
        lambda task, seed: es.measure(task.objective(), k, quick=True, seed=seed).values,
        SEEDS,
    )
    if INSTALLED["hessian_eigenthings"]:
        import hessian_eigenthings as he

        def lanczos(steps: int | None) -> Callable[[Task, int], Any]:
            return lambda task, seed: (
                he.lanczos(eigenthings(task), k=k, max_iter=steps, which="LA", seed=seed).eigenvalues
            )

        default = f"hessian-eigenthings, lanczos, default ({2 * k} steps)"
        yield default, lanczos(None), SEEDS
        for steps in (6, 10) if k == 1 else (15, 20):
            yield f"hessian-eigenthings, lanczos, {steps} steps", lanczos(steps), SEEDS if k == 1 else FEW
    if INSTALLED["pyhessian"]:
        for tol in (1e-2, 1e-3):
            name = f"pyhessian, tol {tol:g}{' (its default)' * (tol == 1e-3)}"
            yield name, lambda task, seed, tol=tol: power(task, k, tol, seed), SEEDS if k == 1 else FEW
    if INSTALLED["curvlinops"]:
        yield "curvlinops + eigsh, tol 0.01", lambda task, seed: arpack(task, k, seed), FEW


def power(task: Task, k: int, tol: float, seed: int) -> Any:
    """PyHessian's deflated power iteration."""
    torch.manual_seed(seed)
    with pyhessian(task) as made:
        return made.eigenvalues(maxIter=100, tol=tol, top_n=k)[0]


def arpack(task: Task, k: int, seed: int) -> Any:
    """SciPy's ARPACK on curvlinops' operator, as its documentation shows."""
    import scipy.sparse.linalg

    start = np.random.default_rng(seed).standard_normal(task.size).astype(np.float32)
    return scipy.sparse.linalg.eigsh(
        curvlinops(task).to_scipy(), k, which="LA", tol=1e-2, v0=start, return_eigenvectors=False
    )


def worst(values: Any, truth: np.ndarray) -> float:
    """The largest relative error among the values, sorted as the truth is."""
    found = np.sort(np.asarray([float(v) for v in values]))[::-1]
    return float(np.max(np.abs(found - truth) / np.abs(truth)))


def compare(task: Task, k: int, truth: np.ndarray) -> list[list[str]]:
    """Interleaved by seed: medians and worst errors; the fastest right rival is the yardstick."""
    seconds: dict[str, list[float]] = {}
    errors: dict[str, list[float]] = {}
    failed: dict[str, str] = {}
    gradients: list[float] = []
    entries = list(contestants(k))
    for seed in range(SEEDS):
        gradients.append(timed(task.gradient)[0])
        for name, work, seeds in entries:
            if seed >= seeds or name in failed:
                continue
            try:
                with rival_rules():
                    took, values = timed(lambda work=work, seed=seed: work(task, seed))
            except Exception as error:
                failed[name] = why(error)
                continue
            seconds.setdefault(name, []).append(took)
            errors.setdefault(name, []).append(worst(values, truth))
    unit = statistics.median(gradients)
    cost = {name: statistics.median(times) / unit for name, times in seconds.items()}
    right = [cost[n] for n in cost if not n.startswith("eigenstep") and max(errors[n]) <= 0.01]
    best = min(right, default=float("nan"))
    rows = []
    for name, _, seeds in entries:
        label = [f"{task.name}, top {k}", name]
        if name in failed:
            rows.append([*label, failed[name], "", "", ""])
            continue
        off = max(errors[name])
        verdict = "right" if off <= 0.01 else f"wrong in {sum(e > 0.01 for e in errors[name])} of {seeds}"
        ratio = f"{best / cost[name]:.2f}" if name.startswith("eigenstep") else ""
        rows.append([*label, f"{cost[name]:.1f}", f"{off:.1%}", verdict, ratio])
    return rows


def run() -> tuple[list[str], list[list[str]]]:
    """All three models, one eigenvalue and five."""
    rows = []
    for task in tasks():
        truth = exact_top(task)
        for k in (1, 5):
            rows += compare(task, k, truth[:k])
    header = [
        "what",
        "library, setting",
        "gradients",
        "worst error",
        "verdict",
        "times the fastest right rival's speed",
    ]
    return header, rows
