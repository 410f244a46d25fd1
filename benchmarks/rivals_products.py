"""What one Hessian-vector product costs, in gradients, beside the other curvature libraries."""

import statistics
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.rivals import INSTALLED, Task, curvlinops, eigenthings, pyhessian, rival_rules, tasks, timed, why
from eigenstep.curvature import HessianOperator

TITLE = "One Hessian-vector product in gradients (the floor of an exact one with the forward pass kept: 2.0)"
ROUNDS = 9


def product_of(name: str, task: Task, stack: Any) -> Callable[[], Any]:
    """A function that makes one product with a fixed vector, everything that can be prepared prepared."""
    vector = torch.randn(task.size, generator=torch.Generator().manual_seed(0))
    if name.startswith("eigenstep"):
        objective = task.objective()
        stack.enter_context(objective.session())
        operator = HessianOperator(objective, "fresh" if "fresh" in name else "graph")
        return lambda: operator.matvec(vector)
    stack.enter_context(rival_rules())
    if name == "hessian-eigenthings":
        theirs = eigenthings(task)
        return lambda: theirs.matvec(vector)
    if name == "curvlinops":
        linear = curvlinops(task)
        return lambda: linear @ vector
    made = stack.enter_context(pyhessian(task))
    parts = [p.view_as(q) for p, q in zip(vector.split([q.numel() for q in task.params]), task.params, strict=True)]
    if made.full_dataset:
        return lambda: made.dataloader_hv_product(parts)
    from pyhessian.utils import hessian_vector_product

    return lambda: hessian_vector_product(made.gradsH, made.params, parts)


def run() -> tuple[list[str], list[list[str]]]:
    """Interleave gradients and every library's products, round by round; medians."""
    from contextlib import ExitStack

    rivals = {"hessian-eigenthings": "hessian_eigenthings", "curvlinops": "curvlinops", "pyhessian": "pyhessian"}
    names = ["eigenstep (graph kept)", "eigenstep (fresh graph)", *(n for n, m in rivals.items() if INSTALLED[m])]
    rows: dict[str, list[str]] = {name: [name] for name in names}
    header = ["library"]
    for task in tasks():
        gradients: list[float] = []
        seconds: dict[str, list[float]] = {name: [] for name in names}
        failed: dict[str, str] = {}
        for turn in range(ROUNDS):
            gradients.append(timed(task.gradient)[0])
            for name in names:
                if name in failed:
                    continue
                with ExitStack() as stack:
                    try:
                        work = product_of(name, task, stack)
                        work()  # prepares what is kept
                        seconds[name].append(timed(work)[0])
                    except Exception as error:
                        failed[name] = why(error)
            del turn
        unit = statistics.median(gradients)
        header.append(f"{task.name}, n = {task.size:,} (gradient {unit * 1e3:.1f} ms)")
        for name in names:
            rows[name].append(failed.get(name) or f"{statistics.median(seconds[name]) / unit:.2f}")
    rows |= {name: [name, *["not installed"] * 3] for name, module in rivals.items() if not INSTALLED[module]}
    return header, list(rows.values())
