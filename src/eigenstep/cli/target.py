"""FILE.py:FUNCTION: the user's own code on the command line, a function that returns an Objective and more."""

import importlib.util
import inspect
import sys
from collections.abc import Iterable
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from eigenstep.cli.blame import blamed
from eigenstep.errors import BadFile, EigenstepError, InvalidValue, UnknownName
from eigenstep.files import shown

if TYPE_CHECKING:
    import torch
    from torch.optim.lr_scheduler import LRScheduler

    from eigenstep.objective import Objective

_SHAPE = (
    "an Objective, or a tuple of an Objective, an optimizer and, if there are such, a train loader (else None) and the "
    "optimizer's scheduler"
)


class Target(NamedTuple):
    """What the user's function gave: the optimizer, the mini-batches and the scheduler are None where it gave none.

    The scheduler is found on the optimizer, as long as it is kept alive here.
    """

    objective: "Objective"
    optimizer: "torch.optim.Optimizer | None"
    train: Any
    scheduler: "LRScheduler | None"


def load(target: str) -> Target:
    """Call FUNCTION of FILE.py, and return the Objective, optimizer, train loader and scheduler that it gives.

    Raises BadFile, UnknownName or InvalidValue, in one line, when the file, the function or what it returns will not
    do, or when its code raises.
    """
    import torch

    from eigenstep.objective import Objective

    file, colon, name = target.rpartition(":")
    if not colon or not name or not file:
        raise InvalidValue(f"{target!r} must be FILE.py:FUNCTION, for example train.py:objective")
    returned = _call(_module(Path(file)), name, file)
    parts = returned if isinstance(returned, tuple) else (returned,)
    objective, optimizer, train, scheduler = (*parts, None, None, None)[:4]
    if not isinstance(objective, Objective):
        raise InvalidValue(f"{target} returned {type(objective).__name__}; it must return {_SHAPE}")
    if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
        raise InvalidValue(
            f"{target} returned {type(optimizer).__name__} beside the Objective; it must return {_SHAPE}"
        )
    if len(parts) > 4:
        raise InvalidValue(f"{target} returned {len(parts)} things; it must return {_SHAPE}")
    if train is not None and not isinstance(train, Iterable):
        raise InvalidValue(
            f"{target} returned {type(train).__name__} as train data, which yields no batches; it must return {_SHAPE}"
        )
    if scheduler is not None and getattr(scheduler, "optimizer", None) is not optimizer:
        raise InvalidValue(
            f"{target} returned {type(scheduler).__name__} as the optimizer's scheduler, which is none of it; it must "
            f"return {_SHAPE}"
        )
    return Target(objective, optimizer, train, scheduler)


def load_with_optimizer(target: str) -> "tuple[Objective, torch.optim.Optimizer, Any, LRScheduler | None]":
    """Return what `load` does, of a function that gives an optimizer. Raises InvalidValue if it gives none."""
    found = load(target)
    if found.optimizer is None:
        raise InvalidValue(f"{target} returned no optimizer; let it return (Objective, optimizer)")
    return found.objective, found.optimizer, found.train, found.scheduler


def _module(path: Path) -> Any:
    """Import a file by its path, with its folder importable as if it were run.

    One that is called like a module that exists already, as json.py or torch.py, is known by another name, and its
    folder comes last: whoever imports that module gets the real one.
    """
    try:
        path.stat()
    except (OSError, ValueError) as error:
        raise BadFile(f"{shown(path)}: there is no such file; check the path") from error
    taken = _taken(path)
    name = f"eigenstep_target_{path.stem}" if taken else path.stem
    spec = importlib.util.spec_from_file_location(name, path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise BadFile(f"{shown(path)}: not a Python file; FILE.py:FUNCTION is needed")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(len(sys.path) if taken else 0, str(path.parent.resolve()))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise blamed(error, f"{shown(path)} cannot be imported") from error
    return module


def _taken(path: Path) -> bool:
    """Whether another module of a file's name is loaded, or would be found."""
    if path.stem in sys.stdlib_module_names:
        return True
    known = sys.modules.get(path.stem)
    found = known.__spec__ if known is not None else PathFinder.find_spec(path.stem)
    if known is None and found is None:
        return False
    origin = getattr(known, "__file__", None) or getattr(found, "origin", None)
    return origin is None or Path(origin).resolve() != path.resolve()


def _call(module: Any, name: str, file: str) -> Any:
    """Call the function of that name without arguments."""
    function = getattr(module, name, None)
    if not callable(function) and name in vars(module):
        raise InvalidValue(f"{file}: {name!r} is {type(function).__name__}, not a function; write one that returns it")
    if not callable(function):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        if not functions:
            raise UnknownName(
                f"{file}: function {name!r} does not exist, nor does any other; write one that returns {_SHAPE}"
            )
        raise UnknownName.among(f"{file}: function", name, functions)
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidValue(f"{file}: {name!r} is an async function; write a plain one that returns {_SHAPE}")
    try:
        return function()
    except EigenstepError:
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise blamed(error, f"{file}:{name} failed") from error
