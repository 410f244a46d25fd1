"""Every claim of the article, each with the number that decides it."""

from eigenstep.article.claims import adam, adaptive, descent, experiment, formulas, momentum, valley
from eigenstep.article.claims.claim import VERDICTS, Claim, Judgement, Measured, Verdict, among, judge

__all__ = ["CLAIMS", "VERDICTS", "Claim", "Judgement", "Measured", "Verdict", "judge", "named"]

CLAIMS: tuple[Claim, ...] = (
    *experiment.CLAIMS,
    *descent.CLAIMS,
    *valley.CLAIMS,
    *momentum.CLAIMS,
    *adaptive.CLAIMS,
    *adam.CLAIMS,
    *formulas.CLAIMS,
)


def named(name: str) -> Claim:
    """Return the claim of that name. Raises UnknownName, with the nearest one, if there is none.

    >>> named("counts").limit
    0
    """
    return among({claim.name: claim for claim in CLAIMS}, name)
