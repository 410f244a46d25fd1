"""What a monitor has recorded, as a result: its file is its log, and loading one gives a `Log`."""

import os
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch

from eigenstep.bridge import rules_told
from eigenstep.bridge.param_groups import described
from eigenstep.errors import BadFile
from eigenstep.files import shown
from eigenstep.lines import Record
from eigenstep.training.alarms import Alarm
from eigenstep.training.log.outlets import Outlets
from eigenstep.training.log.record import Log, read_log
from eigenstep.training.postmortem import Postmortem, after_the_fact
from eigenstep.training.probe import Cadence

if TYPE_CHECKING:
    from pandas import DataFrame


class Recorded:
    """The results' methods of whatever has `records`, `alarms`, `notes` and a header."""

    kind = Log.kind
    alarms: list[Alarm]
    notes: list[str]
    count: int
    every: int
    budget: float
    optimizer: torch.optim.Optimizer
    cadence: Cadence
    _out: Outlets

    @property
    def records(self) -> list[Record]:
        """A record for each update."""
        raise NotImplementedError

    @property
    def measured(self) -> list[Record]:
        """The records of updates before which the curvature was measured."""
        return [r for r in self.records if "stability_ratio" in r]

    def diagnose(self) -> Postmortem:
        """Return when the ratio crossed 1, what the loss did then, what was behind it, and what to change."""
        return after_the_fact(self.records, self.alarms)

    def plot(self, ax: Any = None) -> Any:
        """Draw loss, sharpness with its limit, ratio and lr over the updates; return four axes, or the one given."""
        return self.so_far().plot(ax)

    def _set_to(self) -> dict[str, Any]:
        """What the optimizer is set to, in words and as each param group's rule."""
        return {"settings": described(self.optimizer), "rules": list(rules_told(self.optimizer))}

    def _header(self) -> dict[str, Any]:
        return {
            "eigenstep": version("eigenstep"),
            "torch": torch.__version__,
            "optimizer": type(self.optimizer).__name__,
            **self._set_to(),
            "every": self.every,
            "budget": self.budget,
            "dense": self.cadence.dense,
        }

    def so_far(self) -> Log:
        """Return all that was recorded so far as a Log, which is what `save` writes and `load` reads."""
        lines = [*self.records, *(alarm.as_record() for alarm in self.alarms)]
        notes = [{"step": self.count, "note": note} for note in self.notes]
        return Log.of(self._header(), [*sorted(lines, key=lambda line: line["step"]), *notes])

    def as_dict(self) -> dict[str, Any]:
        """Return the records so far as plain data for JSON; numbers that are not finite as text."""
        return self.so_far().as_dict()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the records so far as a log, whole or not at all. Raises BadFile when that is not possible.

        The model and the optimizer are not in it: `state_dict` is what a resumed run needs.
        """
        log = self._out.log
        if log is not None and os.path.realpath(path) == os.path.realpath(log.path):
            raise BadFile(f"{shown(path)}: the monitor keeps its own log there already; save to another file")
        self.so_far().save(path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Log:
        """Read a monitor's log as a Log: records, alarms, plot, diagnose. Raises BadFile for any other file."""
        return read_log(path)

    def to_frame(self) -> "DataFrame":
        """Return a row for each update as a pandas DataFrame. Raises Unsupported where pandas is not installed."""
        return self.so_far().to_frame()

    def __str__(self) -> str:
        """How far the run has come, and its last measured numbers."""
        return str(self.so_far())

    def __repr__(self) -> str:
        """One line."""
        return repr(self.so_far()).replace("Log", type(self).__name__, 1)

    def _repr_html_(self) -> str:
        """The same for a notebook."""
        return self.so_far()._repr_html_()
