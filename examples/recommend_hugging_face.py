"""The learning rate for a Hugging Face model with AdamW, decay groups and dict batches: `recommend` in eight lines.

python examples/recommend_hugging_face.py, or: eigenstep recommend examples/recommend_hugging_face.py:setup
Needs transformers: pip install 'eigenstep[examples]'. No download: the model is built from a config.
"""

from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForSequenceClassification

import eigenstep as es


def model_and_data() -> tuple[nn.Module, Any]:
    """A very small BERT, and sentences whose class is whether their first word comes late in the dictionary."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig.from_dict({**sizes, "vocab_size": 100, "max_position_embeddings": 16})
    model = BertForSequenceClassification(config)
    words = torch.randint(1, 100, (512, 8))
    rows = [{"input_ids": w, "attention_mask": torch.ones_like(w), "labels": (w[0] > 50).long()} for w in words]
    return model, rows


def setup() -> tuple[es.Objective, torch.optim.Optimizer, Any]:
    """Everything that a Hugging Face user has before training, and the objective."""
    model, rows = model_and_data()
    loader = DataLoader(rows, batch_size=32, shuffle=True)
    decay = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decay, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=5e-5)
    objective = es.Objective(model, lambda model, batch: model(**batch).loss, list(loader)[:4])
    return objective, optimizer, loader


if __name__ == "__main__":
    torch.set_num_threads(1)
    objective, optimizer, loader = setup()
    advice = es.recommend(objective, optimizer, train=loader, budget=250)
    print(advice)
    if advice.suggestion() is not None:
        advice.apply(optimizer)
    print([group["lr"] for group in optimizer.param_groups])
