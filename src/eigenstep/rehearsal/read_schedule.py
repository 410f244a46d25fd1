"""What the user means by `schedule=`: a name, a function, a torch scheduler's factory, or the scheduler attached."""

import copy
import gc
import math
import warnings
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from eigenstep.bridge.param_groups import begun, lr_of, lrs_of, relative, scheduled
from eigenstep.errors import InvalidValue, Unsupported
from eigenstep.rehearsal.schedule import SHAPES, Schedule, momenta_of, named_factors, ramp

REMEDY = "give schedule= a function of the update (0 first) that tells its shape"
_PLAIN = (int, float, complex, str, bytes, type(None), Tensor, torch.optim.Optimizer, LRScheduler)
Wanted = str | Callable[..., Any]
Thing = TypeVar("Thing")


def read_schedule(
    what: str, optimizer: torch.optim.Optimizer, schedule: Wanted, warmup: float, horizon: int
) -> Schedule:
    """Return the shape that is asked for, or that an attached scheduler gives where 'constant' is the default.

    warmup: an int is updates, a float below 1 a share of the horizon; linear; refused beside a torch scheduler, which
    has its own. A scheduler is tried on a stand-in, once an update; the optimizer is not touched. Raises InvalidValue
    for what is no schedule, and for the default where the attached scheduler is gone; Unsupported for a scheduler whose
    lr depends on the run.
    """
    updates = _warmup(what, warmup, horizon)
    attached = attached_to(what, optimizer)
    if attached is not None:
        name = type(attached).__name__
        if schedule != "constant" or updates:
            raise InvalidValue(
                f"{what}: the optimizer has a scheduler attached ({name}), and schedule= or warmup= asks for another; "
                "leave them out, or build the optimizer without the scheduler"
            )
        return _tried(what, optimizer, attached, lambda twin: copy.deepcopy(attached, {id(optimizer): twin}), horizon)
    if schedule == "constant" and _was_attached(optimizer) and scheduled(optimizer):
        raise InvalidValue(
            f"{what}: a scheduler was attached to this optimizer and is gone, so that its lrs are not known; keep it "
            "alive, for example return it beside the optimizer, or give schedule= (lambda t: 1.0 for a constant lr)"
        )
    if isinstance(schedule, str):
        if schedule not in SHAPES:
            near = get_close_matches(schedule, SHAPES, 1) or ["constant"]
            known = ", ".join(map(repr, SHAPES))
            raise InvalidValue(f"{what}: schedule={schedule!r} is none of {known}; did you mean {near[0]!r}?")
        return _for_groups(schedule, horizon, updates, named_factors(schedule, horizon, updates), optimizer)
    if not callable(schedule):
        raise InvalidValue(
            f"{what}: schedule= is {type(schedule).__name__}; give a name ({', '.join(SHAPES)}), a function of the "
            "update, or a function of the optimizer that returns a torch scheduler"
        )
    shape = _function(what, schedule, horizon)
    if shape is not None:
        factors = [value * ramp(t, updates) for t, value in enumerate(shape)]
        peak = max(factors)
        if not peak > 0:
            raise InvalidValue(f"{what}: schedule= is 0 at every update of {horizon}; nothing would move")
        told = [factor / peak for factor in factors]
        return _for_groups("your function", horizon, updates, told, optimizer, source=schedule)
    if updates:
        raise InvalidValue(
            f"{what}: warmup= beside a torch scheduler; put the warm-up into the scheduler (SequentialLR)"
        )
    return _tried(what, optimizer, schedule, schedule, horizon)


def _warmup(what: str, warmup: float, horizon: int) -> int:
    """The warm-up in updates."""
    whole = isinstance(warmup, int) and not isinstance(warmup, bool)
    if not (whole and 0 <= warmup < horizon) and not (isinstance(warmup, float) and 0 <= warmup < 1):
        raise InvalidValue(
            f"{what}: warmup={warmup!r} must be a whole number of updates below the horizon, {horizon}, or a share of "
            "it, a float below 1"
        )
    return int(warmup) if whole else min(round(warmup * horizon), horizon - 1)


def _for_groups(
    name: str, horizon: int, warmup: int, shape: list[float], optimizer: torch.optim.Optimizer, source: Any = None
) -> Schedule:
    """One shape for all groups, each by its own lr's ratio to the first that moves."""
    lrs = lrs_of(optimizer) if lr_of(optimizer) > 0 else begun(optimizer.param_groups)
    ratios = relative(lrs)
    factors = [tuple(value * ratio for ratio in ratios) for value in shape]
    return Schedule(name, horizon, warmup, factors, (), source)


def _function(what: str, schedule: Callable[..., Any], horizon: int) -> list[float] | None:
    """A function of the update's values; None where it does not take a number, as a scheduler's factory does not."""
    try:
        first = schedule(1)
    except Exception:
        return None
    if isinstance(first, LRScheduler) or _number(first) is None:
        raise InvalidValue(
            f"{what}: schedule(1) gave {type(first).__name__}; a function of the update returns a factor, a number"
        )
    values = []
    for t in range(horizon):
        try:
            value = _number(schedule(t))
        except Exception as error:
            raise InvalidValue(
                f"{what}: schedule({t}) failed ({type(error).__name__}: {error}); updates count from 0"
            ) from error
        if value is None or not math.isfinite(value) or value < 0:
            raise InvalidValue(f"{what}: schedule({t}) gave {value}; an lr's factor must be finite and at least 0")
        values.append(value)
    return values


def _number(value: Any) -> float | None:
    if isinstance(value, (str, bytes)):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def attached_to(what: str, optimizer: torch.optim.Optimizer) -> LRScheduler | None:
    """The scheduler that is at work on an optimizer, the outermost where several are joined; None if there is none.

    Found among the living objects, since an optimizer does not know its scheduler. Raises Unsupported for two apart.
    """
    alive = schedulers_of(optimizer) if _was_attached(optimizer) else []
    inner = {id(part) for o in alive for part in vars(o).get("_schedulers", ())}
    outer = [o for o in alive if id(o) not in inner]
    if len(outer) > 1:
        names = " and ".join(type(o).__name__ for o in outer)
        raise Unsupported(
            f"{what}: {names} are both attached to the optimizer; join them (ChainedScheduler), or {REMEDY}"
        )
    return outer[0] if outer else None


def _was_attached(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a scheduler has wrapped the optimizer's step, as it does when it is made; it may be gone since."""
    return hasattr(optimizer.step, "_wrapped_by_lr_sched")


def schedulers_of(optimizer: torch.optim.Optimizer) -> list[LRScheduler]:
    """Every living scheduler of an optimizer, those within others too."""
    return [o for o in living(LRScheduler) if vars(o).get("optimizer") is optimizer]


def living(kind: type[Thing]) -> list[Thing]:
    """All objects of a class that are alive."""
    gc.collect(0)
    return [o for o in gc.get_objects() if issubclass(type(o), kind)]


def stand_in(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """An optimizer with the same groups and settings that a scheduler may drive; it holds no state and never steps."""
    twin = copy.copy(optimizer)
    twin.__dict__.pop("step", None)
    twin.param_groups = [
        {name: value.clone() if name != "params" and isinstance(value, Tensor) else value for name, value in g.items()}
        for g in optimizer.param_groups
    ]
    twin.__dict__["_opt_called"] = True
    return twin


def _tried(
    what: str, optimizer: torch.optim.Optimizer, source: Any, make: Callable[[Any], Any], horizon: int
) -> Schedule:
    """The shape that a torch scheduler gives, found by stepping it on a stand-in."""
    twin = stand_in(optimizer)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scheduler = make(twin)
            refuse_dependent(what, scheduler)
            lrs, momenta = stepped(twin, scheduler, horizon)
    except (InvalidValue, Unsupported):
        raise
    except Exception as error:
        raise InvalidValue(
            f"{what}: schedule= could not be tried over {horizon} updates ({type(error).__name__}: {error}); give a "
            f"function of the optimizer that returns a torch scheduler, or {REMEDY}"
        ) from error
    first = next((i for i in range(len(lrs[0])) if any(each[i] > 0 for each in lrs)), None)
    if first is None:
        raise InvalidValue(f"{what}: {type(scheduler).__name__} keeps every lr at 0 for {horizon} updates")
    peak = max(each[first] for each in lrs)
    factors = [tuple(lr / peak for lr in each) for each in lrs]
    moves = any(each != momenta[0] for each in momenta)
    return Schedule(type(scheduler).__name__, horizon, 0, factors, momenta if moves else (), source, peak)


def stepped(
    twin: torch.optim.Optimizer, scheduler: Any, horizon: int
) -> tuple[list[tuple[float, ...]], list[tuple[Any, ...]]]:
    """Every update's lrs and momenta."""
    lrs, momenta = [], []
    for t in range(horizon):
        lrs.append(tuple(lrs_of(twin)))
        momenta.append(momenta_of(twin))
        if t + 1 < horizon:
            scheduler.step()
    return lrs, momenta


def refuse_dependent(what: str, scheduler: Any) -> None:
    """Raise unless the lrs of a scheduler follow from the number of its steps alone."""
    name = type(scheduler).__name__
    if not isinstance(scheduler, LRScheduler):
        raise InvalidValue(
            f"{what}: schedule= gave {name} for an optimizer; give a function of the optimizer that returns a torch "
            f"scheduler (functools.partial(CosineAnnealingLR, T_max=1000)), or {REMEDY}"
        )
    if isinstance(scheduler, ReduceLROnPlateau) or not all(map(_plain, vars(scheduler).values())):
        raise Unsupported(f"{what}: the lr of {name} depends on the run, which nobody knows beforehand; {REMEDY}")
    for part in vars(scheduler).get("_schedulers", ()):
        refuse_dependent(what, part)


def _plain(value: Any) -> bool:
    """Whether a value is data or a function: with those alone a scheduler cannot look at the run."""
    if isinstance(value, Mapping):
        return all(map(_plain, value.values()))
    if isinstance(value, (list, tuple, set)):
        return all(map(_plain, value))
    return isinstance(value, _PLAIN) or (callable(value) and not isinstance(value, torch.nn.Module))
