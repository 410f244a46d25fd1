"""The models of the advice benchmark's tasks, and what is done to some before they are trained."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)


def mlp(*sizes: int, act: type[nn.Module] = nn.ReLU, norm: type[nn.Module] | None = None) -> nn.Module:
    """Linear layers with an activation, and perhaps a normalisation, between them."""
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(pairwise(sizes)):
        layers.append(nn.Linear(a, b))
        if i < len(sizes) - 2:
            layers += [norm(b)] if norm is not None else []
            layers.append(act())
    return nn.Sequential(*layers)


def convolutional(*channels: int, norm: bool = False, act: type[nn.Module] = nn.ReLU) -> nn.Module:
    """Convolutions of 3 x 3 on images of 8 x 8, each halving the image, and a linear layer to 10 classes."""
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 8, 8))]
    for a, b in zip((1, *channels[:-1]), channels, strict=True):
        layers += [nn.Conv2d(a, b, 3, stride=2, padding=1), *([nn.BatchNorm2d(b)] if norm else []), act()]
    side = 8 // 2 ** len(channels)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[-1] * side * side, 10))


class Attention(nn.Module):
    """Pre-norm transformer blocks over the 8 rows of an image, or over tokens; the mean of all places is classified."""

    def __init__(self, width: int, blocks: int, classes: int, tokens: int = 0, places: int = 8) -> None:
        super().__init__()
        self.embed: nn.Module = nn.Embedding(tokens, width) if tokens else nn.Linear(8, width)
        self.tokens, self.place = tokens, nn.Parameter(0.02 * torch.randn(places, width))
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.embed(x if self.tokens else x.unflatten(-1, (8, 8))) + self.place
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(-2))


class Block(nn.Module):
    """Attention with two heads, then a GELU layer, each beside a residual path."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The residual stream after both; `mask` is added to the scores."""
        q, k, v = (t.unflatten(-1, (2, -1)).transpose(-3, -2) for t in self.mix(self.norms[0](x)).chunk(3, -1))
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        weights = (scores if mask is None else scores + mask).softmax(-1)
        x = x + self.out((weights @ v).transpose(-3, -2).flatten(-2))
        return x + self.feed(self.norms[1](x))


def times(factor: float, *layers: int) -> Callable[[nn.Module], None]:
    """Multiply the weights of some linear layers (all if none is named) by a factor: a badly scaled initialisation."""

    def spoil(model: nn.Module) -> None:
        linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
        for m in [linear[i] for i in layers] if layers else linear:
            m.weight.mul_(factor)

    return spoil


class Writer(nn.Module):
    """A character transformer: every place sees those before it, and names the next character."""

    def __init__(self, width: int, places: int, characters: int = 32) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(characters, width), nn.Parameter(0.02 * torch.randn(places, width))
        self.block, self.norm, self.head = Block(width), nn.LayerNorm(width), nn.Linear(width, characters)
        self.register_buffer("mask", torch.full((places, places), -torch.inf).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the next character at every place."""
        return self.head(self.norm(self.block(self.embed(x) + self.place, self.mask)))


class Recurrent(nn.Module):
    """An LSTM cell written out, which reads characters one by one and names the next."""

    def __init__(self, width: int, characters: int = 32) -> None:
        super().__init__()
        self.embed, self.gates = nn.Embedding(characters, width), nn.Linear(2 * width, 4 * width)
        self.head = nn.Linear(width, characters)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the next character at every place."""
        read = self.embed(x)
        hidden = cell = torch.zeros_like(read[..., 0, :])
        said = []
        for place in range(x.shape[-1]):
            i, f, g, o = self.gates(torch.cat([read[..., place, :], hidden], -1)).chunk(4, -1)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * cell.tanh()
            said.append(hidden)
        return self.head(torch.stack(said, -2))


class Bag(nn.Module):
    """The mean of a row's embeddings, and a small network that classifies it."""

    def __init__(self, words: int, width: int, classes: int) -> None:
        super().__init__()
        self.embed, self.net = nn.Embedding(words, width), mlp(width, 32, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.net(self.embed(x).mean(-2))


def after(data: Callable[[], tuple[Tensor, Tensor]], updates: int = 300) -> Callable[[nn.Module], None]:
    """Train the model on other data first, by Adam at lr .003: what is then trained is fine-tuned."""

    def prepare(model: nn.Module) -> None:
        x, y = data()
        optimizer, rng = torch.optim.Adam(model.parameters(), lr=3e-3), np.random.default_rng(0)
        with torch.enable_grad():
            for _ in range(updates):
                rows = torch.as_tensor(rng.integers(0, len(x), 64))
                optimizer.zero_grad()
                F.cross_entropy(model(x[rows]), y[rows]).backward()
                optimizer.step()
        model.zero_grad()

    return prepare
