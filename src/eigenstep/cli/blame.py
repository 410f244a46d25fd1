"""Whose fault an error is: the user's own code, with file and line, or ours."""

import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

from eigenstep.errors import BadFile, EigenstepError

_OURS = str(Path(__file__).resolve().parents[1])
_LIBRARIES = tuple(
    {str(Path(sysconfig.get_path(name)).resolve()) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)


class Blamed(BadFile):
    """An error that the user's code raised, or that we did not foresee."""


def blamed(error: BaseException, what: str = "") -> EigenstepError:
    """Return one line: what was raised, and at which line of the user's code, the innermost one that is theirs.

    `what` begins the line, as in 'train.py:objective failed'. An error that none of their lines led to is ours.
    """
    said = error.msg if isinstance(error, SyntaxError) else str(error)  # its line follows, as every error's does
    said = " ".join(said.split()) or "no message"
    kind = type(error).__name__
    said = f"calls sys.exit({error.code!r})" if isinstance(error, SystemExit) else f"{kind}: {said}"
    begin = f"{what}: " if what else ""
    place = next(_places(error), None)
    if place is None and not what:
        last = traceback.extract_tb(error.__traceback__)[-1:]
        where = f" ({Path(last[0].filename).name}, line {last[0].lineno})" if last else ""
        return Blamed(
            f"a fault of eigenstep, not of your input: {said}{where}; please report it with what --debug shows"
        )
    where = "" if place is None else f" ({Path(place[0]).name}, line {place[1]})"
    return Blamed(f"{begin or 'your code: '}{said}{where}; --debug shows the way there")


def _places(error: BaseException | None) -> Iterator[tuple[str, int]]:
    """The lines of the user's code on the way to an error, innermost first; then those on the way to its cause."""
    while error is not None:
        if isinstance(error, SyntaxError) and error.filename and error.lineno and _theirs(error.filename):
            yield error.filename, error.lineno
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            if _theirs(frame.filename) and frame.lineno is not None:
                yield frame.filename, frame.lineno
        error = error.__cause__ or error.__context__


def _theirs(file: str) -> bool:
    if file.startswith("<"):
        return False
    path = Path(file).resolve()
    return not any(path.is_relative_to(place) for place in (_OURS, *_LIBRARIES))
