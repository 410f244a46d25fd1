"""A plain training loop that is watched, and held below the edge: an lr of 10 that would diverge at once.

python examples/training_plain.py [FOLDER], then: tensorboard --logdir FOLDER
"""

import sys
from pathlib import Path

import torch
from digits_mlp import batches, loss
from torch import nn
from torch.utils.tensorboard import SummaryWriter

import eigenstep as es


def main(folder: Path, epochs: int = 30) -> es.Monitor:
    """Train the digits MLP with SGD, monitor and StabilityLR; event files, the log and a figure go to the folder."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 64), nn.Tanh(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=10.0, momentum=0.9)
    data = batches(64)
    probe = es.Objective(model, loss, data[::7])

    with (
        SummaryWriter(folder) as writer,
        es.Monitor(probe, optimizer, log=folder / "run.jsonl", writer=writer) as monitor,
    ):
        scheduler = es.StabilityLR(optimizer, monitor, total_steps=epochs * len(data))
        for _ in range(epochs):
            for k in torch.randperm(len(data)).tolist():
                optimizer.zero_grad()
                value = loss(model, data[k])
                value.backward()
                optimizer.step()
                monitor.step(value)
                scheduler.step()
    return monitor


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "results/training_plain")
    target.mkdir(parents=True, exist_ok=True)
    watched = main(target)
    print(watched.diagnose())
    print("first and last loss:", watched.records[0]["loss"], watched.records[-1]["loss"])
    watched.plot()[0].figure.savefig(target / "run.png", dpi=150)
    print("written:", target / "run.jsonl", "and", target / "run.png")
