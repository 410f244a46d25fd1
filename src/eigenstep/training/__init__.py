"""In training: a monitor that never changes the run, alarms that say why, a learning rate on the safe side."""

from eigenstep.training.alarms import Alarm
from eigenstep.training.control import StabilityLR
from eigenstep.training.log.record import Log, read_log
from eigenstep.training.monitor import Monitor
from eigenstep.training.postmortem import Postmortem, after_the_fact

__all__ = ["Alarm", "Log", "Monitor", "Postmortem", "StabilityLR", "after_the_fact", "read_log"]
