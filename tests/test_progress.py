"""One progress for every long call: announced before it starts, drawn in one place, quiet when asked."""

import io
import itertools
import re
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import eigenstep as es
from eigenstep.curvature import Progress
from eigenstep.diagnosis.measurements import STAGES
from eigenstep.progress import work as tasks

MANY = 3750  # batches, as in the report of a call that gave no sign of life


class Enough(Exception):
    """Raised once what comes before the work has been seen."""


class Clock:
    """The time that the tasks see: it moves when the test says so, in jumps of `tick`."""

    def __init__(self) -> None:
        self.now, self.tick, self.until = 0.0, 0.0, float("inf")

    def __call__(self) -> float:
        return self.now

    def passes(self) -> None:
        self.now += self.tick
        if self.now >= self.until:
            raise Enough


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(tasks, "perf_counter", found)
    return found


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def objective(clock: Clock | None = None, number: int = 4) -> es.Objective:
    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        if clock is not None:
            clock.passes()
        return model(batch).square().mean()

    generator = torch.Generator().manual_seed(0)
    return es.Objective(network(), loss, [torch.randn(8, 3, generator=generator) for _ in range(number)])


def sgd(of: es.Objective) -> torch.optim.Optimizer:
    return torch.optim.SGD(of.model.parameters(), lr=0.01)


CALLS: dict[str, Callable[..., Any]] = {
    "measure": es.measure,
    "density": es.density,
    "trace": es.trace,
    "layers": es.layers,
    "shares": lambda o, **k: es.shares(o, torch.ones(21), **k),
    "finite_step": lambda o, **k: es.finite_step(o, torch.ones(21), [0.1], **k),
    "limit_now": lambda o, **k: es.limit_now(o, sgd(o), **k),
    "critical_sharpness": lambda o, **k: es.critical_sharpness(o, sgd(o), **k),
    "diagnose": lambda o, **k: es.diagnose(o, sgd(o), **k),
    "recommend": lambda o, **k: es.recommend(o, sgd(o), budget=200, **k),
}


@pytest.mark.parametrize("name", CALLS)
def test_long_work_is_announced_before_it_starts(name: str, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    clock.tick, clock.until = 0.04, 1.0
    with pytest.raises(Enough):
        CALLS[name](objective(clock, MANY))
    said = capsys.readouterr().err
    assert re.fullmatch(rf"{name}: about [\d,.]+ (s|min|h|days) \(3,750 batches, .*\); shorter: .*samples=.*\n", said)


@pytest.mark.parametrize("name", CALLS)
def test_what_is_short_says_nothing(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    CALLS[name](objective())
    assert capsys.readouterr().err == ""


def test_the_estimate_is_what_it_says(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """3,750 forward passes of .04 s and 24 * 3,750 evaluations of as much: the plan of one line, by hand."""
    clock.tick, clock.until = 0.04, 1.0
    with pytest.raises(Enough):
        es.finite_step(objective(clock, MANY), torch.ones(21), [0.1])
    whole = MANY * 3 * 0.04  # one evaluation here and two at +-.1; the check's own pass is made beside them
    minutes = float(re.findall(r"about ([\d.]+) min", capsys.readouterr().err)[0])
    assert minutes == pytest.approx(whole / 60, abs=1)


def test_it_is_said_again_only_where_it_turns_out_far_longer(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    clock.tick, clock.until = 0.01, 1.0
    of = objective(clock, 2000)
    with pytest.raises(Enough):
        es.critical_sharpness(of, sgd(of))
    assert capsys.readouterr().err.count("\n") == 1
    clock.now, clock.tick, clock.until = 0.0, 0.001, 1.0
    with tasks.task("a call") as work:
        work.plan(0.0, "a guess", 1000.0)
        for seconds in [0.05] * 10 + [0.06] * 120 + [1.0] * 120:
            clock.now += seconds
            work.work(1, 1, 1.0, seconds)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "about 50 s" in said[0]


def test_reading_is_announced_too(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    class Slow:
        def __len__(self) -> int:
            return MANY

        def __iter__(self) -> Iterator[Tensor]:
            for i in range(MANY):
                clock.passes()
                yield torch.full((2, 3), float(i))

    clock.tick, clock.until = 0.04, 1.0
    with pytest.raises(Enough):
        es.measure(es.Objective(network(), lambda m, x: m(x).square().mean(), Slow()))
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "3,750 batches, read twice" in said and "samples= on Objective" in said
    minutes = float(re.findall(r"about ([\d.]+) min", said)[0])
    assert minutes == pytest.approx(2 * MANY * 0.04 / 60, abs=0.51)


@pytest.mark.parametrize("name", CALLS)
def test_quiet_when_asked(name: str, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    clock.tick, clock.until = 0.04, 1.0
    with pytest.raises(Enough):
        CALLS[name](objective(clock, MANY), progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", CALLS)
def test_a_function_is_called_with_a_progress(name: str, clock: Clock) -> None:
    clock.tick = 0.5
    seen: list[Progress] = []
    CALLS[name](objective(clock, 2), progress=seen.append)
    assert seen and all(isinstance(p, Progress) and p.what == name for p in seen)
    assert all(a.seconds <= b.seconds and a.products <= b.products for a, b in itertools.pairwise(seen))
    assert all(p.left is None or p.left >= 0 for p in seen)


def test_measure_tells_each_product() -> None:
    seen: list[Progress] = []
    found = es.measure(objective(), progress=seen.append)
    assert [p.products for p in seen] == list(range(1, found.provenance["products"] + 1))
    assert seen[0].phase == "converge" and seen[-1].phase == "done"
    assert seen[-1].residual <= 0.01 and seen[-1].left == 0


def test_diagnose_tells_its_parts_and_recommend_its_steps() -> None:
    seen: list[Progress] = []
    of = objective()
    found = es.diagnose(of, sgd(of), progress=seen.append)
    assert {p.phase for p in seen} <= set(STAGES) and {p.total for p in seen} == {len(STAGES)}
    assert [p.done for p in seen] == sorted(p.done for p in seen) and seen[-1].products >= found.products / 2
    seen.clear()
    best = es.recommend(of, sgd(of), budget=60, progress=seen.append)
    assert seen[-1].done == best.steps and {(p.total, p.unit) for p in seen} == {(60, "training steps")}


def test_an_error_in_the_function_comes_through_and_leaves_no_task_behind() -> None:
    with pytest.raises(ZeroDivisionError):
        es.measure(objective(), progress=lambda p: 1 / 0)
    seen: list[Any] = []
    es.trace(objective(), 6, progress=seen.append)
    assert {p.what for p in seen} == {"trace"}  # a task left behind would speak for the calls after it


@pytest.mark.parametrize("bad", [1, "yes", [], 0.0])
def test_progress_is_none_a_bool_or_a_function(bad: Any) -> None:
    for name, call in CALLS.items():
        with pytest.raises(es.InvalidValue, match=f"{name}: progress="):
            call(objective(), progress=bad)


def test_asked_for_it_is_plain_lines_where_there_is_no_terminal(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    es.measure(objective(), progress=True)
    last = capsys.readouterr().err
    assert last.count("\n") == 1 and last.startswith("measure: ") and "products" in last and "\x1b" not in last
    clock.tick = 0.7
    es.measure(objective(clock), progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 2 and all(line.startswith("measure: ") for line in lines)


class Terminal(io.StringIO):
    """A terminal that remembers what was written."""

    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch: pytest.MonkeyPatch, **environment: str) -> Terminal:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "150", **environment}.items():
        monkeypatch.setenv(name, value)
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    return screen


COLOUR = re.compile(r"\x1b\[[0-9;]*[1-9][0-9;]*m")
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


def test_long_work_on_a_terminal_shows_a_bar_unasked(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    screen, clock.tick = on_terminal(monkeypatch), 0.3
    before = sys.stdout
    es.measure(objective(clock, 12))
    text = screen.getvalue()
    assert "measure: about" in text and "products" in text and COLOUR.search(text)
    assert text.count(HIDE) == text.count(SHOW) == 1 and sys.stdout is before
    assert text.rstrip().endswith("\x1b[2K")  # taken away


def test_a_bar_without_colours_where_none_are_wanted(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    screen, clock.tick = on_terminal(monkeypatch, NO_COLOR="1"), 0.3
    es.measure(objective(clock, 12))
    assert "products" in screen.getvalue() and not COLOUR.search(screen.getvalue())


def test_no_bar_for_short_work_quiet_or_a_dumb_terminal(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = on_terminal(monkeypatch)
    es.measure(objective(clock))
    assert screen.getvalue() == ""
    clock.tick = 0.3
    es.measure(objective(clock, 12), progress=False)
    assert screen.getvalue() == ""
    screen = on_terminal(monkeypatch, TERM="dumb")
    es.measure(objective(clock, 12))
    assert screen.getvalue().count("\n") == 1 and HIDE not in screen.getvalue()  # the line, no bar


def test_the_bar_goes_when_the_work_fails(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    screen, clock.tick, clock.until = on_terminal(monkeypatch), 0.3, 8.0
    with pytest.raises(Enough):
        es.measure(objective(clock, 12))
    assert screen.getvalue().count(HIDE) == screen.getvalue().count(SHOW) == 1


def test_a_notebook_shows_one_line_that_changes(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    class Handle:
        def update(self, data: dict[str, str], raw: bool) -> None:
            shown.append(data["text/plain"])

    def display(data: dict[str, str], raw: bool, display_id: bool) -> Handle:
        assert not shown, "one line only"
        shown.append(data["text/plain"])
        return Handle()

    ipython, module = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setattr(ipython, "get_ipython", lambda: shell, raising=False)
    monkeypatch.setattr(module, "display", display, raising=False)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    es.measure(objective(clock))
    assert not shown
    clock.tick = 0.3
    es.measure(objective(clock, 12))
    assert len(shown) > 3 and all(line.startswith("measure: ") for line in shown[:-1]) and shown[-1] == ""


class Broken(io.StringIO):
    """A stderr whose disk is full."""

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


class Gone(Broken):
    """A terminal that has been closed."""

    def isatty(self) -> bool:
        return True


class Log:
    """A logger's stand-in for stderr, which can only be written to."""

    def write(self, text: str) -> None:
        """Take it."""


@pytest.mark.parametrize("stderr", [None, Broken(), Gone(), Log()])
def test_a_stderr_that_cannot_be_written_to_ends_nothing(
    stderr: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", stderr)
    clock.tick = 0.3
    assert es.measure(objective(clock, 12)).certified
    assert es.measure(objective(clock, 12), progress=True).certified


def test_the_bar_draws_no_random_numbers_and_changes_no_result(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = es.measure(objective(), progress=False)
    screen, clock.tick = on_terminal(monkeypatch), 0.7
    state = torch.get_rng_state()
    of = objective(clock)
    torch.set_rng_state(state)
    shown = es.measure(of, progress=True)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(quiet.values, shown.values) and screen.getvalue()
