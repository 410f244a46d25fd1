"""The front door: diagnosis and recommendation in one call, joined to one sentence, one lr and one line of code."""

from eigenstep.front.check import check
from eigenstep.front.result import Check

__all__ = ["Check", "check"]
