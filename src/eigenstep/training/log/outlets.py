"""Where a monitor's records go besides memory: its log, a writer, Python's logger; what fails there is told once."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from eigenstep.lines import Record
from eigenstep.training.alarms import Alarm
from eigenstep.training.log.record import LogWriter, scalars, writer_of

_log = logging.getLogger("eigenstep")


class Outlets:
    """The log and the writer of a monitor, either of which may be None, and its notes.

    Raises BadFile for a log that cannot be written or that another monitor holds, Unsupported for a writer that is
    none. Later failures end no run: each kind gives one note, which the logger warns of.
    """

    def __init__(self, log: str | os.PathLike[str] | None, writer: Any, header: Mapping[str, Any]) -> None:
        self.notes: list[str] = []
        self._kinds: set[str] = set()
        self._write = writer_of(writer)
        self.log = LogWriter(log, header, lambda text: self._fail("log", text)) if log is not None else None

    def record(self, record: Record, *, now: bool = False) -> None:
        """Put a record into the log; `now` hands it to the system at once."""
        if self.log is not None:
            self.log.write(record, now=now)

    def measured(self, record: Record) -> None:
        """Give a measured record's numbers to the writer."""
        if self._write is None:
            return
        try:
            self._write(record["step"], scalars(record))
        except Exception as error:
            self._fail(
                "writer", f"the writer raised {type(error).__name__} ({error}); log and records go on without it"
            )

    def alarm(self, alarm: Alarm) -> None:
        """Put an alarm into the log and give its sentence to the logger."""
        _log.warning("%s", alarm.sentence)
        self.record(alarm.as_record(), now=True)

    def note(self, step: int, note: str) -> None:
        """Put a note into `notes` and the log, once."""
        if note not in self.notes:
            self.notes.append(note)
            self.record({"step": step, "note": note}, now=True)

    @contextmanager
    def observing(self, proven: bool) -> Iterator[None]:
        """Let nothing of the monitor's own end the run, once it is proven to work: what fails is told instead."""
        try:
            yield
        except Exception as error:
            if not proven:
                raise
            self._fail("record", f"an update was not recorded whole: {type(error).__name__} ({error})")

    def close(self) -> None:
        """Write out what waits, and let another writer have the log."""
        if self.log is not None:
            self.log.close()

    def _fail(self, kind: str, note: str) -> None:
        if kind not in self._kinds:
            self._kinds.add(kind)
            self.notes.append(note)
            _log.warning("%s", note)
