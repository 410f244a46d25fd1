"""The monitor as a callback of Hugging Face's Trainer; imports transformers."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset
from transformers import TrainerCallback

from eigenstep.errors import Unsupported, refuse_count
from eigenstep.objective import Objective
from eigenstep.training.log.record import scalars
from eigenstep.training.monitor import Monitor


class MonitorCallback(TrainerCallback):
    """Watch a Trainer's run: Trainer(..., callbacks=[MonitorCallback()]).

    samples: how many rows of the training set the probe holds, evenly spaced; the Trainer's collator puts them
    together, and its loader is not touched. data, loss: the probe and (model, batch) -> scalar, where these are not
    what is wanted: the default is the model's own .loss, without the Trainer's label smoothing. options: the Monitor's
    (every, budget, log, writer, ...).
    Measured values go to the writer (a SummaryWriter on the run's folder joins the Trainer's own curves), to
    state.log_history, and into the next logs. The loss of a record is the Trainer's logged one: the mean since the log
    before, so that logging_steps=1 gives each its own. `monitor` is None before training.

    One process: Unsupported otherwise. Curvature is measured outside autocast, in the weights' dtype.
    """

    def __init__(
        self,
        data: Any = None,
        loss: Callable[[Any, Any], Tensor] | None = None,
        *,
        samples: int = 64,
        **options: Any,
    ) -> None:
        refuse_count("MonitorCallback", "samples", samples)
        self.data, self.loss, self.samples, self.options = data, loss, samples, options
        self.monitor: Monitor | None = None
        self._values: dict[str, float] = {}
        self._reported = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Build the probe from the training set."""
        if args.world_size > 1 or args.n_gpu > 1:
            raise Unsupported(
                "MonitorCallback: several processes or devices train together; products of their Hessian need "
                "communication between them, which is not supported: train on one, or measure on a copy"
            )
        data = self.data if self.data is not None else probe_of(kwargs["train_dataloader"], self.samples)
        objective = Objective(kwargs["model"], self.loss or own_loss, data)
        self.monitor = Monitor(objective, kwargs["optimizer"], hooks=False, **self.options)
        if state.global_step:
            self.monitor.resume_at(state.global_step)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure, if that is due, the state before the update."""
        if self.monitor is not None:
            self.monitor.before_update()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Complete the record, while the gradient is there."""
        if self.monitor is not None:
            self.monitor.after_update()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Put what was measured into the run's history."""
        record = self.monitor.records[-1] if self.monitor is not None and self.monitor.count else {}
        if "stability_ratio" in record and record["step"] > self._reported:
            self._reported, self._values = record["step"], scalars(record)
            state.log_history.append({**self._values, "step": state.global_step})

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Take the logged loss in; show the last measured values beside it."""
        if self.monitor is None or logs is None:
            return
        if "loss" in logs:
            self.monitor.step(float(logs["loss"]))
            logs.update(self._values)
            self._values = {}

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write out what is left."""
        if self.monitor is not None:
            self.monitor.close()


def probe_of(loader: Any, samples: int) -> DataLoader[Any]:
    """Return a loader of one batch, evenly spaced rows of a training loader's set; the loader is not iterated."""
    dataset = getattr(loader, "dataset", None)
    if dataset is None or isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise Unsupported("MonitorCallback: the training set has no rows to choose from; give data=, a few batches")
    count = min(samples, len(dataset))
    rows = [i * len(dataset) // count for i in range(count)]
    return DataLoader(Subset(dataset, rows), batch_size=count, collate_fn=loader.collate_fn)


def own_loss(model: Any, batch: Any) -> Tensor:
    """The model's own loss of a batch, moved to where the model is."""
    device = next(model.parameters()).device
    moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
    found: Tensor = model(**moved).loss
    return found
