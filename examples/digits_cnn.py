"""A convolutional network with BatchNorm on scikit-learn's digits: measured in train mode, its buffers untouched.

python examples/digits_cnn.py, or: eigenstep measure examples/digits_cnn.py:objective
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import eigenstep as es


def network() -> nn.Module:
    """Two convolutions with BatchNorm, then a linear layer; about 20,000 parameters."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        *(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(256, 10)),
    )


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean cross-entropy of a batch."""
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def objective(epochs: int = 5) -> tuple[es.Objective, torch.optim.Optimizer]:
    """Train for a moment with Adam, and return what eigenstep measures: batches of 599, as BatchNorm sees them."""
    torch.manual_seed(0)
    digits = load_digits()
    images, labels = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    data = list(zip(images.split(599), labels.split(599), strict=True))
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(epochs):
        for batch in data:
            optimizer.zero_grad()
            loss(model, batch).backward()
            optimizer.step()
    return es.Objective(model, loss, data), optimizer


if __name__ == "__main__":
    measured, adam = objective()
    print(es.measure(measured, top=5))
    print(es.measure(measured, top=1, optimizer=adam))
