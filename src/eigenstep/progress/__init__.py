"""How far a long call has come: one type, one line before long work, and one place that draws it."""

from eigenstep.progress.state import Progress, Watch
from eigenstep.progress.work import FORWARD, GRADIENT, PRODUCT, Task, over, spent, task

__all__ = ["FORWARD", "GRADIENT", "PRODUCT", "Progress", "Task", "Watch", "over", "spent", "task"]
