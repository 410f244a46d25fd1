"""A loss evaluated on its batches, differentiated, and everything around that left as it was."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from eigenstep import progress
from eigenstep.objective import restore, world
from eigenstep.objective.checks import checked
from eigenstep.objective.data.batch import leaves, loose
from eigenstep.objective.data.batches import Batches
from eigenstep.objective.dropout import NoDropout, recurrent_dropouts
from eigenstep.objective.graph import derivatives
from eigenstep.objective.repair import Repaired
from eigenstep.objective.undo import nothing_left, undone

Loss = Callable[[Any, Any], Tensor]
Mode = Literal["train", "eval"]
Dropout = Literal["off", "fixed"]


class Evaluation:
    """L(w) = sum_b c_b loss(model, b) and its gradient at any w; what an Objective is once it is checked."""

    model: nn.Module
    loss: Loss
    mode: Mode
    dropout: Dropout
    seed: int
    device: torch.device
    dtype: torch.dtype
    batches: Batches
    _placed: tuple[int, Mapping[int, Tensor] | None] | None
    _no_dropout: NoDropout

    @property
    def names(self) -> tuple[str, ...]:
        """The measured parameters' names."""
        raise NotImplementedError

    @property
    def params(self) -> tuple[nn.Parameter, ...]:
        """The measured parameters."""
        raise NotImplementedError

    @property
    def weights(self) -> list[float]:
        """c_b."""
        raise NotImplementedError

    @property
    def size(self) -> int:
        """The number of measured parameters' entries, n."""
        return sum(p.numel() for p in self.params)

    def split(self, vector: Tensor) -> list[Tensor]:
        """Return a vector (n,) as tensors shaped like the parameters."""
        parts = torch.split(vector, [p.numel() for p in self.params])
        return [part.view_as(p) for part, p in zip(parts, self.params, strict=True)]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Return tensors shaped like the parameters as one vector (n,)."""
        return torch.cat([part.detach().reshape(-1).to(self.dtype) for part in parts])

    def named(self, vector: Tensor) -> dict[str, Tensor]:
        """Return a vector (n,) as a dict of parameter-shaped tensors."""
        return dict(zip(self.names, self.split(vector), strict=True))

    @contextmanager
    def session(self) -> Iterator[None]:
        """What a public call needs around its work: whatever happens inside, the user's things are restored."""
        model = self.model
        with (
            restore.same_random_state(),
            restore.same_gradients(model),
            restore.same_contents(model),
            restore.in_mode(model, self.mode),
            restore.without_gradient_hooks(model),
            world.uncompiled(),
            world.with_gradients(),
            world.own_device(),
            undone(self.batches.close),
            nothing_left(),
        ):
            yield

    @contextmanager
    def place(self, number: int, tensors: Mapping[int, Tensor] | None = None) -> Iterator[None]:
        """Where batch `number`'s loss is computed, and every pass backward through it, which may compute parts anew.

        Inside a session. `tensors[id(p)]`, where given, takes p's place; buffers are copies, the same at every entry.
        """
        if self._placed is not None and self._placed[0] == number and self._placed[1] is tensors:
            yield
            return
        off = self.dropout == "off" and self.mode == "train"
        mode = self._no_dropout if off else Repaired()
        with (
            restore.set_to([self], "_placed", (number, tensors)),
            restore.replaced(self.model, {**restore.copied_buffers(self.model), **(tensors or {})}),
            restore.set_to(recurrent_dropouts(self.model) if off else [], "dropout", 0.0),
            world.twice_differentiable(self.device),
            world.callers_device(),
            world.calls_pass(mode),
        ):
            if self.dropout == "fixed":
                restore.seed_all(self.seed + number)
            yield

    def batch_loss(self, number: int, batch: Any, tensors: Mapping[int, Tensor] | None = None) -> Tensor:
        """Return loss(model, batch), inside a session; `tensors[id(p)]`, where given, takes p's place.

        Go backward from it inside `place` with the same tensors, by `graph.derivatives`.
        """
        with self.place(number, tensors), same_flags(batch):
            return self.loss(self.model, usable(batch))

    def checked_loss(self, number: int, batch: Any, tensors: Mapping[int, Tensor] | None = None) -> Tensor:
        """Return a batch's loss, refused unless it is one finite real number."""
        return checked(self.batch_loss(number, batch, tensors), number)

    def value(self, tensors: Mapping[int, Tensor] | None = None) -> float:
        """Return L, inside a session, without a graph; summed in float64."""
        with torch.no_grad():
            losses = [
                float(self.batch_loss(i, b, tensors)) for i, b in enumerate(self.batches.costing(progress.FORWARD))
            ]
        return sum(c * value for c, value in zip(self.weights, losses, strict=True))

    def gradient(self, tensors: Mapping[int, Tensor] | None = None) -> Tensor:
        """Return the gradient of L, (n,), inside a session; at `tensors` where given."""
        points = [p if tensors is None else tensors[id(p)] for p in self.params]
        total = torch.zeros(self.size, dtype=self.dtype, device=self.device)
        for i, (c, batch) in enumerate(zip(self.weights, self.batches.costing(progress.GRADIENT), strict=True)):
            with self.place(i, tensors):
                loss = self.checked_loss(i, batch, tensors)
                if loss.requires_grad:
                    total.add_(self.join(derivatives([loss], points)), alpha=c)
        return total

    def at(self, vector: Tensor) -> dict[int, Tensor]:
        """Return the parameters moved by `vector` (n,), as new leaves to be given as `tensors`."""
        moved = [
            (p.detach() + d.to(p.dtype)).requires_grad_() for p, d in zip(self.params, self.split(vector), strict=True)
        ]
        return {id(p): m for p, m in zip(self.params, moved, strict=True)}


@contextmanager
def same_flags(batch: Any) -> Iterator[None]:
    """Leave a batch's tensors without a gradient if they had none: a gradient penalty asks for theirs."""
    asked = [leaf for leaf in leaves(batch) if isinstance(leaf, Tensor) and not leaf.requires_grad]

    def put_back() -> None:
        for leaf in asked:
            if leaf.requires_grad and leaf.is_leaf:
                leaf.requires_grad_(False)

    with undone(put_back):
        yield


def usable(batch: Any) -> Any:
    """Return what a loss may be given: containers copied, not tensors, but for those that inference mode has made."""
    made = [leaf for leaf in leaves(batch) if isinstance(leaf, Tensor) and leaf.is_inference()]
    return copy.deepcopy(batch, {id(leaf): leaf.clone() for leaf in made}) if made else loose(batch)
