"""A long call at work: what it has done, what is planned, how long that takes."""

import math
import statistics
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import perf_counter
from typing import Any, TypeVar

from eigenstep.errors import InvalidValue
from eigenstep.progress.display import OFTEN, Display
from eigenstep.progress.state import Progress, Watch, duration

T = TypeVar("T")
LONG = 10.0  # seconds from which work is announced: as long as one waits without turning to something else
SOON = 2.0  # seconds of work after which a display appears that nobody asked for; what is shorter needs none
SURE, FEW = 0.3, 8  # seconds of work, on so many batches, after which their median rate is believed; on fewer, SOON
COLD = 5.0  # a first batch of its kind that took less says nothing: much of it may be torch that begins
FAR = 4.0  # how many times longer it must be for a second line
DAY = 86400.0  # seconds of reading that nobody means to begin: a len() of 10**9 stands for 'endless'
FORWARD, GRADIENT, PRODUCT = 1.0, 3.0, 8.0  # costs on a batch, in forward passes; products 6 (kept graph) to 10


class Task:
    """A public call at work: what it has done, what is planned, and who is told. Made by `task`."""

    def __init__(self, what: str, watch: Watch | bool | None, shorter: str) -> None:
        self.shorter, self.display, self.began = shorter, Display(watch), perf_counter()
        self.now = Progress(what=what)
        self.ahead = 0.0  # seconds still to come, as far as they are planned
        self.most = math.inf  # seconds that the call keeps to
        self.before: list[int] = []  # for each call under way inside this one, the products before it
        self.inside = False  # whether it is made by another call, under a display of its own
        self._plan: tuple[float, float, str] = (0.0, 0.0, "")
        self._batches = 1
        self._worked = 0.0  # forward passes done,
        self._before = 0.0  # and those before the plan
        self._times: dict[float, deque[float]] = {}  # by cost, the seconds of the latest batches,
        self._spent: dict[float, float] = {}  # and of all
        self._looked = self.began
        self._reading = (self.began, 0)  # when the reading's clock began, and after which batch
        self._announced, self._phased, self._told_left = 0.0, False, False

    @property
    def outermost(self) -> bool:
        """Whether the call under way is the user's own: Ctrl-C is caught by no other, which would go on without it."""
        return not self.before and not self.inside

    def plan(self, each: float, assumed: str, fixed: float = 0.0) -> None:
        """State what will be done, in forward passes per batch of the data and in all, and the assumption in words.

        A call inside another one, which has a plan itself, changes nothing.
        """
        if not self.before or not self._plan[2]:
            self._plan, self._before = (each, fixed, assumed), self._worked

    def tell(self, **news: Any) -> None:
        """Take in news, fields of Progress; from a call inside another one its products and residual only."""
        if not self.before:
            self._phased = self._phased or "phase" in news
        elif self._phased:
            news = {k: v for k, v in news.items() if k in ("products", "residual")}
        if self.before and "products" in news:
            news["products"] += self.before[-1]
        if news.get("left", 0) is None:
            del news["left"]  # nothing new
        self._told_left = self._told_left or "left" in news
        self.now = self.now._replace(**news)
        self._show(self.now, event=True)

    def projected(self, done: int, total: int) -> float | None:
        """The seconds left if the rest takes as long, each, as what is done."""
        return (perf_counter() - self.began) * (total - done) / done if done else None

    def part(self, done: int, total: int, phase: str) -> None:
        """Begin part number `done`, from 0, of `total`."""
        self.tell(done=done + 1, total=total, unit="parts", phase=phase, residual=math.inf)

    def read(self, done: int, total: int | None, batches: int | None) -> None:
        """Say that `done` batches of about `total`, all passes counted, have been read; no more than a day's."""
        now = perf_counter()
        if done == 0 or (done == 1 and now - self._reading[0] < COLD):
            self._reading = (now, done)
        began, at = self._reading
        left = None
        if total is not None and now - began > SURE and done > at:
            each = (now - began) / (done - at)
            left = self.ahead = each * max(total - done, 0)
            if left > DAY:
                raise InvalidValue(
                    f"Objective: data: to read its {batches or total:,} batches would take about {duration(left)}; "
                    "give samples=, how many to take"
                )
            twice = "read twice to see that they repeat, " if total != batches else ""
            self._announce(f"{batches or total:,} batches, {twice}{each:.2g} s each time", "samples= on Objective")
        turn = done if batches is None else (done - 1) % batches + 1
        self._show(self.now._replace(phase="reading", batch=turn, batches=batches, left=left))

    def work(self, batch: int, batches: int, cost: float, seconds: float) -> None:
        """Say that `cost` forward passes on batch number `batch`, from 1, of a pass have taken `seconds`."""
        self._worked += cost
        self._batches = max(batches, self._batches)
        first = cost not in self._times
        times = self._times.setdefault(cost, deque(maxlen=99))
        if not first or seconds > COLD:
            times.append(seconds)
            self._spent[cost] = self._spent.get(cost, 0.0) + seconds
        if perf_counter() - self._looked < OFTEN:
            return
        self._looked = perf_counter()
        news: dict[str, Any] = {"batch": batch, "batches": batches}
        rate = self._rate()
        if rate is not None:
            each, fixed, assumed = self._plan
            planned = each * self._batches + fixed - (self._worked - self._before)
            left = max(self.most - (perf_counter() - self.began), 0.0)
            self.ahead = min(rate * max(planned, (batches - batch) * cost), left)
            news |= {} if self._told_left else {"left": self.ahead if planned > 0 else None}
            many = f"{self._batches:,} batches, " if self._batches > 1 else ""
            self._announce(f"{many}{assumed or 'one pass'}, {rate * cost:.2g} s per batch now", self.shorter)
        self.now = self.now._replace(**news)
        self._show(self.now)

    def _rate(self) -> float | None:
        """Seconds a forward pass, by the dearest work that was timed often or long enough; None if none was."""
        for cost in sorted(self._times, reverse=True):
            times = self._times[cost]
            if self._spent.get(cost, 0.0) > (SURE if len(times) >= FEW else SOON):
                return statistics.median(times) / cost
        return None

    def _show(self, now: Progress, event: bool = False) -> None:
        seconds = perf_counter() - self.began
        self.display.show(now._replace(seconds=seconds), event, seconds > SOON or seconds + self.ahead > LONG)

    def _announce(self, assumed: str, shorter: str) -> None:
        """Say once how long it will take, and again where that turns out far too short."""
        whole = perf_counter() - self.began + self.ahead
        if whole > max(LONG, FAR * self._announced):
            self._announced = whole
            self.display.say(f"{self.now.what}: about {duration(whole)} ({assumed}); shorter: {shorter}")


_current: ContextVar[Task | None] = ContextVar("eigenstep_task", default=None)


@contextmanager
def task(what: str, progress: Watch | bool | None = None, shorter: str = "samples= on Objective") -> Iterator[Task]:
    """What to enter around a public call's work: yields its Task, or that of the call around it if `progress` is None.

    progress: None shows long work on a terminal or in Jupyter, True all work, and as plain lines elsewhere, False
    none; a function is called with a Progress. Raises InvalidValue for anything else.
    """
    if not (progress is None or isinstance(progress, bool) or callable(progress)):
        raise InvalidValue(f"{what}: progress={progress!r} must be True, False, None or a function of a Progress")
    outer = _current.get()
    if outer is not None and progress is None:
        depth = len(outer.before)
        try:
            outer.before.append(outer.now.products)
            yield outer
        finally:
            del outer.before[depth:]
        return
    own = Task(what, progress, shorter)
    own.inside = outer is not None
    try:
        try:
            _current.set(own)
            yield own
            own.display.end(own.now._replace(seconds=perf_counter() - own.began))
        finally:
            _current.set(outer)
            own.display.close()
    finally:  # an interrupt may have cut the first short
        _current.set(outer)


def over(batches: Iterable[T], number: int, cost: float) -> Iterator[T]:
    """Yield the batches of one pass, and tell the call under way how fast the work on them goes."""
    now = _current.get()
    if now is None:
        yield from batches
        return
    last = perf_counter()
    for i, batch in enumerate(batches, 1):
        yield batch
        began, last = last, perf_counter()
        now.work(i, number, cost, last - began)


@contextmanager
def spent(cost: float) -> Iterator[None]:
    """What to enter around work of `cost` forward passes on one batch, which is told to the call under way."""
    began = perf_counter()
    yield
    if (now := _current.get()) is not None:
        now.work(1, 1, cost, perf_counter() - began)
