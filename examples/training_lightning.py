"""A Lightning run that is watched: one callback, bf16 autocast, accumulation and clipping as one has them.

python examples/training_lightning.py [FOLDER], then: tensorboard --logdir FOLDER
Needs Lightning: pip install 'eigenstep[examples]'.
"""

import logging
import sys
import warnings
from pathlib import Path

import lightning
import torch
from digits_mlp import batches
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from eigenstep.training.adapters.lightning import MonitorCallback


class Digits(lightning.LightningModule):
    """An MLP on 8 x 8 images."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 10))

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        """Cross-entropy."""
        images, labels = batch
        value = nn.functional.cross_entropy(self.net(images), labels)
        self.log("train/loss", value)
        return value

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def main(folder: Path, epochs: int = 4) -> MonitorCallback:
    """Train for a few epochs; event files and the log go to the folder."""
    lightning.seed_everything(0, verbose=False)
    images, labels = batches(2000)[0]
    loader = DataLoader(TensorDataset(images, labels), batch_size=64, shuffle=True)
    callback = MonitorCallback(every=20, log=folder / "run.jsonl")
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        precision="bf16-mixed",
        accumulate_grad_batches=2,
        gradient_clip_val=1.0,
        callbacks=[callback],
        logger=TensorBoardLogger(folder, name=None, version=""),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Digits(), loader)
    return callback


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "results/training_lightning")
    target.mkdir(parents=True, exist_ok=True)
    monitor = main(target).monitor
    assert monitor is not None
    print(monitor.diagnose())
    print("last measured:", monitor.measured[-1])
