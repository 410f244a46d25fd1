"""What a `Recommendation` is made of: what was asked, what stands at the start, what was rehearsed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from eigenstep.plain import key
from eigenstep.rehearsal.schedule import updates
from eigenstep.stability.critical import CriticalSharpness
from eigenstep.stability.result import Limit


@dataclass(frozen=True)
class Candidate:
    """A learning rate that was rehearsed.

    lr: the schedule's peak.
    points: updates after which the loss was looked at.
    losses: the loss there, inf where it diverged.
    diverged: whether it did.
    steps: updates that were taken.
    under: '' for the schedule as it was asked for, 'peak held', or 'squeezed' into the updates of this run.
    """

    lr: float
    points: tuple[int, ...]
    losses: tuple[float, ...]
    diverged: bool
    steps: int
    under: str = ""


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
    schedule: 'constant', 'cosine', 'linear', 'wsd', 'your function', or the class of a torch scheduler.
    warmup: updates of the linear warm-up before it.
    shape: the schedule's factor, 1 at its peak, at up to 100 updates spread evenly over the horizon.
    loop: whether the steps were those of the user's own function.
    validation: whether the loss on validation data was brought down, not that on the objective's.
    seconds_allowed: the limit on the time; None without one.
    """

    optimizer: str
    groups: tuple[float, ...]
    horizon: int
    budget: int
    settings: Mapping[str, float] = field(default_factory=dict)
    schedule: str = "constant"
    warmup: int = field(default=0, metadata=key("warmup_updates"))
    shape: tuple[float, ...] = ()
    loop: bool = False
    validation: bool = False
    seconds_allowed: float | None = None

    @property
    def falls(self) -> bool:
        """Whether the lr is anything but constant."""
        return len(set(self.shape)) > 1

    @property
    def schedule_words(self) -> str:
        """The schedule for a sentence: 'a constant lr', 'cosine after a warm-up of 100 updates'."""
        shape = "a constant lr" if self.schedule == "constant" else self.schedule
        return f"{shape} after a warm-up of {updates(self.warmup)}" if self.warmup else shape


@dataclass(frozen=True)
class AtStart:
    """What was measured before the rehearsals, and the limit where some of them stood.

    loss: on the probe, or on validation data; 'start' in files.
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
    rehearsed: the lr of the run that ended lowest; the answer lies among those that came near, a margin lower.
    loss: at the end of the answer's own run.
    verified: whether the answer was run from the start without diverging.
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
