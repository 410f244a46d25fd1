"""The objective: a model, a loss and fixed data, checked before any work, and left exactly as they were found."""

import copy
import fnmatch
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from eigenstep.curvature import keep
from eigenstep.curvature.data import Batches, BatchSize
from eigenstep.curvature.dropout import NoDropout, recurrent_dropouts
from eigenstep.curvature.memory import free_bytes
from eigenstep.errors import InvalidValue, UnknownName, Unsupported

Loss = Callable[[Any, Any], Tensor]
Mode = Literal["train", "eval"]
Dropout = Literal["off", "fixed"]
Reduction = Literal["mean", "sum"]
NOT_TRAINED = "not the curvature that your optimiser sees: BatchNorm is in eval mode"
_WRAPPED = ("DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule", "DataParallel", "DeepSpeedEngine")


@dataclass(frozen=True)
class Facts:
    """What the check of an objective found: which parameters count, and what is worth saying."""

    names: tuple[str, ...]
    params: tuple[nn.Parameter, ...]
    unreached: tuple[str, ...]
    notes: tuple[str, ...]
    graph_bytes: float  # kept by one forward pass of the first batch


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
        self.model: nn.Module = getattr(model, "_orig_mod", model)  # torch.compile has no second derivatives
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
        part._facts = None
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
            stack.enter_context(keep.same_gradients(self.model))
            stack.enter_context(keep.in_mode(self.model, self.mode))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            yield

    def batch_loss(self, number: int, batch: Any, tensors: Mapping[int, Tensor] | None = None) -> Tensor:
        """Return loss(model, batch), inside a session; `tensors[id(p)]`, where given, takes p's place."""
        place = {**keep.copied_buffers(self.model), **(tensors or {})}
        with ExitStack() as stack:
            stack.enter_context(keep.replaced(self.model, place))
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
            return self.loss(self.model, batch)

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
            grads = torch.autograd.grad(self.batch_loss(i, batch, tensors), points, materialize_grads=True)
            total.add_(self.join(grads), alpha=c)
        return total

    def at(self, vector: Tensor) -> dict[int, Tensor]:
        """Return the parameters moved by `vector` (n,), as new leaves to be given as `tensors`."""
        moved = [
            (p.detach() + d.to(p.dtype)).requires_grad_() for p, d in zip(self.params, self.split(vector), strict=True)
        ]
        return {id(p): m for p, m in zip(self.params, moved, strict=True)}

    def _check(self) -> Facts:
        """Evaluate the first batch's loss and gradient, twice, and say what is wrong or worth knowing."""
        self.batches.read()
        batch = next(iter(self.batches))
        saved: dict[int, int] = {}

        def weigh(tensor: Tensor) -> Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        before = [(p, p._version) for p in self.model.parameters()]
        with torch.autograd.graph.saved_tensors_hooks(weigh, lambda tensor: tensor):
            first = self._scalar(batch)
        chosen = list(self._chosen.values())
        grads = torch.autograd.grad(first, chosen, allow_unused=True)
        again = self._scalar(batch)
        if any(p._version != version for p, version in before):
            raise InvalidValue("Objective: the loss changes the model's parameters in place; it must only read them")
        one, two = float(first.detach()), float(again.detach())
        tolerance = 1e4 * torch.finfo(first.dtype).eps * max(abs(one), 1e-30)
        if abs(one - two) > tolerance:
            raise InvalidValue(
                f"Objective: the loss differs between two calls on the same batch ({one:.9g}, then {two:.9g}): "
                "something in it samples or keeps state; use dropout='fixed' to hold every mask, or make the layer "
                "deterministic"
            )
        reached = [(n, p) for (n, p), g in zip(self._chosen.items(), grads, strict=True) if g is not None]
        unreached = tuple(n for (n, _), g in zip(self._chosen.items(), grads, strict=True) if g is None)
        if not reached:
            raise InvalidValue("Objective: the loss reaches none of the parameters that were asked for; choose others")
        for p in {id(p): p for _, p in reached}.values():
            saved.pop(p.untyped_storage().data_ptr(), None)
        names, params = zip(*reached, strict=True)
        return Facts(names, params, unreached, tuple(self._notes(unreached)), float(sum(saved.values())))

    def _scalar(self, batch: Any) -> Tensor:
        """The first batch's loss, refused unless it is one finite real number that depends on the parameters."""
        out = self.batch_loss(0, batch)
        if not isinstance(out, Tensor):
            has = " (it has a .loss: return that)" if isinstance(getattr(out, "loss", None), Tensor) else ""
            raise InvalidValue(
                f"Objective: loss returned a {type(out).__name__}{has}; a scalar tensor is needed, not .item()"
            )
        if out.numel() != 1 or out.is_complex():
            raise InvalidValue(
                f"Objective: loss returned a tensor of shape {tuple(out.shape)}; a scalar is needed: take .mean() "
                "over the batch, or .sum() with reduction='sum'"
            )
        if not bool(out.isfinite()):
            raise InvalidValue(
                f"Objective: the loss is {float(out.detach())}, not finite, on the first batch; measure where it is "
                "finite"
            )
        if not out.requires_grad:
            raise InvalidValue(
                "Objective: the loss does not depend on the trainable parameters; look for detach(), item() or "
                "no_grad() in it"
            )
        return out.reshape(())

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


def refuse_wrapped(model: nn.Module) -> None:
    """Raise Unsupported for modules whose parameters are spread over processes."""
    kinds = {cls.__name__ for module in model.modules() for cls in type(module).__mro__}
    if found := [name for name in _WRAPPED if name in kinds]:
        raise Unsupported(
            f"Objective: {found[0]} is not supported: its products need communication between processes; pass the "
            "plain module (model.module for DDP) on one process"
        )
    if any(type(p).__name__ == "DTensor" or type(p.data).__name__ == "DTensor" for p in model.parameters()):
        raise Unsupported("Objective: the parameters are sharded (DTensor); pass the plain module on one process")


def chosen_parameters(model: nn.Module, patterns: str | Sequence[str] | None) -> dict[str, nn.Parameter]:
    """Return the trainable parameters that match any of the names or glob patterns, tied ones once."""
    every = dict(model.named_parameters(remove_duplicate=False))
    trainable = {name: p for name, p in every.items() if p.requires_grad}
    if not trainable:
        raise InvalidValue(
            "Objective: the model has no trainable parameters; set requires_grad on those to be measured"
        )
    wanted = trainable
    if patterns is not None:
        wanted = {}
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            hits = {n: p for n, p in every.items() if fnmatch.fnmatchcase(n, pattern)}
            if not hits:
                raise UnknownName.among("Objective: parameter", pattern, every)
            wanted.update({n: p for n, p in hits.items() if p.requires_grad})
        wanted = {n: p for n, p in trainable.items() if n in wanted}
        if not wanted:
            raise InvalidValue(
                "Objective: all the parameters asked for are frozen; set requires_grad on those to be measured"
            )
    once = {id(p): (n, p) for n, p in reversed(wanted.items())}
    single = {n: p for n, p in wanted.items() if once[id(p)][0] == n}
    if len({p.device for p in single.values()}) > 1:
        raise Unsupported(
            "Objective: the parameters lie on several devices; move the model to one, or choose parameters="
        )
    if any(p.is_complex() for p in single.values()):
        raise Unsupported("Objective: complex parameters are not supported; train torch.view_as_real(p) instead")
    return single


def announce(message: str) -> None:
    """Say aloud that another way is taken than the one asked for."""
    warnings.warn(message, stacklevel=3)
