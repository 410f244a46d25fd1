"""Rehearsal: short real training of copies, every learning rate on the same mini-batches, measured on a fixed probe."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from eigenstep.errors import InvalidValue, Unsupported
from eigenstep.objective import Objective, restore
from eigenstep.objective.undo import undone
from eigenstep.progress import GRADIENT, spent
from eigenstep.rehearsal.loop import Loop, Step, UsersLoop, plain_loop
from eigenstep.rehearsal.own import Scalers, State
from eigenstep.rehearsal.schedule import Schedule
from eigenstep.rehearsal.schedule import updates as in_words
from eigenstep.rehearsal.stream import Stream
from eigenstep.stability.copies import copied
from eigenstep.stability.critical import GIVE_A_FLOOR

PROBE_BATCHES = 16  # of the objective's batches, evenly spread, are the probe; with fewer, all
# Sizes of the problem; a mini-batch's loss so far above the first will not come back, so far below has no floor.
_WILD = 1e6


class Spent(Exception):
    """The budget of steps, or the time, is used up; the message says which."""


class Bottomless(Exception):
    """The loss falls without a floor; the message says from where to where."""


class Budget:
    """Training steps, and perhaps seconds, that a search may take."""

    def __init__(self, steps: int, seconds: float | None, watch: Any = None) -> None:
        self.steps, self.used, self.watch = steps, 0, watch
        self.began = time.perf_counter()
        self.until = math.inf if seconds is None else self.began + seconds
        self._stepping = self.began  # when the first step was taken

    def take(self) -> None:
        """Count one step. Raises Spent when there is none left."""
        if self.used >= self.steps:
            raise Spent(f"the budget of {self.steps} training steps is used up")
        if time.perf_counter() > self.until:
            raise Spent(f"the time allowed, {self.until - self.began:.3g} s, is used up")
        if not self.used:
            self._stepping = time.perf_counter()
        self.used += 1
        if self.watch is not None:
            self.watch(self.used, self.steps)

    @property
    def left(self) -> int:
        """Steps left; where time is limited no more than it allows at the pace so far."""
        left = self.steps - self.used
        if math.isinf(self.until) or not self.used:
            return left
        now = time.perf_counter()
        return min(left, int((self.until - now) * self.used / (now - self._stepping)))


class Lane:
    """One learning rate on its own copies: `step` so far, the probe's loss at `points`, and whether it diverged.

    The lr is the peak of the lane's own schedule. held: what gradient scalers hold in it.
    """

    def __init__(
        self,
        lr: float,
        schedule: Schedule,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        start: float,
        held: Sequence[State] = (),
    ) -> None:
        self.lr, self.schedule, self.held = lr, schedule, held
        self.copies: tuple[nn.Module, torch.optim.Optimizer] | None = (model, optimizer)
        self.step, self.diverged = 0, False
        self.points, self.losses = [0], [start]

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

    Every lane sees the same mini-batches and the same random numbers, so that lanes of one schedule differ by lr alone.
    A lane's lr is the peak of `schedule`, or of its own. loop: the user's own training step; without it the plain one,
    gradients clipped to the norm `clip`. validation: data whose loss, in eval mode, judges the lanes instead of the
    objective's. what: the public call, for messages.
    """

    def __init__(
        self,
        what: str,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        stream: Stream,
        budget: Budget,
        schedule: Schedule,
        *,
        loop: Loop | None = None,
        clip: float | None = None,
        validation: Any = None,
        seed: int,
    ) -> None:
        self.what, self.objective, self.stream, self.budget, self.seed = what, objective, stream, budget, seed
        self.model, self.optimizer = copied(what, objective.model, optimizer)
        if not self.model.training:
            self.model.train()
        self.schedule, self.clip, self.loop = schedule, clip, loop
        self._own = objective.model, optimizer
        self.take: Step = plain_loop(what, objective, clip)
        self.scalers = Scalers([])  # that a user's loop may use, and
        self._held: Sequence[State] = ()  # what they hold at the start of every lane
        self.probe, self.whole = probe_of(objective)
        self.judge = self.probe
        if validation is not None:
            try:
                self.judge, self.whole = probe_of(held_out(objective, validation))
            except (InvalidValue, Unsupported) as error:
                raise type(error)(f"{what}: validation= cannot be used: {error}") from error
        self.first = math.nan  # the first mini-batch's loss at the start
        self.fall = 0.0  # what a first step of a sensible length takes off the loss, so that a start near 0 is no size

    @contextmanager
    def session(self) -> Iterator[None]:
        """What to enter around all work: the user's things are restored whatever happens inside."""
        with ExitStack() as stack:
            stack.enter_context(self.objective.session())
            stack.enter_context(self.stream.open())
            self.start = self.loss_of(self.model)
            if self.loop is None:
                yield
                return
            self.scalers = Scalers.living()
            self._held = self.scalers.read()
            stack.enter_context(undone(partial(self.scalers.put, self._held)))
            self.take = loop = UsersLoop(self.what, self.loop, self._own, (self.model, self.optimizer))
            yield
            loop.close()

    def loss_of(self, model: nn.Module) -> float:
        """The judging loss of a copy."""
        with restore.in_mode(model, self.judge.mode):
            return self.judge.on(model).value()

    def lane(self, lr: float, schedule: Schedule | None = None) -> Lane:
        """A new lane from the start, under a schedule of its own or the rehearsal's."""
        schedule = schedule or self.schedule
        return Lane(lr, schedule, *self.copies(lr, schedule), self.start, self._held)

    def copies(self, lr: float, schedule: Schedule) -> tuple[nn.Module, torch.optim.Optimizer]:
        """A model and its optimizer as they are before the first update; gradient scalers as at the start, too."""
        model, optimizer = copied(self.what, self.model, self.optimizer)
        schedule.put(optimizer, lr, 0)
        self.scalers.put(self._held)
        return model, optimizer

    def run(self, lane: Lane, until: int, *, looks: int = 3) -> None:
        """Train a lane until it has taken `until` steps or diverged, with so many looks at the loss.

        They are spread evenly over the second half of the way; the last, or only one, is at its end.
        """
        self.scalers.put(lane.held)
        try:
            self._run(lane, until, {until - i * until // (2 * max(looks - 1, 1)) for i in range(looks)})
        finally:
            lane.held = self.scalers.read()

    def _run(self, lane: Lane, until: int, due: set[int]) -> None:
        while lane.step < until and not lane.diverged and lane.copies is not None:
            self.budget.take()
            with spent(GRADIENT):
                value = self._step(lane, *lane.copies)
            lane.step += 1
            if math.isnan(self.first):
                self.first = value
            far = _WILD * max(abs(self.first), self.fall, 1e-12)
            if value < -far:
                raise Bottomless(unbounded(lane.lr, self.start, value, lane.step - 1))
            odd = lane.step == 1 and self.loop is not None and math.isnan(value)  # whatever the lr: it has not told yet
            if odd and math.isfinite(self.loss_of(lane.copies[0])):
                raise InvalidValue(
                    f"{self.what}: loop= returned nan as the batch's loss, and the model that it trained has a finite "
                    "one; let it return the loss that it went down by"
                )
            wild = not value <= far
            if wild or lane.step in due:
                loss = math.inf if wild else self.loss_of(lane.copies[0])  # first, since it may be interrupted
                lane.points.append(lane.step)
                lane.losses.append(loss)
                lane.diverged = not math.isfinite(lane.losses[-1])

    def _step(self, lane: Lane, model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
        """One training step of a lane as the user's loop takes it; the mini-batch's loss before it."""
        batch = self.stream[lane.step]
        restore.seed_all(self.seed + lane.step)
        lane.schedule.put(optimizer, lane.lr, lane.step)
        return self.take(model, optimizer, batch)


def unbounded(lr: float, start: float, end: float, updates: int) -> str:
    """What to say of a loss that has no floor."""
    return (
        f"the loss is unbounded: at lr {lr:.3g} it went from {start:.4g} to {end:.3g} within {in_words(updates)} and "
        f"falls on, so that no lr is right; {GIVE_A_FLOOR}"
    )


def held_out(objective: Objective, data: Any) -> Objective:
    """The objective's loss on other data in eval mode, as a validation loss is taken, batches weighed as its own are.

    A list of weights is that of its own batches: then others count by their samples.
    """
    given = {name: value for name, value in objective.batches.given.items() if not isinstance(value, Sequence)}
    other = objective.over(data, **given)
    other.mode = "eval"
    return other


def probe_of(objective: Objective) -> tuple[Objective, bool]:
    """The objective on at most PROBE_BATCHES of its batches, evenly spread; and whether those are all."""
    weights = objective.weights
    if len(weights) <= PROBE_BATCHES:
        return objective, True
    chosen = {round(i * (len(weights) - 1) / (PROBE_BATCHES - 1)) for i in range(PROBE_BATCHES)}
    with objective.session():
        part = [(b, w) for i, (b, w) in enumerate(zip(objective.batches, weights, strict=True)) if i in chosen]
    return objective.over([b for b, _ in part], [w for _, w in part]), False
