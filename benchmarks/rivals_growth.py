"""Growth with parameters and data, a refresh after ten training steps, and peak memory, beside other libraries."""

import copy
import ctypes
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import eigenstep as es
from benchmarks.rivals import INSTALLED, Task, eigenthings, pyhessian, rival_rules, tasks, timed

TITLE = "The largest eigenvalue as parameters and data grow, refreshed in training, and its peak memory"
ROUNDS = 3
WIDTHS = {"10^4": 92, "10^5": 300, "10^6": 965, "10^7": 3120}  # of an MLP 64-w-w-10
BATCHES = (1, 4, 16, 64)
STEPS = 10  # of hessian-eigenthings' lanczos, which has no test of convergence: the fewest that were right above


def network(width: int) -> Task:
    """An MLP 64-w-w-10 on 128 digits."""
    import digits_mlp

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 10))
    images, labels = digits_mlp.batches(128)[0]
    return Task("MLP", model, images, labels)


def ours(task: Task, **options: Any) -> Any:
    return es.measure(task.objective(), **options)


def lanczos(task: Task) -> Any:
    import hessian_eigenthings as he

    with rival_rules():
        return he.lanczos(eigenthings(task), k=1, max_iter=STEPS, which="LA", seed=0)


def power(task: Task) -> Any:
    with rival_rules(), pyhessian(task) as made:
        return made.eigenvalues()


LIBRARIES: dict[str, Callable[[Task], Any]] = {"eigenstep, certified": ours}
LIBRARIES["eigenstep, quick"] = lambda task: ours(task, quick=True)
if INSTALLED["hessian_eigenthings"]:
    LIBRARIES[f"hessian-eigenthings, lanczos, {STEPS} steps"] = lanczos
if INSTALLED["pyhessian"]:
    LIBRARIES["pyhessian, default"] = power


def largest(result: Any) -> float:
    """The value in each library's kind of result."""
    return float(result[0][0] if isinstance(result, tuple) else result.eigenvalues[0])


def with_parameters() -> list[list[str]]:
    """Seconds at each size, and how far from the certified value."""
    rows = {name: [f"{name}: seconds"] for name in LIBRARIES}
    for width in WIDTHS.values():
        task = network(width)
        times: dict[str, list[float]] = {name: [] for name in LIBRARIES}
        values: dict[str, float] = {}
        for _ in range(ROUNDS):
            for name, work in LIBRARIES.items():
                took, result = timed(lambda work=work, task=task: work(task))
                times[name].append(took)
                values[name] = largest(result)
        sure = values["eigenstep, certified"]
        for name in LIBRARIES:
            off = f"{abs(values[name] - sure) / sure:.1%} off"
            rows[name].append(f"{statistics.median(times[name]):.3g} ({off})")
    return [["parameters of an MLP", *WIDTHS], *rows.values()]


def with_data() -> list[list[str]]:
    """Seconds as the number of batches of 128 grows, on the 10^5 MLP; loaders where a library takes them."""
    task = network(300)
    rows = {name: [f"{name}: seconds"] for name in LIBRARIES if "pyhessian" not in name}
    for number in BATCHES:
        data = [task.batch] * number

        def certified(data: list[Any] = data) -> Any:
            return es.measure(es.Objective(task.model, task.loss, data))

        def quick(data: list[Any] = data) -> Any:
            return es.measure(es.Objective(task.model, task.loss, data), quick=True)

        def theirs(data: list[Any] = data) -> Any:
            import hessian_eigenthings as he

            operator = he.HessianOperator(task.model, data, he.supervised_loss(task.criterion))
            return he.lanczos(operator, k=1, max_iter=STEPS, which="LA", seed=0)

        for row, work in zip(rows.values(), (certified, quick, theirs), strict=False):
            row.append(f"{statistics.median(timed(work)[0] for _ in range(ROUNDS)):.3g}")
    return [["batches of 128", *(str(b) for b in BATCHES)], *rows.values()]


def refreshed() -> list[list[str]]:
    """Products and gradients' worth of time of a refresh, ten steps after the last one, beside a new measurement."""
    names = ("refresh, quick", "refresh, certified", "anew, quick", "anew, certified")
    found: dict[str, list[str]] = {name: [f"{name}: products (gradients)"] for name in names}
    for task in tasks():
        task = Task(task.name, copy.deepcopy(task.model), task.inputs, task.targets)
        optimizer = torch.optim.SGD(task.params, lr=0.02)
        objective = task.objective()
        last = es.measure(objective, vectors=True)
        products: dict[str, list[float]] = {name: [] for name in names}
        times: dict[str, list[float]] = {name: [] for name in names}
        gradients = []
        for turn in range(6):
            for _ in range(10):
                optimizer.zero_grad()
                task.loss(task.model, task.batch).backward()
                optimizer.step()
            optimizer.zero_grad()
            gradients.append(timed(task.gradient)[0])
            for name in names:
                options: dict[str, Any] = {"quick": "quick" in name, "seed": turn, "vectors": True}
                options |= {"start": last} if "refresh" in name else {}
                took, result = timed(lambda options=options, objective=objective: es.measure(objective, **options))
                products[name].append(result.provenance["products"])
                times[name].append(took)
                if name == "refresh, certified":
                    following = result
            last = following
        unit = statistics.median(gradients)
        for name in names:
            found[name].append(f"{statistics.median(products[name]):.0f} ({statistics.median(times[name]) / unit:.0f})")
    return [["ten steps of training later", "MLP", "CNN", "GPT", ""], *([*row, ""] for row in found.values())]


def memory() -> list[list[str]]:
    """Peak resident memory above what was held before, in a process of its own, on the GPT."""
    cells = []
    for name in LIBRARIES:
        done = subprocess.run([sys.executable, "-m", "benchmarks.rivals_growth", name], capture_output=True, text=True)
        cells.append([f"{name}: MB", done.stdout.strip() or f"fails: {done.stderr.strip()[-60:]}", "", "", ""])
    return [["peak memory of the largest eigenvalue", "GPT", "", "", ""], *cells]


def peak(name: str) -> float:
    """MB of a library's peak above the resident memory before it, on the GPT (Linux; nan elsewhere)."""
    torch.set_num_threads(1)
    task = tasks()[2]
    task.gradient()
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return float("nan")
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    reset.write_text("5")  # the high-water mark begins anew

    def kilobytes(field: str) -> int:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(field))

    before = kilobytes("VmRSS:")
    LIBRARIES[name](task)
    return (kilobytes("VmHWM:") - before) / 1024


def run() -> tuple[list[str], list[list[str]]]:
    """Four short tables in one."""
    return ["what", "", "", "", ""], [*with_parameters(), *with_data(), *refreshed(), *memory()]


if __name__ == "__main__":
    print(f"{peak(sys.argv[1]):.0f}")
