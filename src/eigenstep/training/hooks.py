"""The step hooks by which a monitor watches an optimizer."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eigenstep.training.monitor import Monitor


class Handle:
    """What `Monitor.attach` returns; remove() takes the step hooks away."""

    def __init__(self, monitor: "Monitor") -> None:
        self._monitor = monitor
        optimizer = monitor.optimizer
        self._hooks = (
            optimizer.register_step_pre_hook(lambda *_: monitor.before_update()),
            optimizer.register_step_post_hook(lambda *_: monitor.after_update()),
        )

    def remove(self) -> None:
        """End watching; a second call does nothing."""
        for hook in self._hooks:
            hook.remove()
        if self._monitor._handle is self:
            self._monitor._handle = None
