"""A Hugging Face Trainer run that is watched: one callback; the model is built from a config, without a download.

python examples/training_hugging_face.py [FOLDER], then: tensorboard --logdir FOLDER
Needs transformers and accelerate: pip install 'eigenstep[examples]'.
"""

import sys
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from eigenstep.training.adapters.hugging_face import MonitorCallback


def sentences(number: int = 256, length: int = 16) -> list[dict[str, torch.Tensor]]:
    """Made-up sentences; the class is whether the first word is a late one."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(1, 200, (number, length), generator=generator)
    return [
        {"input_ids": row, "attention_mask": torch.ones_like(row), "labels": (row[0] > 100).long()} for row in words
    ]


def main(folder: Path, steps: int = 40) -> MonitorCallback:
    """Train a small BERT with AdamW and a warm-up from lr 0; event files and the log go to the folder."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=200, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        max_steps=steps,
        per_device_train_batch_size=16,
        learning_rate=1e-3,
        warmup_steps=10,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        seed=0,
    )
    with SummaryWriter(folder) as writer:
        callback = MonitorCallback(every=10, log=folder / "run.jsonl", writer=writer)
        model = BertForSequenceClassification(config)
        Trainer(model=model, args=arguments, train_dataset=sentences(), callbacks=[callback]).train()
    return callback


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "results/training_hugging_face")
    target.mkdir(parents=True, exist_ok=True)
    monitor = main(target).monitor
    assert monitor is not None
    print(monitor.diagnose())
    print("last measured:", monitor.measured[-1])
