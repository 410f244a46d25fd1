"""Stability, rates, counts and best settings of a rule on a spectrum."""
