"""`Monitor`: watches a training run's curvature and never changes the run."""

import os
import time
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from eigenstep.bridge.param_groups import lr_of, lr_ratios, params_of, settings_of
from eigenstep.errors import InvalidValue, Unsupported, refuse_count, refuse_seed
from eigenstep.lines import Record
from eigenstep.objective import Objective
from eigenstep.stability.copies import refuse_unseen
from eigenstep.training.alarms import Alarm, RatioWatch
from eigenstep.training.anomaly import Anomalies
from eigenstep.training.hooks import Handle
from eigenstep.training.log.outlets import Outlets
from eigenstep.training.log.recorded import Recorded
from eigenstep.training.norms import Norms, loss_number
from eigenstep.training.probe import Cadence, Probe, Reading

LR_CHANGE = 1.5  # a factor by which lr moves since the last measurement that calls for a new one


class Monitor(Recorded):
    """Record every update of a training run, and at intervals how far its optimizer stands from the stability edge.

    objective: the probe, its data fixed (a few hundred samples will do); its model is the one that trains. every: the
    fewest updates between two measurements; `budget`: the part of the run's time that they may take, which wins over
    `every` (`notes` says so; 1 lifts it). The first `dense` updates are all measured, beside the budget.
    log: a file for JSON lines, continued if it exists. writer: a TensorBoard SummaryWriter, or a function (step, dict).

    It attaches itself to the optimizer's step hooks; each update gives a record {step, time, lr, loss, grad_norm,
    update_norm}: the lr that the update used, the gradient's norm as the optimizer saw it (after clipping), the norm
    of the change of the weights. Measured fields (stability_ratio, ratio_low, ratio_high, sharpness,
    preconditioned_sharpness, max_stable_lr, provisional, certified, products, probe_loss, layers, seconds) describe the
    state just before that update: its weights, its lr, the second moments found. `step(loss)` hands over the batch's
    loss of the update just taken, or, called before, of the one to come; several losses (accumulation) are averaged.
    Alarms go to `alarms`, to the log, and to Python's logger 'eigenstep'. records: the last `history` ones.

    Training gives bit for bit the same weights with it and without. Raises what the first measurement raises, and
    BadFile for a log that cannot be written or that another monitor holds; from then on nothing of its own ends the
    run: a full disk, a deleted folder, a writer that raises are told once, in `notes` and by the logger.

    >>> model = torch.nn.Linear(2, 1)
    >>> loss = lambda model, x: (model(x) ** 2).mean()
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> with Monitor(Objective(model, loss, torch.eye(2)), optimizer) as monitor:
    ...     for _ in range(3):
    ...         optimizer.zero_grad()
    ...         value = loss(model, torch.eye(2))
    ...         value.backward()
    ...         optimizer.step()
    ...         monitor.step(value)
    >>> [record["step"] for record in monitor.records], round(monitor.records[0]["sharpness"], 6)
    ([1, 2, 3], 3.0)
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        every: int = 100,
        budget: float = 0.02,
        *,
        dense: int = 20,
        log: str | os.PathLike[str] | None = None,
        writer: Any = None,
        history: int = 100_000,
        seed: int = 0,
        hooks: bool = True,
    ) -> None:
        if not isinstance(objective, Objective):
            raise Unsupported(
                f"Monitor: objective is a {type(objective).__name__}; an Objective(model, loss, data) is needed"
            )
        for name, count, least in (("every", every, 1), ("dense", dense, 0), ("history", history, 1)):
            refuse_count("Monitor", name, count, least)
        if isinstance(budget, bool) or not isinstance(budget, (int, float)) or not 0 < budget <= 1:
            raise InvalidValue(f"Monitor: budget={budget!r} must lie in (0, 1]; .02 is two per cent of the run's time")
        refuse_seed("Monitor", seed)
        inner = getattr(optimizer, "optimizer", None)
        self.optimizer = inner if isinstance(inner, torch.optim.Optimizer) else optimizer
        refuse_unseen("Monitor", objective, self.optimizer)
        self.objective = objective
        self.every, self.budget = every, budget
        self.count = 0
        self.alarms: list[Alarm] = []
        self.probe = Probe(objective, self.optimizer, seed)
        self.cadence = Cadence(every, budget, dense)
        self._norms = Norms(dict.fromkeys(params_of(self.optimizer)))
        self._records: deque[Record] = deque(maxlen=history)
        self._began = time.perf_counter()
        self._held: list[float] = []  # losses handed over since the last update
        self._driven = not hooks  # by an adapter, whose losses may come late
        self._fed: bool | None = None  # whether losses are handed over, once known: else no record waits for one
        self._next: Record | None = None  # the update under way
        self._pending: Record | None = None  # the update taken, its loss unknown as yet
        self._last: Record | None = None  # the last measured record
        self._settings: tuple[Any, ...] | None = None
        self._ahead: tuple[tuple[Any, ...], Reading] | None = None  # measured already, for the update to come
        self._ratios, self._anomalies = RatioWatch(), Anomalies(self.probe)
        self._handle: Handle | None = None
        self._proven = False  # a measurement was made: what fails from then on does not end the run
        self._out = Outlets(log, writer, self._header())
        self.notes = self._out.notes
        if self._out.log is not None:
            self.count = self._out.log.last
            self._records.extend(r for r in self._out.log.earlier if "grad_norm" in r)
        if hooks:
            self.attach()

    @property
    def records(self) -> list[Record]:
        """A record for each update, the newest last; of an update whose loss has not been handed over, loss is None."""
        return [*self._records, *([self._pending] if self._pending is not None else [])]

    def attach(self) -> "Handle":
        """Watch the optimizer through its step hooks, as from construction on; the handle's remove() ends it."""
        if self._handle is None:
            self._handle = Handle(self)
        return self._handle

    def close(self) -> None:
        """End watching and write out what is left; records stay."""
        if self._handle is not None:
            self._handle.remove()
        with self._out.observing(self._proven):
            self._settle()
        self._out.close()

    def __enter__(self) -> Self:
        """Watch."""
        self.attach()
        return self

    def __exit__(self, *_: TracebackType | type[BaseException] | BaseException | None) -> None:
        """Close."""
        self.close()

    def step(self, loss: Tensor | float | None = None) -> None:
        """Hand over the loss of the update just taken, or of the one to come: once an update, or once a micro-batch.

        Raises InvalidValue for what is no number, nor a tensor that holds one.
        """
        self._fed = True
        if loss is not None:
            self._held.append(loss_number(loss))
        if self._pending is not None:
            with self._out.observing(self._proven):
                self._settle()

    def measure(self, *, confirm: bool | None = None) -> Reading:
        """Measure now, whatever the budget says; the next update's record will hold it. Nothing else is changed.

        confirm: whether it is to be certified; by default one in ten is.
        """
        certified = self.probe.confirms if confirm is None else confirm
        reading = self.probe.measure(confirm=certified)
        self._ahead, self._proven = (self._state(), reading), True
        self.cadence.took(self.count + 1, reading.seconds, certified=certified)
        return reading

    def before_update(self) -> None:
        """Note the state before an update, measuring it if that is due; the hooks call this."""
        with self._out.observing(self._proven):
            self._before()

    def after_update(self) -> None:
        """Complete the record of an update; the hooks call this."""
        with self._out.observing(self._proven):
            self._complete()

    def _before(self) -> None:
        began = time.perf_counter()
        if self._pending is not None:
            self._fed = self._driven
            self._settle()
        step, lr, settings = self.count + 1, lr_of(self.optimizer), settings_of(self.optimizer)
        urgent = self._moved(lr, settings)
        self._settings = settings
        record: Record = {"step": step, "time": 0.0, "lr": lr, "loss": None, "grad_norm": None, "update_norm": None}
        self._next = record
        spent = 0.0
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == self._state():
            self._take(record, ahead[1])
        elif self.cadence.due(step, urgent, began):
            reading = self._measured(record, began)
            spent = time.perf_counter() - began
            self._take(record, reading)
        elif self.cadence.postponed == 1:
            self._out.note(step, self.cadence.words(step, began))
        self._norms.before()
        self.cadence.kept(step, time.perf_counter() - began - spent)

    def _complete(self) -> None:
        if self._next is None:
            return
        began = time.perf_counter()
        record, self._next = self._next, None
        record["grad_norm"], record["update_norm"] = self._norms.after()
        record["time"] = round(began - self._began, 6)
        self.count = record["step"]
        self._pending = record
        if self._held or self._fed is False:
            self._settle()
        self.cadence.kept(record["step"], time.perf_counter() - began)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs: plain numbers. The next measurement after it begins cold, and certified."""
        return {
            "count": self.count,
            "time": time.perf_counter() - self._began,
            **self.cadence.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken. What the log holds of later updates is voided, not deleted."""
        clock = time.perf_counter()
        self._began = clock - float(state["time"])
        self.cadence.load_state_dict(state, clock)
        self.resume_at(int(state["count"]))

    def resume_at(self, count: int) -> None:
        """Go on after update `count`, as `load_state_dict` does, where only the number is known."""
        self.count = count
        kept = [r for r in self._records if r["step"] <= count]
        self._records.clear()
        self._records.extend(kept)
        if self._out.log is not None and self._out.log.last > count:
            self._out.record({"resumed": count}, now=True)

    def _measured(self, record: Record, clock: float) -> Reading:
        """Measure as is due: certified in its turn and where an alarm would come of it, if the budget pays for that."""
        step, certified = record["step"], self.probe.confirms and self.cadence.affordable(clock, certified=True)
        reading = self.probe.measure(confirm=certified)
        self.cadence.took(step, reading.seconds, certified=certified)
        unsure = reading.limit is not None and not reading.limit.certified
        surer = unsure and self.cadence.affordable(time.perf_counter(), certified=True)
        if surer and self._ratios.suspects({**record, **reading.as_record(record["lr"])}):
            reading = self.probe.measure(confirm=True)
            self.cadence.took(step, reading.seconds, certified=True)
        return reading

    def _take(self, record: Record, reading: Reading) -> None:
        """Put a measurement into the record of the update under way, and look at it."""
        record |= reading.as_record(record["lr"]) | self._set_to()
        self._anomalies.measured(record)
        alarm = self._ratios.look(record)
        if alarm is not None:
            self._raise(alarm)
        if record["stability_ratio"] is not None:
            self._last = record
        self._out.measured(record)
        self._proven = True

    def _after(self) -> Record:
        """The state after the update under judgement, measured at once; empty where the budget is overdrawn."""
        if not self.cadence.affordable(time.perf_counter(), credit=True):
            return {}
        reading = self.measure(confirm=False)
        lr = lr_of(self.optimizer)
        return {"step": self.count + 1, "lr": lr, **reading.as_record(lr), **self._set_to()}

    def _settle(self) -> None:
        """Close the pending record: its loss, its alarms, its line in the log."""
        record, self._pending = self._pending, None
        if record is None:
            return
        if self._held:
            record["loss"] = sum(self._held) / len(self._held)
            self._held.clear()
        self._records.append(record)
        self._out.record(record, now="stability_ratio" in record)
        alarm = self._anomalies.look(record, lambda: self._norms.weights, self._last, self._after)
        if alarm is not None:
            self._raise(alarm)

    def _raise(self, alarm: Alarm) -> None:
        self.alarms.append(alarm)
        self._out.alarm(alarm)

    def _moved(self, lr: float, settings: tuple[Any, ...]) -> bool:
        """Whether the optimizer was set anew since the last measurement: its lr by LR_CHANGE, or anything else."""
        if self._settings is not None and settings != self._settings:
            return True
        known = self._last["lr"] if self._last else 0.0
        return lr > 0 and not known / LR_CHANGE <= lr <= known * LR_CHANGE

    def _state(self) -> tuple[Any, ...]:
        """What a measurement depends on, but for a common factor of the lr."""
        versions = tuple(p._version for p in self._norms.params)
        return settings_of(self.optimizer), lr_ratios(self.optimizer), versions, self.count
