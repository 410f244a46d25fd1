"""Rehearsal: short real training of copies, every learning rate on the same mini-batches, measured on a fixed probe."""

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from eigenstep.bridge.param_groups import params_of, set_lr
from eigenstep.errors import InvalidValue
from eigenstep.objective import Objective, restore, world
from eigenstep.objective.data.batch import fingerprint
from eigenstep.objective.data.batches import is_one_batch
from eigenstep.objective.data.loader import refuse_one_shot, same_hidden_state
from eigenstep.objective.data.stream import readable
from eigenstep.objective.evaluation import usable
from eigenstep.progress import GRADIENT, spent
from eigenstep.stability.copies import copied, take_step
from eigenstep.stability.critical import GIVE_A_FLOOR

_NAMED = "recommend: train"  # as the user gave it
PROBE_BATCHES = 16  # of the objective's batches, evenly spread, are the probe; with fewer, all
_WILD = (
    1e6  # sizes of the problem; a mini-batch's loss so far above the first will not come back, so far below: no floor
)


class Spent(Exception):
    """The budget of steps, or the time, is used up; the message says which."""


class Bottomless(Exception):
    """The loss falls without a floor; the message says from where to where."""


class Stream:
    """The user's mini-batches, the first as first, read lazily and kept for all runs; epochs follow each other.

    Within `open`, reading moves the loader's generators, which are put back at its end.
    """

    def __init__(self, train: Any, memory: float, seed: int) -> None:
        self.memory, self.seed = memory, seed
        self.kept: list[Any] = []
        self.full, self._held = False, 0.0
        self._iterator: Iterator[Any] | None = None
        self.source = readable(train, _NAMED)
        self.one = is_one_batch(self.source)
        if not self.one:
            refuse_one_shot(self.source, _NAMED)

    @contextmanager
    def open(self) -> Iterator[None]:
        """What to enter around all reading."""
        if self.one or isinstance(self.source, (list, tuple)):
            yield
            return
        with same_hidden_state(self.source, [], _NAMED):
            try:
                yield
            finally:
                self._iterator = None

    def __getitem__(self, number: int) -> Any:
        """Mini-batch `number` of the training that is rehearsed."""
        while number >= len(self.kept) and not self.full:
            self._read()
        return self.kept[number % len(self.kept)]

    def _read(self) -> None:
        if self.one:
            self.kept, self.full = [self.source], True
            return
        restore.seed_all(self.seed + len(self.kept))
        for _ in range(2):
            if self._iterator is None:
                self._iterator = iter(world.as_caller(self.source))
            try:
                batch = next(self._iterator)
            except StopIteration:
                self._iterator = None
                continue
            if not isinstance(self.source, (list, tuple)):
                self._held += fingerprint(batch)[1]
            self.kept.append(batch)
            self.full = self._held > self.memory
            return
        raise InvalidValue("recommend: train has no batches; give a loader or list of mini-batches with some")


class Budget:
    """Training steps, and perhaps seconds, that a search may take."""

    def __init__(self, steps: int, seconds: float | None, watch: Any = None) -> None:
        self.steps, self.used, self.watch = steps, 0, watch
        self.began = time.perf_counter()
        self.until = math.inf if seconds is None else self.began + seconds

    def take(self) -> None:
        """Count one step. Raises Spent when there is none left."""
        if self.used >= self.steps:
            raise Spent(f"the budget of {self.steps} training steps is used up")
        if time.perf_counter() > self.until:
            raise Spent(f"the time allowed, {self.until - self.began:.0f} s, is used up")
        self.used += 1
        if self.watch is not None:
            self.watch(self.used, self.steps)

    @property
    def left(self) -> int:
        """Steps left."""
        return self.steps - self.used


class Lane:
    """One learning rate on its own copies: `step` so far, the probe's loss at `points`, and whether it diverged."""

    def __init__(self, lr: float, model: nn.Module, optimizer: torch.optim.Optimizer, start: float) -> None:
        self.lr = lr
        self.copies: tuple[nn.Module, torch.optim.Optimizer] | None = (model, optimizer)
        self.step, self.diverged = 0, False
        self.points, self.losses = [0], [start]
        set_lr(optimizer, lr)

    @property
    def loss(self) -> float:
        """The probe's loss now; infinite once diverged."""
        return math.inf if self.diverged else self.losses[-1]

    def free(self) -> None:
        """Give the copies' memory back; the lane is not run on."""
        self.copies = None

    def tail(self, share: float = 0.5) -> list[float]:
        """The probe's losses over the last `share` of the steps."""
        return [v for p, v in zip(self.points, self.losses, strict=True) if p >= share * self.step and p > 0]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data: losses at the numbers of updates in `points`."""
        return {
            **{"lr": self.lr, "points": list(self.points), "losses": list(self.losses)},
            **{"diverged": self.diverged, "steps": self.step},
        }


class Rehearsal:
    """Lanes that start from one model and optimizer, on copies; the user's own are only ever copied from.

    Every lane sees the same mini-batches and the same random numbers, so that lanes differ by lr alone. clip: the norm
    to which gradients are clipped before each step.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        stream: Stream,
        budget: Budget,
        *,
        clip: float | None,
        seed: int,
    ) -> None:
        self.objective, self.stream, self.budget, self.clip, self.seed = objective, stream, budget, clip, seed
        self.model, self.optimizer = copied("recommend", objective.model, optimizer)
        if not self.model.training:
            self.model.train()
        self.probe, self.whole = probe_of(objective)
        self.first = math.nan  # the first mini-batch's loss at the start
        self.fall = 0.0  # what a first step of a sensible length takes off the loss, so that a start near 0 is no size

    @contextmanager
    def session(self) -> Iterator[None]:
        """What to enter around all work: the user's things are restored whatever happens inside."""
        with ExitStack() as stack:
            stack.enter_context(self.objective.session())
            stack.enter_context(self.stream.open())
            self.start = self.loss_of(self.model)
            yield

    def loss_of(self, model: nn.Module) -> float:
        """The probe's loss of a copy."""
        with restore.in_mode(model, self.objective.mode):
            return self.probe.on(model).value()

    def lane(self, lr: float) -> Lane:
        """A new lane from the start."""
        return Lane(lr, *copied("recommend", self.model, self.optimizer), self.start)

    def run(self, lane: Lane, until: int) -> None:
        """Train a lane until it has taken `until` steps or diverged, with probes at 1/2, 3/4 and the end of the way."""
        due = {until, until // 2, 3 * until // 4}
        while lane.step < until and not lane.diverged and lane.copies is not None:
            self.budget.take()
            with spent(GRADIENT):
                value = self._step(lane.step, *lane.copies)
            lane.step += 1
            if math.isnan(self.first):
                self.first = value
            far = _WILD * max(abs(self.first), self.fall, 1e-12)
            if value < -far:
                raise Bottomless(
                    f"the loss is unbounded: at lr {lane.lr:.3g} it went from {self.start:.4g} to {value:.3g} within "
                    f"{lane.step - 1} updates and falls on, so that no lr is right; {GIVE_A_FLOOR}"
                )
            wild = not value <= far
            if wild or lane.step in due:
                lane.points.append(lane.step)
                lane.losses.append(math.inf if wild else self.loss_of(lane.copies[0]))
                lane.diverged = not math.isfinite(lane.losses[-1])

    def _step(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
        """One training step as the user's loop would take it; the mini-batch's loss before it."""
        batch = self.stream[step]
        restore.seed_all(self.seed + step)
        params = params_of(optimizer)
        values: list[Tensor] = []

        def closure() -> Tensor:
            optimizer.zero_grad(set_to_none=True)
            with world.callers_device():
                loss = self.objective.loss(model, usable(batch))
                loss.backward()  # type: ignore[no-untyped-call]
            if self.clip is not None:
                nn.utils.clip_grad_norm_(params, self.clip)
            values.append(loss.detach())
            return loss

        take_step(optimizer, closure)
        if step == 0 and all(p.grad is None for p in params):
            raise InvalidValue(
                "recommend: the loss does not train the model that it is given (no parameter of the copy has a "
                "gradient); let loss(model, batch) call its argument `model`, not a model from outside"
            )
        return float(values[0])


def probe_of(objective: Objective) -> tuple[Objective, bool]:
    """The objective on at most PROBE_BATCHES of its batches, evenly spread; and whether those are all."""
    weights = objective.weights
    if len(weights) <= PROBE_BATCHES:
        return objective, True
    chosen = {round(i * (len(weights) - 1) / (PROBE_BATCHES - 1)) for i in range(PROBE_BATCHES)}
    with objective.session():
        part = [(b, w) for i, (b, w) in enumerate(zip(objective.batches, weights, strict=True)) if i in chosen]
    return objective.over([b for b, _ in part], [w for _, w in part]), False
