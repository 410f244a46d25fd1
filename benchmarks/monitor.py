"""What the monitor costs: a run with it over the same run without; a refresh beside PyHessian's cold measurement."""

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

import eigenstep as es
from benchmarks.rivals import INSTALLED, Task, pyhessian, rival_rules, tasks, timed
from eigenstep.training.probe import Probe

TITLE = "What the monitor costs (processor time, one thread)"
HEADER = ["model", "what", "milliseconds", "range", "ratio"]
SECONDS = {"MLP": 30.0, "CNN": 60.0, "GPT": 90.0}  # of training each way: long enough for refreshes within the budget
BLOCK, DENSE, BETWEEN, ROUNDS = 1.0, 20, 10, 7
PASSAGES = 8  # in the GPT's batch while it trains, as in its example; refreshes are timed on the rivals' 2


@dataclass
class Run:
    """A training run of its own copy of a task's model, with the monitor at its default setting or without."""

    task: Task
    watch: bool

    def __post_init__(self) -> None:
        self.model = copy.deepcopy(self.task.model)
        kind = torch.optim.SGD if self.task.name == "MLP" else torch.optim.AdamW
        self.optimizer = kind(self.model.parameters(), lr=1e-3)
        probe = es.Objective(self.model, self.task.loss, self.task.batch)
        self.monitor = es.Monitor(probe, self.optimizer) if self.watch else None

    def steps(self, number: int) -> None:
        """Train."""
        for _ in range(number):
            self.optimizer.zero_grad()
            loss = self.task.loss(self.model, self.task.batch)
            loss.backward()
            self.optimizer.step()
            if self.monitor is not None:
                self.monitor.step(loss)


def overhead(task: Task) -> list[list[str]]:
    """Blocks of about a second by turns, after the dense start; the ratio is that of the sums, refreshes and all."""
    runs = [Run(task, watch=False), Run(task, watch=True)]
    dense, _ = timed(lambda: runs[1].steps(DENSE))
    plain, _ = timed(lambda: runs[0].steps(DENSE))
    block = max(int(BLOCK / (plain / DENSE)), 1)
    spent: list[list[float]] = [[], []]
    monitor = runs[1].monitor
    assert monitor is not None
    runs[1].steps(1)  # the first update that the budget counts
    while block * sum(spent[0]) < SECONDS[task.name]:
        for way in (0, 1) if len(spent[0]) % 2 else (1, 0):
            began = time.perf_counter()
            spent[way].append(timed(lambda way=way: runs[way].steps(block))[0] / block)
            if way == 0:  # the budget is a part of the watched run's own time
                monitor.cadence.began += time.perf_counter() - began
    cells = [[f"{1e3 * statistics.mean(s):.2f}", f"{1e3 * min(s):.2f} to {1e3 * max(s):.2f}"] for s in spent]
    refreshes = len(monitor.measured) - DENSE
    ratio = statistics.mean(spent[1]) / statistics.mean(spent[0])
    return [
        [task.name, f"an update of {len(task.inputs)} samples, without", *cells[0], "1"],
        [task.name, f"an update, with (every=100, budget 2%; {refreshes} refreshes)", *cells[1], f"{ratio:.3f}"],
        [task.name, "each of the first 20 updates, measured", f"{1e3 * dense / DENSE:.1f}", "", ""],
    ]


def refreshes(task: Task) -> list[list[str]]:
    """Ten updates, then every contender at the same weights, by turns; plain SGD, so that all measure the Hessian."""
    task = Task(task.name, copy.deepcopy(task.model), task.inputs, task.targets, task.criterion)
    optimizer = torch.optim.SGD(task.model.parameters(), lr=1e-2)
    objective = es.Objective(task.model, task.loss, task.batch)
    quick, certified = Probe(objective, optimizer), Probe(objective, optimizer)
    ways: dict[str, Callable[[], object]] = {
        "refresh, uncertified": lambda: quick._limit(False),
        "refresh, certified": lambda: certified._limit(True),
        "eigenstep, cold, certified": lambda: Probe(objective, optimizer)._limit(True),
    }
    if INSTALLED["pyhessian"]:

        def power() -> object:
            with rival_rules(), pyhessian(task) as made:
                return made.eigenvalues(top_n=1)

        ways["PyHessian, cold, default"] = power
    quick._limit(True), certified._limit(True)
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for _ in range(BETWEEN):
            optimizer.zero_grad()
            task.loss(task.model, task.batch).backward()
            optimizer.step()
        for name, way in ways.items():
            spent[name].append(timed(way)[0])
    rival = statistics.median(spent.get("PyHessian, cold, default", [float("nan")]))
    rows = []
    for name, times in spent.items():
        middle = statistics.median(times)
        spread = f"{1e3 * min(times):.1f} to {1e3 * max(times):.1f}"
        rows.append([task.name, name, f"{1e3 * middle:.1f}", spread, f"{rival / middle:.1f} times as fast"])
    return rows


def run() -> tuple[list[str], list[list[str]]]:
    """Both parts on the three models of examples/, the first on the batches that they train on."""
    watched, measured = tasks(PASSAGES), tasks()
    return HEADER, [*(row for t in watched for row in overhead(t)), *(row for t in measured for row in refreshes(t))]
