"""A learning rate that stays on the safe side of the edge, and leaves alone what trains."""

from eigenstep.training.control.stability_lr import StabilityLR

__all__ = ["StabilityLR"]
