"""A small MLP on scikit-learn's digits, trained for a moment: its sharpest directions, with bounds.

python examples/digits_mlp.py, or: eigenstep measure examples/digits_mlp.py:objective
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import eigenstep as es


def batches(size: int = 256) -> list[tuple[Tensor, Tensor]]:
    """The 1,797 digits in [0, 1], cut into batches; the last one is smaller, and weighs less."""
    digits = load_digits()
    images, labels = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    return list(zip(images.split(size), labels.split(size), strict=True))


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean cross-entropy of a batch."""
    images, labels = batch
    return nn.functional.cross_entropy(model(images), labels)


def objective(epochs: int = 20) -> tuple[es.Objective, torch.optim.Optimizer]:
    """Train for a moment with SGD, and return what eigenstep measures."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 64), nn.Tanh(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    data = batches()
    for _ in range(epochs):
        for batch in data:
            optimizer.zero_grad()
            loss(model, batch).backward()
            optimizer.step()
    return es.Objective(model, loss, data), optimizer


if __name__ == "__main__":
    measured, sgd = objective()
    spectrum = es.measure(measured, top=5)
    print(spectrum)
    (group,) = es.rule_of(sgd)
    print("largest stable lr:", es.max_stable_lr(group.rule, float(spectrum.eigenvalues[0])))
