"""The edge of stability on the digits: whatever the method, the stability ratio rises to 1 and stays there.

python examples/edge_of_stability.py [FOLDER]: prints the ratio that four methods settle at, and draws them.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

import eigenstep as es
from eigenstep import draw

METHODS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "gradient descent, lr 0.4": lambda p: torch.optim.SGD(p, lr=0.4),
    "heavy ball 0.9, lr 0.8": lambda p: torch.optim.SGD(p, lr=0.8, momentum=0.9),
    "Nesterov 0.9, lr 0.2": lambda p: torch.optim.SGD(p, lr=0.2, momentum=0.9, nesterov=True),
    "Adam, lr 0.01": lambda p: torch.optim.Adam(p, lr=1e-2),
}
EVERY = 11  # odd: gradient descent at the edge oscillates with period two


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Half the squared error: with cross-entropy the sharpness later falls instead."""
    images, targets = batch
    error: Tensor = model(images) - targets
    return 0.5 * (error**2).sum(1).mean()


def run(make: Callable[[Any], torch.optim.Optimizer], steps: int) -> tuple[list[int], list[float], list[float]]:
    """Train on all the digits at once; the steps, the ratios, the losses, every EVERY steps, from warm starts."""
    digits = load_digits()
    images = torch.tensor(StandardScaler().fit_transform(digits.data), dtype=torch.float32)
    batch = images, nn.functional.one_hot(torch.tensor(digits.target), 10).float()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 10))
    optimizer, objective = make(model.parameters()), es.Objective(model, loss, batch)
    found, at, ratios, losses = None, [], [], []
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        value = loss(model, batch)
        value.backward()
        optimizer.step()
        if step % EVERY == 0:
            found = es.limit_now(objective, optimizer, start=found, quick=True, sharpness=False)
            at.append(step)
            ratios.append(found.ratio or 0.0)
            losses.append(float(value.detach()))
    return at, ratios, losses


def main(folder: Path, steps: int = 800) -> None:
    """Run the four, print where they settle, draw their ratios and losses."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    figure, (left, right) = draw.panels(2, width=7.0)
    for (name, make), color in zip(METHODS.items(), draw.PALETTE, strict=False):
        at, ratios, losses = run(make, steps)
        settled = ratios[len(ratios) // 2 :]
        print(f"{name:26} stability ratio over the last half: mean {sum(settled) / len(settled):.3f}")
        draw.curve(ratios, at, left, color=color, label=name)
        draw.curve(losses, at, right, color=color)
    draw.line_at(1.0, left, across="y")
    draw.legend(
        draw.describe(left, "updates", "stability ratio (1 = the edge)", "Sharpness rises to the edge, and stays"),
        "lower right",
    )
    draw.describe(right, "updates", "loss", "While the loss goes on falling", log="y")
    png, _ = draw.save(figure, folder, "edge_of_stability")
    print(f"in {png}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "results/edge_of_stability"))
