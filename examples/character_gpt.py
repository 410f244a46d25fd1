"""A character GPT with scaled-dot-product attention, trained for a moment on Python's own sources.

python examples/character_gpt.py, or: eigenstep measure examples/character_gpt.py:objective
"""

import inspect
import json
import random
import statistics
from types import ModuleType

import torch
from torch import Tensor, nn

import eigenstep as es

SOURCES: tuple[ModuleType, ...] = (random, statistics, inspect, json)
CONTEXT = 64


class Block(nn.Module):
    """Attention and a feed-forward network, each behind a LayerNorm and a skip connection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_feed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.merge = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, width) to the same."""
        batch, time, width = x.shape
        parts = self.attend(self.before_attention(x)).view(batch, time, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=True)
        x = x + self.merge(mixed.transpose(1, 2).reshape(batch, time, width))
        fed: Tensor = self.feed(self.before_feed(x))
        return x + fed


class GPT(nn.Module):
    """A decoder-only transformer whose input and output embeddings are tied; 1.2 million parameters."""

    def __init__(self, symbols: int, width: int = 160, heads: int = 4, depth: int = 4) -> None:
        super().__init__()
        self.symbols, self.places = nn.Embedding(symbols, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.last = nn.LayerNorm(width)
        self.head = nn.Linear(width, symbols, bias=False)
        nn.init.normal_(self.symbols.weight, std=0.02)
        self.head.weight = self.symbols.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, time) symbols to (batch, time, symbols) scores."""
        x = self.symbols(tokens) + self.places.weight[: tokens.shape[1]]
        scores: Tensor = self.head(self.last(self.blocks(x)))
        return scores


def text() -> tuple[Tensor, int]:
    """The characters of a few standard modules as numbers, and how many different ones there are."""
    sources = "".join(inspect.getsource(module) for module in SOURCES)
    symbols = {character: i for i, character in enumerate(sorted(set(sources)))}
    return torch.tensor([symbols[character] for character in sources]), len(symbols)


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Mean cross-entropy of the next character."""
    tokens = batch["tokens"]
    return nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def objective(steps: int = 30) -> tuple[es.Objective, torch.optim.Optimizer]:
    """Train for a moment with AdamW, and return what eigenstep measures: two fixed batches of 8 passages."""
    torch.manual_seed(0)
    corpus, symbols = text()
    model = GPT(symbols)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def batch(size: int = 8) -> dict[str, Tensor]:
        starts = torch.randint(len(corpus) - CONTEXT - 1, (size,))
        return {"tokens": torch.stack([corpus[s : s + CONTEXT + 1] for s in starts])}

    for _ in range(steps):
        optimizer.zero_grad()
        loss(model, batch()).backward()
        optimizer.step()
    return es.Objective(model, loss, [batch(), batch()]), optimizer


if __name__ == "__main__":
    measured, adamw = objective()
    print(es.measure(measured, top=3))
    print(es.measure(measured, top=1, optimizer=adamw))
