"""The bridge to torch: rules as drop-in optimizers, and torch's optimizers read as rules."""

from eigenstep.bridge.optimizer import Optimizer
from eigenstep.bridge.reading import Group, rule_of, rules_told

__all__ = ["Group", "Optimizer", "rule_of", "rules_told"]
