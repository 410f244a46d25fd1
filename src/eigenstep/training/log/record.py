"""The monitor's log: JSON lines, an envelope first; readable after a cut at any byte, continued by a resumed run."""

import json
import math
import os
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from eigenstep.errors import BadFile, Unsupported
from eigenstep.files import LOG, enveloped, jsonable, read_bytes, shown, write_whole
from eigenstep.lines import Record, from_json, scan
from eigenstep.plain import plain
from eigenstep.result import Result, Words, as_frame, number
from eigenstep.training.log.append import Appended

if TYPE_CHECKING:
    from pandas import DataFrame

FLUSH = 1.0  # seconds: at most what a killed run loses of its plain records; measured ones and alarms go out at once
KEYS = {
    "curvature/sharpness": "sharpness",
    "curvature/preconditioned_sharpness": "preconditioned_sharpness",
    "curvature/stability_ratio": "stability_ratio",
    "curvature/max_stable_lr": "max_stable_lr",
    "curvature/critical_sharpness": "critical_sharpness",
    "curvature/seconds": "seconds",
}
Write = Callable[[int, dict[str, float]], object]
_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":"), default=str).encode


@dataclass(frozen=True, repr=False)
class Log(Result):
    """What a log holds.

    - header: its envelope.
    - records: whole ones, in order; of updates that a resumed run took again, the later ones.
    - torn: whether a last, incomplete line was left out.
    """

    kind: ClassVar[str] = LOG

    header: Mapping[str, Any]
    records: tuple[Record, ...] = field(repr=False)
    torn: bool = False

    @property
    def measured(self) -> tuple[Record, ...]:
        """The records of steps at which the curvature was measured."""
        return tuple(r for r in self.records if "stability_ratio" in r)

    @property
    def alarms(self) -> tuple[Record, ...]:
        """The alarms."""
        return tuple(r for r in self.records if "alarm" in r)

    @property
    def updates(self) -> tuple[Record, ...]:
        """The records of updates, measured or not."""
        return tuple(r for r in self.records if "lr" in r)

    @classmethod
    def of(cls, header: Mapping[str, Any], records: Iterable[Record]) -> Self:
        """Return a log of some records, with a header to which the envelope is added."""
        return cls(plain(enveloped(LOG, header)), tuple(records))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the log as a monitor does, JSON lines, but whole or not at all. Raises BadFile if not possible."""
        write_whole(path, "".join(_encode(plain(line)) + "\n" for line in (self.header, *self.records)))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a monitor's log, also one that was cut off in the middle of a line; raises as `read_log`."""
        header, lines, whole, size = scan(path, read_bytes(path))
        if header is None:
            raise BadFile(f"{shown(path)}: the first line of the log is incomplete; the run ended before any record")
        return cls(header, _effective(lines), whole < size)

    def words(self) -> Words:
        """Return how far the run came, and its last measured numbers."""
        count, measured = len(self.updates), self.measured
        fate = f"{count:,} updates, {len(measured):,} measured, {len(self.alarms):,} alarms"
        told = ("step", "lr", "loss", "stability_ratio", "max_stable_lr", "sharpness", "preconditioned_sharpness")
        last = [(name, measured[-1].get(name)) for name in told] if measured else []
        rows = [(f"last measured {name}", f"{value:.6g}") for name, value in last if value is not None]
        ratio = f", ratio {number(measured[-1]['stability_ratio'])}" if measured else ""
        notes = [str(r[name]) for name in ("sentence", "note") for r in self.records if r.get(name)]
        who = f"{self.header.get('optimizer', 'optimizer')}: " if "optimizer" in self.header else ""
        return Words(f"{who}{fate}{ratio}", f"{who}{fate}", rows, notes=notes)

    def plot(self, ax: Any = None) -> Any:
        """Draw loss, sharpness, ratio and lr over the updates; return four axes, or the ratio on the one given."""
        from eigenstep.training.figure import draw_run

        return draw_run(self.updates, [r["step"] for r in self.alarms], ax)

    def to_frame(self) -> "DataFrame":
        """Return a row for each update as a pandas DataFrame. Raises Unsupported where pandas is not installed."""
        names = dict.fromkeys(name for record in self.updates for name in record)
        return as_frame(self, {name: [record.get(name) for record in self.updates] for name in names})


def read_log(path: str | os.PathLike[str]) -> Log:
    """Read a monitor's log, also one that was cut off in the middle of a line.

    Raises BadFile for a file that is none, whose first line is incomplete, or that is damaged before its end.
    """
    return Log.load(path)


class LogWriter:
    """Appends records to a log. A file that exists is continued after its last whole record; `last` is its last step.

    Only whole lines stay in the file. Once it is open nothing raises: what a full disk or a deleted folder does not
    take waits (see Appended), and `say` hears of it once. What is unwritten when the program ends goes out then.
    Raises BadFile for a path that cannot be written, a file that is no such log, or that another writer holds.
    """

    def __init__(
        self, path: str | os.PathLike[str], header: Mapping[str, Any], say: Callable[[str], object] = lambda note: None
    ) -> None:
        first = _encode(jsonable(enveloped(LOG, header)))
        self._said, self._say = False, say
        found: list[Record] = []

        def whole(file: Path) -> int:
            found[:] = (scanned := scan(file, read_bytes(file)))[1]
            return scanned[2]

        self._file = Appended(path, first, whole)
        self.path = self._file.path
        self.earlier = _effective(found)
        self.last = max((int(r["step"]) for r in self.earlier if "step" in r), default=0)
        self._flushed = time.monotonic()
        weakref.finalize(self, self._file.close)

    def write(self, record: Record, *, now: bool = False) -> None:
        """Append a record; `now` hands it to the system at once."""
        try:
            self._file.add(_encode(record))
        except ValueError:  # a number that JSON does not have
            self._file.add(_encode(jsonable(record)))
        if now or time.monotonic() - self._flushed > FLUSH:
            self.flush()

    def flush(self) -> None:
        """Hand everything to the system."""
        self._hear(self._file.flush())
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Hand everything over and let another writer have the file; a later record opens it again."""
        self._hear(self._file.close())

    def _hear(self, trouble: str | None) -> None:
        if trouble is not None and not self._said:
            self._said = True
            self._say(f"the log {shown(self.path)} cannot be written ({trouble}); what it lacks goes out once it can")


def writer_of(writer: Any) -> Write | None:
    """Return a function (step, {key: number}) for a TensorBoard SummaryWriter, or any callable of that shape.

    Raises Unsupported for anything else.
    """
    if writer is None:
        return None
    add = getattr(writer, "add_scalar", None)
    if add is not None:

        def write(step: int, values: dict[str, float]) -> None:
            for key, value in values.items():
                add(key, value, step)

        return write
    if callable(writer):
        return writer  # type: ignore[no-any-return]
    raise Unsupported(
        f"Monitor: writer is a {type(writer).__name__}; a SummaryWriter or a function (step, dict) is needed"
    )


def scalars(record: Record) -> dict[str, float]:
    """Return a measured record under the writers' keys; what is unknown or not finite is left out.

    >>> scalars({"step": 3, "stability_ratio": 0.5, "sharpness": None, "seconds": 0.1})
    {'curvature/stability_ratio': 0.5, 'curvature/seconds': 0.1}
    """
    found = {key: record.get(name) for key, name in KEYS.items()}
    return {key: float(v) for key, v in found.items() if v is not None and math.isfinite(v)}


def _effective(lines: list[Record]) -> tuple[Record, ...]:
    """Drop what a resumed run took again: {"resumed": k} voids the earlier records after step k."""
    kept: list[Record] = []
    for line in lines:
        if "resumed" in line:
            kept = [r for r in kept if r.get("step", 0) <= line["resumed"]]
        else:
            kept.append(from_json(line))
    return tuple(kept)
