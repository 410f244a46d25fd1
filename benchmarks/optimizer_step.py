"""One step of `Optimizer` with Adam and with the heavy ball, beside torch.optim: default, foreach and fused."""

import itertools
import statistics
import time
from collections.abc import Callable

import torch

import eigenstep as es

TITLE = "One Optimizer step, beside torch.optim"

# Layers of the multilayer perceptrons whose parameters are stepped, rounds, and steps in a round.
SIZES = {(64, 128, 128, 10): (60, 20), (784, 2000, 2000, 1200, 10): (15, 1)}
LR = 1e-4

METHODS: dict[str, dict[str, Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]]] = {
    "Adam": {
        "torch.optim.Adam": lambda p: torch.optim.Adam(p, lr=LR),
        "torch.optim.Adam, foreach": lambda p: torch.optim.Adam(p, lr=LR, foreach=True),
        "torch.optim.Adam, fused": lambda p: torch.optim.Adam(p, lr=LR, fused=True),
        "eigenstep, Adam": lambda p: es.Optimizer(p, es.Adam(lr=LR)),
    },
    "heavy ball": {
        "torch.optim.SGD": lambda p: torch.optim.SGD(p, lr=LR, momentum=0.9),
        "torch.optim.SGD, foreach": lambda p: torch.optim.SGD(p, lr=LR, momentum=0.9, foreach=True),
        "torch.optim.SGD, fused": lambda p: torch.optim.SGD(p, lr=LR, momentum=0.9, fused=True),
        "eigenstep, HeavyBall": lambda p: es.Optimizer(p, es.HeavyBall(lr=LR, momentum=0.9)),
        "eigenstep, Momentum (SGD's own form)": lambda p: es.Optimizer(p, es.Momentum(lr=LR, momentum=0.9)),
    },
}


def perceptron(sizes: tuple[int, ...]) -> list[torch.nn.Parameter]:
    """The weights and biases of a multilayer perceptron in float32, with gradients."""
    generator = torch.Generator().manual_seed(0)
    pairs = itertools.pairwise(sizes)
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for a, b in pairs for shape in ((b, a), (b,))]
    for parameter in parameters:
        parameter.data = torch.randn(parameter.shape, generator=generator)
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return parameters


def timed(optimizers: dict[str, torch.optim.Optimizer], rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds per step, each optimizer in its turn in every round; the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in optimizers}
    for turn in range(rounds + 1):
        for name, optimizer in optimizers.items():
            began = time.perf_counter()
            for _ in range(steps):
                optimizer.step()
            if turn:
                seconds[name].append((time.perf_counter() - began) / steps)
    return seconds


def run() -> tuple[list[str], list[list[str]]]:
    """Interleave the contenders of each method and size; ratios are to torch's default of that method."""
    rows = []
    for sizes, (rounds, steps) in SIZES.items():
        for contenders in METHODS.values():
            parameters = {name: perceptron(sizes) for name in contenders}
            optimizers = {name: make(parameters[name]) for name, make in contenders.items()}
            seconds = timed(optimizers, rounds, steps)
            first = next(iter(contenders))
            number = sum(p.numel() for p in parameters[first])
            for name, times in seconds.items():
                ratios = [own / theirs for own, theirs in zip(times, seconds[first], strict=True)]
                low, _, high = statistics.quantiles(ratios)
                spread = "" if name == first else f"{low:.2f} to {high:.2f}"
                middle = f"{1e6 * statistics.median(times):,.0f}"
                rows.append([f"{number:,}", name, middle, f"{statistics.median(ratios):.2f}", spread])
    return ["parameters", "optimizer", "microseconds a step (median)", "times torch's default", "middle half"], rows
