"""An interrupt at every point of a small measurement: whatever it cuts short, the user's things are as they were."""

import contextlib
import random
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import eigenstep as es

# one that comes while Python closes a generator is lost: Python itself says so, and goes on
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

OURS = str(Path(es.__file__).parent)
WATCHED = (OURS, contextlib.__file__)
TORCH = str(Path(torch.__file__).parent)
KEEPERS = ("undo.py", "restore.py", "contents.py", "world.py", "evaluation.py", "contextlib.py")


class Changing(nn.Module):
    """A forward pass that changes whatever a forward pass may."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.drop = nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5)
        self.calls, self.log, self.counts = 0, [0], {"forward": 0}
        self.norm.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Count in three ways."""
        self.calls += 1
        self.log.append(self.calls)
        self.counts["forward"] += 1
        out: Tensor = self.drop(self.norm(self.linear(x)))
        return out


def problem() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = Changing()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    x = torch.randn(4, 2)
    return model, x


def state(model: nn.Module) -> dict[str, Any]:
    """All that must not change, as values that compare."""
    cuda = torch.backends.cuda
    return {
        "weights": [t.tolist() for t in (*model.parameters(), *model.buffers())],
        "places": [id(t) for t in (*model.parameters(), *model.buffers())],
        "grads": [id(p.grad) for p in model.parameters()],
        "flags": [p.requires_grad for p in model.parameters()],
        "modes": [m.training for m in model.modules()],
        "counts": (model.calls, list(model.log), dict(model.counts)),
        "keys": [list(vars(m)) for m in model.modules()],
        "attention": (
            cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(),
            cuda.math_sdp_enabled(), cuda.cudnn_sdp_enabled(),
        ),
        "torch": (
            torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_cache_enabled(),
            torch._C._len_torch_function_stack(), torch._C._get_cudnn_enabled(), str(torch.get_default_device()),
        ),
        "random": (torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())),  # noqa: NPY002
    }  # fmt: skip


def run(call: Callable[[], Any], stop: Callable[[types.FrameType, str], bool]) -> bool:
    """Whether `stop`, asked at every line, call and return of watched files, interrupted the call."""

    def trace(frame: types.FrameType, event: str, _: Any) -> Any:
        caller = frame.f_back.f_code.co_filename if frame.f_back else ""
        if not frame.f_code.co_filename.startswith(WATCHED) or caller.startswith(TORCH):  # its contexts are its own
            return None
        if stop(frame, event):
            raise KeyboardInterrupt
        return trace

    before, stopped = sys.gettrace(), False
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        stopped = True
    finally:
        sys.settrace(before)
    return stopped


def points(call: Callable[[], Any], files: tuple[str, ...] | None) -> list[int]:
    """The numbers of the events at which to interrupt: of each line of the files the first and last, or all."""
    seen: list[tuple[str, int, str]] = []

    def note(frame: types.FrameType, event: str) -> bool:
        seen.append((frame.f_code.co_filename, frame.f_lineno, event))
        return False

    run(call, note)
    if files is None:
        return list(range(len(seen)))
    first: dict[Any, int] = {}
    last: dict[Any, int] = {}
    for number, where in enumerate(seen):
        if where[0].endswith(files):
            first.setdefault(where, number)
            last[where] = number
    return sorted({*first.values(), *last.values()})


def check(files: tuple[str, ...] | None, share: int = 1) -> int:
    model, x = problem()
    before = state(model)

    def call() -> None:
        objective = es.Objective(model, lambda model, x: model(x).square().mean(), [x])
        es.measure(objective, tol=0.5, quick=True, max_products=3)

    call()
    assert state(model) == before
    model, x = problem()
    before = state(model)
    failed: list[tuple[int, list[str], str]] = []
    numbers = points(call, files)[::share]
    for number in numbers:
        count, where = -1, ""

        def stop(frame: types.FrameType, event: str, number: int = number) -> bool:
            nonlocal count, where
            count += 1
            if count == number:
                where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {event}"
            return count == number

        run(call, stop)
        after = state(model)
        if after != before:
            failed.append((number, [key for key in before if before[key] != after[key]], where))
            model, x = problem()
            before = state(model)
    assert not failed, f"{len(failed)} of {len(numbers)}: {failed[:20]}"
    return len(numbers)


def test_an_interrupt_in_what_keeps_the_users_things() -> None:
    assert check(KEEPERS, 4) > 150


@pytest.mark.slow
def test_an_interrupt_at_every_such_point_and_anywhere_else() -> None:
    assert check(KEEPERS) > 600
    assert check(None, 11) > 500
