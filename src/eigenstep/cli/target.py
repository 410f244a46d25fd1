"""FILE.py:FUNCTION: the user's own code on the command line, a function that returns an Objective and more."""

import importlib.util
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from eigenstep.errors import BadFile, EigenstepError, InvalidValue, UnknownName

if TYPE_CHECKING:
    import torch

    from eigenstep.curvature import Objective

_SHAPE = "an Objective, or a tuple of an Objective, an optimizer and, if there is one, a train loader"


class Target(NamedTuple):
    """What the user's function gave: the optimizer and the stream of mini-batches are None where it gave none."""

    objective: "Objective"
    optimizer: "torch.optim.Optimizer | None"
    train: Any


def load(target: str) -> Target:
    """Call FUNCTION of FILE.py, and return the Objective, the optimizer and the train loader that it gives.

    Raises BadFile, UnknownName or InvalidValue, in one line, when the file, the function or what it returns will not
    do, or when its code raises.
    """
    import torch

    from eigenstep.curvature import Objective

    file, colon, name = target.rpartition(":")
    if not colon or not name or not file:
        raise InvalidValue(f"{target!r} must be FILE.py:FUNCTION, for example train.py:objective")
    returned = _call(_module(Path(file)), name, file)
    parts = returned if isinstance(returned, tuple) else (returned,)
    objective, optimizer, train = (*parts, None, None)[:3]
    if not isinstance(objective, Objective):
        raise InvalidValue(f"{target} returned {type(objective).__name__}; it must return {_SHAPE}")
    if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
        raise InvalidValue(
            f"{target} returned {type(optimizer).__name__} beside the Objective; it must return {_SHAPE}"
        )
    if len(parts) > 3:
        raise InvalidValue(f"{target} returned {len(parts)} things; it must return {_SHAPE}")
    return Target(objective, optimizer, train)


def load_with_optimizer(target: str) -> "tuple[Objective, torch.optim.Optimizer, Any]":
    """Return what `load` does, of a function that gives an optimizer. Raises InvalidValue if it gives none."""
    found = load(target)
    if found.optimizer is None:
        raise InvalidValue(f"{target} returned no optimizer; let it return (Objective, optimizer)")
    return found.objective, found.optimizer, found.train


def _module(path: Path) -> Any:
    """Import a file by its path, with its folder importable as if it were run."""
    if not path.is_file():
        raise BadFile(f"{path}: there is no such file; check the path")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise BadFile(f"{path}: not a Python file; FILE.py:FUNCTION is needed")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise _blamed(error, str(path), "cannot be imported") from error
    return module


def _call(module: Any, name: str, file: str) -> Any:
    """Call the function of that name without arguments."""
    function = getattr(module, name, None)
    if not callable(function):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UnknownName.among(f"{file}: function", name, functions)
    try:
        return function()
    except EigenstepError:
        raise
    except (Exception, SystemExit) as error:
        raise _blamed(error, f"{file}:{name}", "failed") from error


def _blamed(error: BaseException, what: str, verb: str) -> BadFile:
    """One line: what the user's code raised, and where."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    message = " ".join(str(error).split()) or "no message"
    return BadFile(f"{what} {verb}: {type(error).__name__}: {message} ({Path(last.filename).name}, line {last.lineno})")
