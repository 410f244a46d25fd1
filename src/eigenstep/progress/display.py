"""Who is told and how: a bar on a terminal, a line that changes in Jupyter, plain lines elsewhere."""

import importlib
import math
import os
import sys
from contextlib import suppress
from typing import Any

from eigenstep.progress.state import Progress, Watch

OFTEN = 0.1  # seconds between two drawings on a terminal
SELDOM = 2.0  # seconds between two plain lines, or two calls of a function between its own events
NO_STDERR = (OSError, ValueError, AttributeError)  # full, gone, closed, a stand-in that only writes: the work goes on


class Display:
    """The one place that draws: a bar on a terminal, a line that changes in Jupyter, plain lines elsewhere."""

    def __init__(self, watch: Watch | bool | None) -> None:
        self.watch, self.forced = watch, watch is True
        self._last, self._line = -math.inf, ""
        self._bar: Any = None  # rich's Progress, or Jupyter's handle, once there is one

    def show(self, now: Progress, event: bool, long: bool) -> None:
        """Draw, unless this was done a moment ago; a function is called at every event."""
        if self.watch is False:
            return
        if self.watch is not None and self.watch is not True:
            if event or now.seconds - max(self._last, 0.0) > SELDOM:
                self._last = now.seconds
                self.watch(now)
            return
        if not (self.forced or long):
            return
        if _notebook() is not None:
            self._in_notebook(now)
        elif _terminal():
            with suppress(*NO_STDERR):
                self._on_terminal(now)
        elif self.forced and (now.seconds - max(self._last, 0.0) > SELDOM or (event and now.unit == "parts")):
            self._last = now.seconds
            self.say(str(now))

    def say(self, line: str) -> None:
        """Write a line to stderr, above the bar if there is one; not at all with progress=False."""
        if self.watch is False or line == self._line:
            return
        self._line = line
        with suppress(*NO_STDERR):
            if self._bar is not None and _notebook() is None:
                self._bar.console.print(line, soft_wrap=True)
            elif sys.stderr is not None:
                print(line, file=sys.stderr, flush=True)

    def end(self, now: Progress) -> None:
        """Where plain lines were asked for, write the last one."""
        if self.forced and _notebook() is None and not _terminal() and (now.products or now.done):
            self.say(str(now._replace(left=None, batch=0)))

    def close(self) -> None:
        """Take the bar away."""
        bar, self._bar = self._bar, None
        if bar is not None and _notebook() is None:
            with suppress(*NO_STDERR):
                bar.stop()
        elif bar is not None:
            bar.update({"text/plain": ""}, raw=True)

    def _on_terminal(self, now: Progress) -> None:
        if self._bar is None:
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            # no thread of its own (loaders fork), and the user's stdout stays where it is
            quiet: dict[str, Any] = {"auto_refresh": False, "redirect_stdout": False, "redirect_stderr": False}
            columns = (BarColumn(bar_width=20), TextColumn("{task.description}", markup=False))
            self._bar = Bar(*columns, console=_console(), transient=True, **quiet)
            self._bar.add_task("", total=None)
            self._bar.start()
        elif now.seconds - self._last < OFTEN:
            return
        self._last = now.seconds
        self._bar.update(self._bar.task_ids[0], description=str(now), completed=now.share, total=1.0, refresh=True)

    def _in_notebook(self, now: Progress) -> None:
        text = {"text/plain": str(now)}
        if self._bar is None:
            self._bar = _notebook()(text, raw=True, display_id=True)
        elif now.seconds - self._last < SELDOM / 4:
            return
        else:
            self._bar.update(text, raw=True)
        self._last = now.seconds


def _console() -> Any:
    """A rich console on stderr, which heeds NO_COLOR."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def _terminal() -> bool:
    """Whether stderr is a terminal on which a line can be written over."""
    with suppress(*NO_STDERR):
        return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    return False


def _notebook() -> Any:
    """IPython's `display` inside a notebook's kernel; None elsewhere."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    return importlib.import_module("IPython.display").display
