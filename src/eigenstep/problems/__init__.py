"""Losses to run rules on: quadratics, classics, and real data with exact Hessians."""

from collections.abc import Callable

from eigenstep.errors import UnknownName
from eigenstep.problems.base import Problem
from eigenstep.problems.classic import DoubleWell, Himmelblau, Rosenbrock
from eigenstep.problems.quadratic import Quadratic
from eigenstep.problems.real import RealLoss, breast_cancer, diabetes, digits

__all__ = [
    "PROBLEMS", "DoubleWell", "Himmelblau", "Problem", "Quadratic", "RealLoss", "Rosenbrock", "article",
    "breast_cancer", "diabetes", "digits", "problem_named",
]  # fmt: skip


def article() -> Quadratic:
    """Return the article's problem: eigenvalues 1 and 100, minimum (.8, .6), start (0, 0).

    >>> article().spectrum().condition
    100.0
    """
    return Quadratic((1.0, 100.0), (0.8, 0.6), start=(0.0, 0.0))


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "quadratic": article,
    "rosenbrock": Rosenbrock,
    "himmelblau": Himmelblau,
    "double-well": DoubleWell,
    "breast-cancer": breast_cancer,
    "diabetes": diabetes,
    "digits": digits,
}


def problem_named(name: str) -> Problem:
    """Return the problem that the command line calls `name`. Raises UnknownName, with the nearest, for others.

    >>> problem_named("rosenbrock").dimension
    2
    """
    if name not in PROBLEMS:
        raise UnknownName.among("problem", name, PROBLEMS)
    return PROBLEMS[name]()
