"""Batched runs of any rule on any problem: one run, or tens of thousands of settings and starts at once."""

from eigenstep.simulation.run import MISSING, Run
from eigenstep.simulation.simulate import simulate

__all__ = ["MISSING", "Run", "simulate"]
