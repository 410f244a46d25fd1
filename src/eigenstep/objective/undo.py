"""Putting things back whatever happens: an interrupt may arrive anywhere, also while something is being put back."""

import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

_here = threading.local()


@contextmanager
def undone(put_back: Callable[[], object]) -> Iterator[None]:
    """Call `put_back` at the end, whatever happens inside, and before it those of contexts left open inside.

    `put_back` must restore what was seen before this was entered, and be safe to call twice: it is called again when an
    interrupt cut it short. A context that an interrupt left open, to be collected later, then finds itself closed and
    puts nothing back over what an outer one has restored.

    >>> value = [1]
    >>> with undone(lambda: value.__setitem__(0, 1)):
    ...     value[0] = 2
    >>> value
    [1]
    """
    if not hasattr(_here, "open"):
        _here.open = []
    waiting: list[Callable[[], object]] = _here.open
    one = partial(put_back)  # equal to no other
    waiting.append(one)
    try:
        try:
            yield
        finally:
            _close(waiting, one)
    finally:  # the first was interrupted
        _close(waiting, one)


def _close(waiting: list[Callable[[], object]], one: Callable[[], object]) -> None:
    while one in waiting:
        waiting[-1]()
        waiting.pop()


@contextmanager
def nothing_left() -> Iterator[None]:
    """On Ctrl-C, let go of what the interrupted calls held, so that contexts left open in there end now and not later.

    Torch has such contexts too, and one that ended after everything was put back would change it again.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        traceback.clear_frames(stop.__traceback__)
        raise
