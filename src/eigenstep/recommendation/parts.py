"""What a `Recommendation` is made of: what was asked, what stands at the start, what was rehearsed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from eigenstep.plain import key
from eigenstep.stability.critical import CriticalSharpness
from eigenstep.stability.result import Limit


@dataclass(frozen=True)
class Candidate:
    """A learning rate that was rehearsed: the probe's losses after `points` updates, inf where it diverged."""

    lr: float
    points: tuple[int, ...]
    losses: tuple[float, ...]
    diverged: bool
    steps: int


class Later(NamedTuple):
    """The limit where a rehearsal at `lr` stood after `steps` updates."""

    steps: int
    lr: float
    max_stable_lr: float


@dataclass(frozen=True)
class Asked:
    """What a recommendation was asked for.

    optimizer: the name of its class.
    groups: each param group's lr, as rehearsed from.
    horizon: updates of the run that the lr is for.
    budget: training steps that the search was allowed.
    settings: momentum, where it was searched.
    """

    optimizer: str
    groups: tuple[float, ...]
    horizon: int
    budget: int
    settings: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class AtStart:
    """What was measured before the rehearsals, and the limit where some of them stood.

    loss: the probe's; 'start' in files.
    limit: the certified stability limit; None, with the reason in the notes, where the optimizer has none.
    critical: the critical sharpness of the optimizer's next step; None where it was not reached.
    later: the limit again, where a rehearsal stood.
    """

    loss: float = field(metadata=key("start"))
    limit: Limit | None
    critical: CriticalSharpness | None
    later: tuple[Later, ...]


@dataclass(frozen=True)
class Rehearsals:
    """What was run.

    candidates: every lr that was run, by lr.
    edge: the largest lr that lowered the loss within a short run, and the smallest that did not (inf if none was met).
    rehearsed: the winner's lr, of which the answer stays a margin below.
    loss: the probe's at the end of the chosen run.
    verified: whether the chosen lr was run from the start without diverging.
    verified_steps: the updates of that run.
    steps: training steps that were taken.
    seconds: the time that everything took.
    complete: whether the search was finished.
    missing: what was left out, and why; None if nothing.
    """

    candidates: tuple[Candidate, ...]
    edge: tuple[float, float] | None
    rehearsed: float | None
    loss: float | None
    verified: bool
    verified_steps: int
    steps: int
    seconds: float
    complete: bool
    missing: str | None
