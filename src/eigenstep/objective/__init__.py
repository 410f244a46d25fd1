"""A loss on fixed data, as a function of a model's parameters: checked before any work, and left as it was found."""

from eigenstep.objective.objective import Objective

__all__ = ["Objective"]
