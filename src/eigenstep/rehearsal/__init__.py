"""Training tried on copies: the user's mini-batches, own loop and schedule, replayed for any lr."""

from eigenstep.rehearsal.lanes import PROBE_BATCHES, Bottomless, Budget, Lane, Rehearsal, Spent
from eigenstep.rehearsal.loop import Loop
from eigenstep.rehearsal.read_schedule import attached_to, read_schedule
from eigenstep.rehearsal.schedule import Schedule
from eigenstep.rehearsal.stream import Stream

__all__ = [
    "PROBE_BATCHES",
    "Bottomless",
    "Budget",
    "Lane",
    "Loop",
    "Rehearsal",
    "Schedule",
    "Spent",
    "Stream",
    "attached_to",
    "read_schedule",
]
