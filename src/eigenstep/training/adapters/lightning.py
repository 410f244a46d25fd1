"""The monitor as a Lightning callback; imports lightning.pytorch, or pytorch_lightning where that is in use."""

import contextlib
import copy
import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from eigenstep.errors import InvalidValue, Unsupported, refuse_count
from eigenstep.objective import Objective
from eigenstep.training.monitor import Monitor

_NAMES = ("lightning.pytorch", "pytorch_lightning")  # one project under two names, whose classes are not the same


def _bases() -> tuple[type, ...]:
    """The Callback classes of the packages in use: those imported already, else the first that is installed."""
    names = [name for name in _NAMES if name in sys.modules]
    for name in names or _NAMES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
            names = names or [name]
    if not names:
        raise ImportError("eigenstep.training.adapters.lightning needs Lightning: pip install lightning")
    return tuple(sys.modules[name].Callback for name in names)


class MonitorCallback(*_bases()):  # type: ignore[misc]
    """Watch a Lightning run: Trainer(callbacks=[MonitorCallback()]).

    data: the probe, as for Objective; by default the first `batches` training batches. loss: (module, batch) -> scalar;
    by default the module's own training_step, uncompiled and with its logging muted. One that keeps other state (a
    metric's, say) needs loss=. options: the Monitor's (every, budget, log, ...).
    Measured values go to the loggers at their own step, and through log_dict (for the progress bar and for other
    callbacks). The gradient is the one that the update used, after clipping. `monitor` is None before the first update.

    One optimizer, one process: Unsupported otherwise. Curvature is measured outside autocast, in the weights' dtype.
    """

    def __init__(
        self,
        data: Any = None,
        loss: Callable[[Any, Any], Tensor] | None = None,
        *,
        batches: int = 1,
        **options: Any,
    ) -> None:
        super().__init__()
        refuse_count("MonitorCallback", "batches", batches)
        self.data, self.loss, self.batches, self.options = data, loss, batches, options
        self.monitor: Monitor | None = None
        self._kept: list[Any] = []
        self._state: dict[str, Any] | None = None

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Refuse what cannot be watched."""
        if trainer.world_size > 1:
            raise Unsupported(
                f"MonitorCallback: {trainer.world_size} processes train together; products of their Hessian need "
                "communication between them, which is not supported: use devices=1, or measure on a copy"
            )
        if len(trainer.optimizers) != 1:
            raise Unsupported(
                f"MonitorCallback: the module has {len(trainer.optimizers)} optimizers; one is supported: make a "
                "Monitor for each by hand"
            )

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Keep the probe's batches; begin once they are there."""
        if self.monitor is not None:
            return
        if self.data is None and len(self._kept) < self.batches:
            self._kept.append(copy.deepcopy(batch))
        if self.data is None and len(self._kept) < self.batches:
            return
        data = self.data if self.data is not None else list(self._kept)
        optimizer = trainer.optimizers[0]
        objective = Objective(pl_module, self.loss or own_loss, data)
        self.monitor = Monitor(objective, optimizer, hooks=False, writer=self._hold, **self.options)
        self._held: dict[int, dict[str, float]] = {}
        if self._state is not None:
            self.monitor.load_state_dict(self._state)
        elif trainer.global_step:
            self.monitor.resume_at(trainer.global_step)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Measure, if that is due, the state before the update."""
        if self.monitor is not None:
            self.monitor.before_update()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Complete the record; hand what was measured to the loggers."""
        monitor = self.monitor
        if monitor is None:
            return
        value = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(value, Tensor):  # Lightning has divided it by the number of accumulated batches
            monitor.step(value.detach() * trainer.accumulate_grad_batches)
        monitor.after_update()
        for step, values in self._held.items():
            pl_module.log_dict(values, logger=False, rank_zero_only=True)
            if trainer.is_global_zero:
                for logger in trainer.loggers:
                    logger.log_metrics(values, step=step)
        self._held.clear()

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Write out what is left."""
        if self.monitor is not None:
            self.monitor.close()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs: plain numbers."""
        return {} if self.monitor is None else self.monitor.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the checkpoint was written."""
        self._state = state_dict or None

    def _hold(self, step: int, values: dict[str, float]) -> None:
        self._held[step] = values


def own_loss(module: Any, batch: Any) -> Tensor:
    """The loss of the module's own training_step, with its logging muted and nothing compiled."""
    with contextlib.ExitStack() as stack:
        for name in ("log", "log_dict"):
            stack.enter_context(_shadowed(module, name, lambda *_, **__: None))
        if getattr(module, "_compiler_ctx", None) is not None:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        out = type(module).training_step(module, batch, 0)
    found = out.get("loss") if isinstance(out, dict) else out
    if not isinstance(found, Tensor):
        raise InvalidValue("MonitorCallback: training_step returns no loss; give loss=, a function (module, batch)")
    return found


@contextlib.contextmanager
def _shadowed(module: Any, name: str, value: Any) -> Iterator[None]:
    """Put a value in an instance's place of a method, and take it away again."""
    vars(module)[name] = value
    try:
        yield
    finally:
        del vars(module)[name]
