"""The objective: a model, a loss and fixed data, checked before any work, and left exactly as they were found."""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from eigenstep import progress
from eigenstep.errors import InvalidValue, UnknownName, Unsupported, refuse_seed
from eigenstep.objective import restore
from eigenstep.objective.checks import StopGradients, notes_of, refuse_change
from eigenstep.objective.data.batches import Batches, PerBatch
from eigenstep.objective.data.mean import not_a_mean
from eigenstep.objective.dropout import NoDropout
from eigenstep.objective.evaluation import Dropout, Evaluation, Loss, Mode
from eigenstep.objective.graph import Verified, leaves_of, refuse_hidden_parameters
from eigenstep.objective.memory import free_bytes
from eigenstep.objective.parameters import (
    LINE,
    chosen_parameters,
    gradient_hook,
    refuse_criterion,
    refuse_wrapped,
    together,
)
from eigenstep.objective.world import calls_pass

Reduction = Literal["mean", "sum"]
ONE_EACH = "the loss is a batch's sum: judged for a loop that makes one update per batch, so by the mean over batches"


@dataclass(frozen=True)
class Checked:
    """What the check of an objective found: which parameters count, and what is worth saying."""

    names: tuple[str, ...]
    params: tuple[nn.Parameter, ...]
    unreached: tuple[str, ...]
    notes: tuple[str, ...]
    graph_bytes: float  # kept by the forward pass of one batch, the largest
    losses: tuple[float, ...]  # of every batch, at `point`
    point: tuple[float, ...]
    stopped: bool  # whether values that depend on the parameters leave the graph: detach() or no_grad()


class Objective(Evaluation):
    """The loss that is trained, as a function of the model's parameters on fixed data: L(w) = sum_b c_b loss(model, b).

    model: a module, or several that are trained together, as a list or dict (a model and a criterion with parameters):
    loss gets them as it can index them, `lambda both, batch: both[1](both[0](batch[0]), batch[1])`.
    loss(model, batch): a scalar, the batch's mean; c_b = weight_b / (sum of the weights). weight: how much a batch
    counts, a function of the batch (its labels that are not ignored, its class weights), a list or a number; fractions
    and 0 are fine; default: its samples, and a note where the loss is not their mean. reduction='sum': the loss is the
    batch's sum and L the sum over all data, c_b = 1; verdicts on an optimizer are then about one batch an update.
    data: one batch (a tensor, tuple, dict), a list of batches, a DataLoader, any re-iterable, or a function that yields
    batches; the same batches at every pass, whatever the loader's shuffling. batch_size: samples of a batch where they
    are not the tensors' common first dimension: a number, a list, a function of the batch.
    samples: take at most so many, in whole batches, the first cut if it holds more; by default all of data that state
    their length, and of a stream 4,096 samples or what fits into half of `memory`: `notes` and provenance then say so.
    mode: 'train' measures what is trained: BatchNorm normalises by each batch (so how the data are cut matters to it),
    a model that is training keeps each module's own mode. 'eval' exists; with BatchNorm its results are labelled.
    dropout: 'off', or 'fixed': one mask per batch, drawn from `seed`.
    parameters: names or glob patterns; default all that require a gradient. Tied ones count once; those that the loss
    reaches on none of the batches are left out, and named in `notes`. memory: bytes for kept graphs and data (default:
    half of what is free).

    The model, its buffers, modes, gradients, hooks and what its attributes hold, and all random states are left bit for
    bit, also after an error or Ctrl-C. Raises InvalidValue, UnknownName or Unsupported with a remedy, at the first use
    at the latest.

    >>> model = torch.nn.Linear(2, 1)
    >>> objective = Objective(model, lambda model, x: (model(x) ** 2).mean(), torch.eye(2))
    >>> objective.size, objective.names
    (3, ('weight', 'bias'))
    """

    def __init__(
        self,
        model: nn.Module | Sequence[nn.Module] | Mapping[str, nn.Module],
        loss: Loss,
        data: Any,
        mode: Mode = "train",
        *,
        weight: PerBatch = None,
        parameters: str | Sequence[str] | None = None,
        batch_size: PerBatch = None,
        reduction: Reduction = "mean",
        dropout: Dropout = "off",
        memory: float | None = None,
        samples: int | None = None,
        seed: int = 0,
    ) -> None:
        for name, value, valid in (
            ("mode", mode, Mode),
            ("dropout", dropout, Dropout),
            ("reduction", reduction, Reduction),
        ):
            if value not in get_args(valid):
                raise UnknownName.among(f"Objective: {name}", str(value), get_args(valid))
        refuse_seed("Objective", seed)
        self.model = together(model)
        refuse_criterion(loss)
        if reduction == "sum" and weight is not None:
            raise InvalidValue("Objective: a sum over all data has no weights; give weight= without reduction='sum'")
        refuse_wrapped(self.model)
        self.loss, self.mode, self.reduction, self.dropout, self.seed = loss, mode, reduction, dropout, seed
        self._patterns = parameters
        self._chosen = chosen_parameters(self.model, parameters)
        self._flags = self._trained()
        first = next(iter(self._chosen.values()))
        self.device = first.device
        self.dtype = torch.promote_types(first.dtype, torch.float32)
        for p in self._chosen.values():
            self.dtype = torch.promote_types(self.dtype, p.dtype)
        self.memory = float(memory) if memory is not None else free_bytes(self.device) / 2
        self.batches = Batches(data, batch_size, self.memory / 2, weight, samples=samples)
        self._placed, self._no_dropout = None, NoDropout()
        self._checked: Checked | None = None
        self.verified: dict[str, Verified] = {}  # what second derivatives rest on, once compared with differences
        self.hook: str | None = None  # inside a session: the gradient hook that has been taken away
        self._open = False  # whether a session is under way
        self._inherits = False  # whether the parameters are another objective's, reached here or not

    def subset(self, parameters: str | Sequence[str]) -> "Objective":
        """Return the same objective as a function of some of its parameters only (names or glob patterns)."""
        part = copy.copy(self)
        part._patterns, part._chosen = parameters, chosen_parameters(self.model, parameters)
        checked, part._checked = self._checked, None
        if checked is not None and set(part._chosen) <= set(checked.names) and checked.point == self.point():
            chosen = part._chosen.items()
            names, params = tuple(n for n, _ in chosen), tuple(p for _, p in chosen)
            part._checked = replace(checked, names=names, params=params, unreached=())
        return part

    def over(self, data: Any, weight: PerBatch = None, batch_size: PerBatch = None) -> "Objective":
        """Return the same function of the same parameters on other data, whether or not it reaches them all there."""
        part = copy.copy(self)
        part.batches = Batches(data, batch_size, self.memory / 4, weight)
        part._patterns, part._chosen = self.names, dict(zip(self.names, self.params, strict=True))
        part._checked, part._inherits = None, True
        return part

    def per_update(self) -> "Objective":
        """Return the objective that a loop of one batch an update minimises: a mean over batches, where L is a sum."""
        if self.reduction != "sum" or len(self.weights) == 1:
            return self
        part = copy.copy(self)
        part.reduction, part.batches = "mean", self.batches.alike()
        part._checked = replace(self.checked, notes=(*self.notes, ONE_EACH))
        return part

    @contextmanager
    def session(self) -> Iterator[None]:
        """What a public call needs around its work: whatever happens inside, the user's things are restored.

        Parameters frozen or unfrozen since the last one are left out or taken in, and everything is checked anew.
        """
        if self._open:
            with super().session():
                yield
            return
        if (flags := self._trained()) != self._flags:
            self._chosen, self._flags = chosen_parameters(self.model, self._patterns), flags
            self._checked = None
        hook, own = gradient_hook(self.model), [self]
        with restore.set_to(own, "hook", hook), restore.set_to(own, "_open", True), super().session():
            yield

    def _trained(self) -> tuple[bool, ...]:
        """Which of the model's parameters require a gradient."""
        return tuple(p.requires_grad for p in self.model.parameters())

    def point(self) -> tuple[float, ...]:
        """Where the parameters are: sums that tell one point from another, however they were moved."""
        with torch.no_grad():
            return tuple(float(p.detach().sum(dtype=torch.float64)) for p in self._chosen.values())

    def on(self, model: nn.Module) -> "Objective":
        """Return the same objective as a function of a copy of its model, with the data and checks already made."""
        names = dict(model.named_parameters(remove_duplicate=False))
        checked, part = self.checked, copy.copy(self)
        part.model, part._chosen = model, {n: names[n] for n in self._chosen}
        part._checked = replace(checked, params=tuple(names[n] for n in checked.names))
        return part

    @property
    def checked(self) -> Checked:
        """What the first use found, checking everything once."""
        if self._checked is None:
            with progress.task("checking the objective"), self.session():
                self._checked = self._check()
        return self._checked

    @property
    def names(self) -> tuple[str, ...]:
        """The measured parameters' names, in the model's order."""
        return self.checked.names

    @property
    def params(self) -> tuple[nn.Parameter, ...]:
        """The measured parameters, each once."""
        return self.checked.params

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of a result should know: dropout, BatchNorm, parameters left out."""
        return self.checked.notes

    @property
    def size(self) -> int:
        """The number of measured parameters' entries, n."""
        return sum(p.numel() for p in self.params)

    @property
    def weights(self) -> list[float]:
        """c_b, the weight of each batch's loss."""
        self.batches.read()
        given = self.batches.weights
        if self.reduction == "sum" or len(given) == 1:
            return [1.0] * len(given)
        total = math.fsum(given)
        return [weight / total for weight in given]

    def _check(self) -> Checked:
        """Evaluate every batch's loss, the first one's twice, and say what is wrong; which parameters they reach."""
        self.batches.read()
        reached: set[int] = set()
        outside: dict[int, nn.Parameter] = {}
        own = {id(p) for p in self.model.parameters()} | {id(p) for p in self._chosen.values()}
        losses: list[float] = []
        heaviest, unmoved, stop = 0.0, 0, StopGradients()
        with restore.same_parameters(self.model):
            for i, batch in enumerate(self.batches.costing(progress.FORWARD)):
                if i == 0:
                    first = float(self.checked_loss(0, batch).detach())
                with calls_pass(stop):
                    loss, held = self._weighed(i, batch)
                heaviest = max(heaviest, held)
                refuse_hidden_parameters(loss)
                leaves = leaves_of(loss)
                reached |= {id(leaf) for leaf in leaves}
                outside |= {id(p): p for p in leaves if isinstance(p, nn.Parameter) and id(p) not in own}
                unmoved += all(id(p) not in own for p in leaves)
                losses.append(float(loss.detach()))
                if i == 0:
                    refuse_change(0, first, losses[0], loss.dtype)
            strange = not_a_mean(self)
        chosen = self._chosen.items()
        names = tuple(n for n, p in chosen if id(p) in reached or self._inherits)
        unreached = tuple(n for n, p in chosen if n not in names)
        if not reached & own and not self._inherits:
            raise InvalidValue(
                "Objective: the loss does not depend on the trainable parameters on any batch; look for detach(), "
                "item() or no_grad() in it"
            )
        if not names:
            raise InvalidValue("Objective: the loss reaches none of the parameters that were asked for; choose others")
        params = tuple(self._chosen[n] for n in names)
        notes = tuple(notes_of(self, unreached, len(outside), unmoved, strange))
        return Checked(names, params, unreached, notes, heaviest, tuple(losses), self.point(), stop.met)

    def _weighed(self, i: int, batch: Any) -> tuple[Tensor, float]:
        """A batch's loss, and the bytes that its graph keeps beside the parameters."""
        saved: dict[int, int] = {}

        def weigh(tensor: Tensor) -> Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(weigh, lambda tensor: tensor):
            loss = self.checked_loss(i, batch)
        for p in self._chosen.values():
            saved.pop(p.untyped_storage().data_ptr(), None)
        return loss, float(sum(saved.values()))


def required(what: str, given: Any) -> None:
    """Raise Unsupported unless `given` is an Objective, naming the line that makes one."""
    if not isinstance(given, Objective):
        raise Unsupported(f"{what}: {type(given).__name__} is no eigenstep.Objective; make one: objective = es.{LINE}")
