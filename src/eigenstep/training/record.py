"""The monitor's log: JSON lines, an envelope first; readable after a cut at any byte, continued by a resumed run."""

import json
import math
import os
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eigenstep.errors import BadFile, Unsupported
from eigenstep.spectrum import FORMAT, VERSION, jsonable

KIND = "monitor"
FLUSH = 1.0  # seconds: at most what a killed run loses of its plain records; measured ones and alarms go out at once
KEYS = {
    "curvature/sharpness": "sharpness",
    "curvature/preconditioned_sharpness": "preconditioned_sharpness",
    "curvature/stability_ratio": "stability_ratio",
    "curvature/max_stable_lr": "max_stable_lr",
    "curvature/critical_sharpness": "critical_sharpness",
    "curvature/seconds": "seconds",
}
Record = dict[str, Any]
Write = Callable[[int, dict[str, float]], object]
_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
_NUMBERS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_TEXTS = {"alarm", "sentence", "note", "reason", "cause", "driver"}


@dataclass(frozen=True)
class Log:
    """What a log holds.

    header: its envelope. records: whole ones, in order; of updates that a resumed run took again, the later ones. torn:
    whether a last, incomplete line was left out.
    """

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


def read_log(path: str | os.PathLike[str]) -> Log:
    """Read a monitor's log, also one that was cut off in the middle of a line.

    Raises BadFile for a file that is none, whose first line is incomplete, or that is damaged before its end.
    """
    header, lines, whole, size = _scan(Path(path))
    if header is None:
        raise BadFile(f"{path}: the first line of the log is incomplete; the run ended before it had recorded anything")
    return Log(header, _effective(lines), whole < size)


class LogWriter:
    """Appends records to a log. A file that exists is continued after its last whole record; `last` is its last step.

    The file is open only while it is written to. What is still unwritten when the program ends goes out then.
    Raises BadFile for a path that cannot be written, or a file that is no such log.
    """

    def __init__(self, path: str | os.PathLike[str], header: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self._lines: list[str] = []
        self.earlier: tuple[Record, ...] = ()
        before = _scan(self.path) if self.path.exists() and self.path.stat().st_size else None
        try:
            if before is None or before[0] is None:
                self.path.write_bytes(b"")
                self._lines.append(_encode(jsonable({"format": FORMAT, "version": VERSION, "kind": KIND, **header})))
            else:
                with self.path.open("r+b") as file:
                    file.truncate(before[2])
                    file.seek(before[2] - 1)
                    if file.read(1) != b"\n":
                        file.write(b"\n")
                self.earlier = _effective(before[1])
            self.last = max((int(r["step"]) for r in self.earlier if "step" in r), default=0)
            self.flush()
        except OSError as error:
            raise BadFile(
                f"{path}: cannot be written ({error.strerror}); choose a folder that exists and is writable"
            ) from error
        weakref.finalize(self, _append, self.path.absolute(), self._lines)

    def write(self, record: Record, *, now: bool = False) -> None:
        """Append a record; `now` hands it to the system at once."""
        try:
            self._lines.append(_encode(record))
        except ValueError:  # a number that JSON does not have
            self._lines.append(_encode(jsonable(record)))
        if now or time.monotonic() - self._flushed > FLUSH:
            self.flush()

    def flush(self) -> None:
        """Hand everything to the system."""
        _append(self.path, self._lines)
        self._flushed = time.monotonic()


def _append(path: Path, lines: list[str]) -> None:
    if lines:
        with path.open("ab") as file:
            file.write(("\n".join(lines) + "\n").encode())
        lines.clear()


def from_json(record: Mapping[str, Any]) -> Record:
    """Undo `jsonable` for a record: 'nan', 'inf' and '-inf' are numbers again."""
    return {k: _NUMBERS.get(v, v) if isinstance(v, str) and k not in _TEXTS else v for k, v in record.items()}


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


def _scan(path: Path) -> tuple[dict[str, Any] | None, list[Record], int, int]:
    """The header (None if cut), the whole records, the bytes up to the end of the last whole one, and all bytes."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadFile(f"{path}: cannot be read ({error.strerror}); check the path") from error
    parsed: list[Record] = []
    place = 0
    lines = content.split(b"\n")
    for i, line in enumerate(lines):
        last = i == len(lines) - 1
        try:
            value = json.loads(line)
        except ValueError:  # json's and unicode's errors alike
            value = None
        if not isinstance(value, dict):
            if last:
                break  # nothing, or a record cut off
            raise BadFile(f"{path}: line {i + 1} is not a record; it is no log of a monitor, or a damaged one")
        if not parsed:
            _refuse_other(path, value)
        parsed.append(value)
        place += len(line) + (0 if last else 1)
    if not parsed:
        whole = _encode({"format": FORMAT})[:-1].encode()
        if not content.startswith(whole[: len(content)]):
            raise BadFile(f"{path}: not a monitor's log; its first line is no envelope of {FORMAT}")
        return None, [], 0, len(content)
    return parsed[0], parsed[1:], place, len(content)


def _refuse_other(path: Path, header: Mapping[str, Any]) -> None:
    if header.get("format") != FORMAT:
        raise BadFile(f"{path}: not a file of {FORMAT}; its first line has no 'format': '{FORMAT}'")
    if header.get("version") != VERSION:
        raise BadFile(f"{path}: version {header.get('version')!r} of the format; this program reads {VERSION}")
    if header.get("kind") != KIND:
        raise BadFile(f"{path}: holds a {header.get('kind')!r}, a {KIND!r} is needed here")


def _effective(lines: list[Record]) -> tuple[Record, ...]:
    """Drop what a resumed run took again: {"resumed": k} voids the earlier records after step k."""
    kept: list[Record] = []
    for line in lines:
        if "resumed" in line:
            kept = [r for r in kept if r.get("step", 0) <= line["resumed"]]
        else:
            kept.append(from_json(line))
    return tuple(kept)
