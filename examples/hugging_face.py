"""A Hugging Face model built from a config (no download), with dict batches: its top eigenvalues in six lines.

python examples/hugging_face.py, or: eigenstep measure examples/hugging_face.py:objective
Needs transformers: pip install 'eigenstep[examples]'.
"""

import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

import eigenstep as es


def batches(number: int = 2, size: int = 8, length: int = 32) -> list[dict[str, Tensor]]:
    """Made-up sentences of a made-up task, in the shape that a tokenizer gives."""
    generator = torch.Generator().manual_seed(0)

    def batch() -> dict[str, Tensor]:
        words = torch.randint(1, 1000, (size, length), generator=generator)
        return {"input_ids": words, "attention_mask": torch.ones_like(words), "labels": (words[:, 0] > 500).long()}

    return [batch() for _ in range(number)]


def objective() -> tuple[es.Objective, torch.optim.Optimizer]:
    """A small BERT for classification, as it stands before training, and a fresh AdamW."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=1000, hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256
    )
    model = BertForSequenceClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    return es.Objective(model, lambda model, batch: model(**batch).loss, batches()), optimizer


if __name__ == "__main__":
    measured, adamw = objective()
    print(es.measure(measured, top=5))
    print(es.measure(measured, top=1, optimizer=adamw))
