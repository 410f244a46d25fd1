"""A transformer of 20 million parameters by the README's six lines: bounds, the unused pooler named, memory."""

import re
import subprocess
import sys

import pytest

SCRIPT = """
import resource, torch
from transformers import BertConfig, BertModel, BatchEncoding
import eigenstep as es

torch.set_num_threads(1)
torch.manual_seed(0)

class Encoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        config = BertConfig(vocab_size=30522, hidden_size=384, num_hidden_layers=5, num_attention_heads=12,
                            intermediate_size=1536, attn_implementation="sdpa")
        self.inner, self.head = BertModel(config, add_pooling_layer=True), torch.nn.Linear(384, 3)

    def forward(self, input_ids, attention_mask):
        states = self.inner(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return self.head(states[:, 0])

model = Encoder()
words = torch.randint(1, 30522, (2, 4, 16))
batches = [BatchEncoding({"input_ids": w, "attention_mask": torch.ones_like(w), "labels": w[:, 0] % 3}) for w in words]

def loss(model, batch):
    labels = batch.pop("labels")
    return torch.nn.functional.cross_entropy(model(**batch), labels)

objective = es.Objective(model, loss, batches)
spectrum = es.measure(objective, top=5)
print(spectrum)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
print("facts", sum(p.numel() for p in model.parameters()), spectrum.certified, round(peak, 2), len(batches[0]))
"""


@pytest.mark.slow
def test_the_top_five_of_a_transformer_with_bounds_in_under_four_gigabytes() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    size, certified, peak, fields = done.stdout.split("facts ")[1].split()
    assert int(size) > 20_000_000 and certified == "True" and fields == "3"
    assert float(peak) < 4.0
    assert "pooler.dense.weight" in done.stdout and "dropout switched off" in done.stdout
    assert len(re.findall(r"^  [\d.e+-]+ +[\d.e+-]+$", done.stdout, re.MULTILINE)) == 5  # each with its bound
