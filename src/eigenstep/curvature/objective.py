"""The objective: a model, a loss and fixed data, checked before any work, and left exactly as they were found."""

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from eigenstep.curvature import keep, repair
from eigenstep.curvature.data import Batches, BatchSize, loose
from eigenstep.curvature.dropout import NoDropout, recurrent_dropouts
from eigenstep.curvature.graph import refuse_hidden_parameters
from eigenstep.curvature.loader import subset_note
from eigenstep.curvature.memory import free_bytes
from eigenstep.curvature.parameters import chosen_parameters, refuse_wrapped
from eigenstep.errors import InvalidValue, UnknownName, Unsupported

Loss = Callable[[Any, Any], Tensor]
Mode = Literal["train", "eval"]
Dropout = Literal["off", "fixed"]
Reduction = Literal["mean", "sum"]
SAME = 100.0  # units of rounding by which a loss may differ between two calls: sums in another order, on a GPU
NOT_TRAINED = "not the curvature that your optimiser sees: BatchNorm is in eval mode"


@dataclass(frozen=True)
class Facts:
    """What the check of an objective found: which parameters count, and what is worth saying."""

    names: tuple[str, ...]
    params: tuple[nn.Parameter, ...]
    unreached: tuple[str, ...]
    notes: tuple[str, ...]
    graph_bytes: float  # kept by one forward pass of the first batch
    losses: tuple[float, ...]  # of every batch, at `point`
    point: tuple[float, ...]


class Objective:
    """The loss that is trained, as a function of the model's parameters on fixed data: L(w) = sum_b c_b loss(model, b).

    loss(model, batch): a scalar, the batch's mean (then c_b = samples_b / samples) or, with reduction='sum', its sum
    (c_b = 1). data: one batch (a tensor, tuple, dict), a list of batches, a DataLoader or any re-iterable; the same
    batches at every pass, whatever the loader's shuffling. batch_size: samples of a batch where they are not the
    tensors' common first dimension: a number, a list, a function of the batch.
    mode: 'train' measures what is trained: BatchNorm normalises by each batch (so how the data are cut matters to it),
    a model that is training keeps each module's own mode. 'eval' exists; with BatchNorm its results are labelled.
    dropout: 'off', or 'fixed': one mask a batch, drawn from `seed`.
    parameters: names or glob patterns; default all that require a gradient. Tied ones count once; those that the loss
    does not reach are left out, and named in `notes`. memory: bytes for kept graphs and data (default: half of what is
    free).

    The model, its buffers, modes and gradients, and all random states are left bit for bit, also after an error or
    Ctrl-C. Raises InvalidValue, UnknownName or Unsupported with a remedy, at the first use at the latest.

    >>> model = torch.nn.Linear(2, 1)
    >>> objective = Objective(model, lambda model, x: (model(x) ** 2).mean(), torch.eye(2))
    >>> objective.size, objective.names
    (3, ('weight', 'bias'))
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        data: Any,
        mode: Mode = "train",
        *,
        parameters: str | Sequence[str] | None = None,
        batch_size: BatchSize = None,
        reduction: Reduction = "mean",
        dropout: Dropout = "off",
        memory: float | None = None,
        seed: int = 0,
    ) -> None:
        for name, value, valid in (
            ("mode", mode, Mode),
            ("dropout", dropout, Dropout),
            ("reduction", reduction, Reduction),
        ):
            if value not in get_args(valid):
                raise UnknownName.among(f"Objective: {name}", str(value), get_args(valid))
        if not isinstance(model, nn.Module):
            raise Unsupported(f"Objective: model is a {type(model).__name__}; a torch.nn.Module is needed")
        if not callable(loss):
            raise Unsupported("Objective: loss must be a function loss(model, batch) that returns the batch's loss")
        refuse_wrapped(model)
        self.model: nn.Module = getattr(model, "_orig_mod", model)  # of torch.compile
        self.loss, self.mode, self.reduction, self.dropout, self.seed = loss, mode, reduction, dropout, seed
        self._chosen = chosen_parameters(self.model, parameters)
        first = next(iter(self._chosen.values()))
        self.device = first.device
        self.dtype = torch.promote_types(first.dtype, torch.float32)
        for p in self._chosen.values():
            self.dtype = torch.promote_types(self.dtype, p.dtype)
        self.memory = float(memory) if memory is not None else free_bytes(self.device) / 2
        self.batches = Batches(data, batch_size, self.memory / 2)
        self._facts: Facts | None = None

    def subset(self, parameters: str | Sequence[str]) -> "Objective":
        """Return the same objective as a function of some of its parameters only (names or glob patterns)."""
        part = copy.copy(self)
        part._chosen = chosen_parameters(self.model, parameters)
        facts, part._facts = self._facts, None
        if facts is not None and set(part._chosen) <= set(facts.names) and facts.point == self.point():
            chosen = part._chosen.items()
            names, params = tuple(n for n, _ in chosen), tuple(p for _, p in chosen)
            part._facts = replace(facts, names=names, params=params, unreached=())
        return part

    def point(self) -> tuple[float, ...]:
        """Where the parameters are: sums that tell one point from another, however they were moved."""
        with torch.no_grad():
            return tuple(float(p.detach().sum(dtype=torch.float64)) for p in self._chosen.values())

    def on(self, model: nn.Module) -> "Objective":
        """Return the same objective as a function of a copy of its model, with the data and checks already made."""
        names = dict(model.named_parameters(remove_duplicate=False))
        facts, part = self.facts, copy.copy(self)
        part.model, part._chosen = model, {n: names[n] for n in self._chosen}
        part._facts = replace(facts, params=tuple(names[n] for n in facts.names))
        return part

    @property
    def facts(self) -> Facts:
        """What the first use found, checking everything once."""
        if self._facts is None:
            with self.session():
                self._facts = self._check()
        return self._facts

    @property
    def names(self) -> tuple[str, ...]:
        """The measured parameters' names, in the model's order."""
        return self.facts.names

    @property
    def params(self) -> tuple[nn.Parameter, ...]:
        """The measured parameters, each once."""
        return self.facts.params

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of a result should know: dropout, BatchNorm, parameters left out."""
        return self.facts.notes

    @property
    def size(self) -> int:
        """The number of measured parameters' entries, n."""
        return sum(p.numel() for p in self.params)

    @property
    def weights(self) -> list[float]:
        """c_b, the weight of each batch's loss."""
        self.batches.read()
        counts = self.batches.counts
        return (
            [1.0] * len(counts)
            if self.reduction == "sum"
            else ([1.0] if len(counts) == 1 else [c / sum(counts) for c in counts])
        )

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
        with ExitStack() as stack:
            stack.enter_context(keep.same_random_state())
            stack.callback(self.batches.close)
            stack.enter_context(keep.same_gradients(self.model))
            stack.enter_context(keep.same_attributes(self.model))
            stack.enter_context(keep.in_mode(self.model, self.mode))
            stack.enter_context(keep.uncompiled(self.model))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            yield

    def batch_loss(self, number: int, batch: Any, tensors: Mapping[int, Tensor] | None = None) -> Tensor:
        """Return loss(model, batch), inside a session; `tensors[id(p)]`, where given, takes p's place."""
        place = {**keep.copied_buffers(self.model), **(tensors or {})}
        with ExitStack() as stack:
            stack.enter_context(keep.replaced(self.model, place))
            if repair.needed(self.model):
                stack.enter_context(repair.Repaired())
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # the only attention with second derivatives
            if self.device.type == "cuda":
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))  # cuDNN's recurrent layers have none
            if self.dropout == "fixed":
                keep.seed_all(self.seed + number)
            elif self.mode == "train":
                self._no_dropout = stack.enter_context(NoDropout())
                for layer in recurrent_dropouts(self.model):
                    stack.callback(setattr, layer, "dropout", layer.dropout)
                    layer.dropout = 0.0
            return self.loss(self.model, loose(batch))

    def checked_loss(self, number: int, batch: Any, tensors: Mapping[int, Tensor] | None = None) -> Tensor:
        """Return a batch's loss, refused unless it is one finite real number that depends on the parameters."""
        return checked(self.batch_loss(number, batch, tensors), number)

    def value(self, tensors: Mapping[int, Tensor] | None = None) -> float:
        """Return L, inside a session, without a graph; summed in float64."""
        with torch.no_grad():
            losses = [float(self.batch_loss(i, b, tensors)) for i, b in enumerate(self.batches)]
        return sum(c * value for c, value in zip(self.weights, losses, strict=True))

    def gradient(self, tensors: Mapping[int, Tensor] | None = None) -> Tensor:
        """Return the gradient of L, (n,), inside a session; at `tensors` where given."""
        points = [p if tensors is None else tensors[id(p)] for p in self.params]
        total = torch.zeros(self.size, dtype=self.dtype, device=self.device)
        for i, (c, batch) in enumerate(zip(self.weights, self.batches, strict=True)):
            grads = torch.autograd.grad(self.checked_loss(i, batch, tensors), points, materialize_grads=True)
            total.add_(self.join(grads), alpha=c)
        return total

    def at(self, vector: Tensor) -> dict[int, Tensor]:
        """Return the parameters moved by `vector` (n,), as new leaves to be given as `tensors`."""
        moved = [
            (p.detach() + d.to(p.dtype)).requires_grad_() for p, d in zip(self.params, self.split(vector), strict=True)
        ]
        return {id(p): m for p, m in zip(self.params, moved, strict=True)}

    def _check(self) -> Facts:
        """Evaluate every batch's loss, the first one's twice and with its gradient, and say what is wrong."""
        self.batches.read()
        saved: dict[int, int] = {}

        def weigh(tensor: Tensor) -> Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        chosen = list(self._chosen.values())
        losses: list[float] = []
        grads: tuple[Tensor | None, ...] = ()
        first = 0.0
        with keep.same_parameters(self.model):
            for i, batch in enumerate(self.batches):
                if i == 0:
                    with torch.autograd.graph.saved_tensors_hooks(weigh, lambda tensor: tensor):
                        loss = self.checked_loss(0, batch)
                    refuse_hidden_parameters(loss)
                    first = float(loss.detach())
                    grads = torch.autograd.grad(loss, chosen, allow_unused=True)
                losses.append(float(self.checked_loss(i, batch).detach()))
        refuse_change(0, first, losses[0], loss.dtype)
        reached = [(n, p) for (n, p), g in zip(self._chosen.items(), grads, strict=True) if g is not None]
        unreached = tuple(n for (n, _), g in zip(self._chosen.items(), grads, strict=True) if g is None)
        if not reached:
            raise InvalidValue("Objective: the loss reaches none of the parameters that were asked for; choose others")
        for p in {id(p): p for _, p in reached}.values():
            saved.pop(p.untyped_storage().data_ptr(), None)
        names, params = zip(*reached, strict=True)
        notes, weight = tuple(self._notes(unreached)), float(sum(saved.values()))
        return Facts(names, params, unreached, notes, weight, tuple(losses), self.point())

    def _notes(self, unreached: tuple[str, ...]) -> Iterator[str]:
        if unreached:
            yield f"left out, not reached by the loss: {', '.join(unreached)}"
        norms = [m for m in self.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        frozen = [m for m in norms if not m.training]
        if norms and self.mode == "eval":
            yield NOT_TRAINED
        elif frozen:
            yield f"{len(frozen)} of {len(norms)} BatchNorm layers were in eval mode, and measured so"
        elif norms:
            yield "BatchNorm in train mode: each batch is normalised by itself, so how the data are cut matters"
        drops = bool(recurrent_dropouts(self.model))
        if self.dropout == "fixed" and self.mode == "train":
            yield f"dropout held at one mask a batch (seed {self.seed})"
        elif self.mode == "train" and (self._no_dropout.met or drops):
            yield "dropout switched off"
        if (drawn := subset_note(self.batches.source)) is not None:
            yield drawn


def checked(out: Any, number: int = 0) -> Tensor:
    """Return a batch's loss as a scalar, refused unless it is one finite real number that depends on the parameters."""
    where = "on the first batch" if number == 0 else f"on batch {number} (counted from 0)"
    if not isinstance(out, Tensor):
        has = " (it has a .loss: return that)" if isinstance(getattr(out, "loss", None), Tensor) else ""
        raise InvalidValue(
            f"Objective: loss returned a {type(out).__name__}{has} {where}; a scalar tensor is needed, not .item()"
        )
    if out.numel() != 1 or out.is_complex():
        raise InvalidValue(
            f"Objective: loss returned a tensor of shape {tuple(out.shape)} {where}; a scalar is needed: take .mean() "
            "over the batch, or .sum() with reduction='sum'"
        )
    if not bool(out.isfinite()):
        raise InvalidValue(
            f"Objective: the loss is {float(out.detach())}, not finite, {where}; measure where it is finite, and look "
            "for inputs that are not"
        )
    if torch.is_grad_enabled() and not out.requires_grad:
        raise InvalidValue(
            f"Objective: the loss does not depend on the trainable parameters {where}; look for detach(), item() or "
            "no_grad() in it"
        )
    return out.reshape(())


def refuse_change(number: int, one: float, two: float, dtype: torch.dtype) -> None:
    """Raise InvalidValue when two calls of the loss on the same batch differ by more than sums in another order may."""
    if abs(one - two) > SAME * torch.finfo(dtype).eps * max(abs(one), 1e-30):
        raise InvalidValue(
            f"Objective: the loss differs between two calls on the same batch, number {number} ({one:.9g}, then "
            f"{two:.9g}): something in it samples or keeps state; use dropout='fixed' to hold every mask, or make the "
            "layer deterministic"
        )


def announce(message: str) -> None:
    """Say aloud that another way is taken than the one asked for."""
    warnings.warn(message, stacklevel=3)
