"""Ten thousand Adam settings at once, beside one torch.optim loop and optax under jit + vmap + scan."""

import importlib.util
import statistics
import time
from collections.abc import Callable

import torch

from eigenstep.problems import Quadratic, article
from eigenstep.rules import Adam
from eigenstep.simulation import simulate

TITLE = "10,000 Adam settings x 1,000 updates on the 2-D quadratic"

SETTINGS, UPDATES, ROUNDS = 10_000, 1_000, 5
LR = (1e-4, 1e-1)  # of the settings, log-spaced; no run meets a tolerance, so that every update is made


def article_loop(lr: float, dtype: torch.dtype, updates: int) -> torch.Tensor:
    """One setting as the article runs it: autograd, torch.optim.Adam, the loss and the box tested at each pass."""
    minimum = torch.tensor([0.8, 0.6], dtype=dtype)
    p = torch.zeros(2, dtype=dtype, requires_grad=True)
    optimizer = torch.optim.Adam([p], lr=lr)
    points = [p.detach().clone()]
    loss: torch.Tensor | float = 1.0
    passes = 0
    while loss > -1 and passes < updates and abs(p[0]) < 5 and abs(p[1]) < 5:
        matrix = torch.tensor([[1.0, 0.0], [0.0, 100.0]], dtype=dtype)
        error = p - minimum
        loss = error @ matrix @ error / 2
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        points.append(p.detach().clone())
        passes += 1
    assert passes == updates, "the loop stopped early: not the work that is timed"
    return points[-1]


def batched(problem: Quadratic, dtype: torch.dtype) -> torch.Tensor:
    """All settings at once; the loss and the box are looked at after each update, as in the loop."""
    lr = torch.logspace(*(torch.tensor(LR).log10().tolist()), SETTINGS, dtype=dtype)
    run = simulate(Adam(lr=lr), problem, problem.start.to(dtype), steps=UPDATES, loss=0.0, box=5.0, settle=True)
    return run.final


def optax_run() -> Callable[[], object] | None:
    """The same settings in optax, float32, compiled; it keeps the points only, tests no loss and no box."""
    if importlib.util.find_spec("optax") is None:
        return None
    import jax
    import jax.numpy as jnp
    import optax

    values, minimum = jnp.array([1.0, 100.0]), jnp.array([0.8, 0.6])

    def one(lr: object) -> object:
        optimizer = optax.adam(lr)
        p = jnp.zeros(2)

        def update(carry: tuple, _: None) -> tuple:
            p, state = carry
            steps, state = optimizer.update(values * (p - minimum), state, p)
            return (optax.apply_updates(p, steps), state), None

        return jax.lax.scan(update, (p, optimizer.init(p)), None, length=UPDATES)[0][0]

    every = jax.jit(jax.vmap(one))
    lr = jnp.logspace(jnp.log10(LR[0]), jnp.log10(LR[1]), SETTINGS)
    return lambda: every(lr).block_until_ready()


def run() -> tuple[list[str], list[list[str]]]:
    """Interleave the contenders, take medians, compare with the article's loop in the same precision."""
    problem = article()
    contenders: dict[str, tuple[Callable[[], object], int]] = {
        "the article's loop, float32": (lambda: article_loop(1e-2, torch.float32, UPDATES), UPDATES),
        "the article's loop, float64": (lambda: article_loop(1e-2, torch.float64, UPDATES), UPDATES),
        "eigenstep.simulate, float32": (lambda: batched(problem, torch.float32), SETTINGS * UPDATES),
        "eigenstep.simulate, float64": (lambda: batched(problem, torch.float64), SETTINGS * UPDATES),
    }
    compiled = optax_run()
    if compiled is not None:
        contenders["optax, jit + vmap + scan, float32 (compiled before)"] = (compiled, SETTINGS * UPDATES)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(ROUNDS + 1):
        for name, (work, _) in contenders.items():
            began = time.perf_counter()
            work()
            if turn:  # the first round warms up and compiles
                seconds[name].append(time.perf_counter() - began)
    speed = {name: contenders[name][1] / statistics.median(times) for name, times in seconds.items()}
    rows = []
    for name, rate in speed.items():
        loop = speed["the article's loop, float64" if "float64" in name else "the article's loop, float32"]
        times = seconds[name]
        spread = f"{min(times):.3f} to {max(times):.3f}"
        rows.append([name, f"{rate:,.0f}", f"{rate / loop:,.0f}", f"{statistics.median(times):.3f}", spread])
    if compiled is None:
        rows.append(["optax", "not installed: pip install -c constraints.txt optax", "", "", ""])
    return ["contender", "setting-updates per second", "times the loop", "seconds (median)", "range"], rows
