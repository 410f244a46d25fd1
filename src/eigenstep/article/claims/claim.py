"""What a claim is: a statement, a number computed live from its inputs, and the threshold that makes the verdict."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

from eigenstep.errors import UnknownName

Verdict = Literal["holds", "holds only if", "wrong"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


class Measured(NamedTuple):
    """The number that decides, and in words how it came about, with every other number of the same run."""

    number: float
    how: str


@dataclass(frozen=True)
class Claim:
    """A claim of the article, as data.

    name: for the command line. section: of the article, its own heading, after that of the part it stands in. says: the
    claim, in one sentence. measure(**inputs) computes the number that decides, live; `number` says in words what it is.
    The claim is true for inputs whose number is `sign` ('at most' or 'at least') `limit`. stated: inputs as the article
    has it. condition, within: where the claim is true for narrower inputs, the words after 'holds only if', and what
    they change in `stated`. quote: at most ten words of that section, as they stand there. equation: which of the
    section's displayed equations it is about, from 1; 0 for none. inferred: for a claim that the article implies and
    does not make, what it follows from.
    """

    name: str
    section: str
    says: str
    measure: Callable[..., Measured]
    number: str
    sign: Literal["at most", "at least"]
    limit: float
    stated: Mapping[str, Any] = field(default_factory=dict)
    condition: str = ""
    within: Mapping[str, Any] = field(default_factory=dict)
    quote: str = ""
    equation: int = 0
    inferred: str = ""

    @property
    def where(self) -> str:
        """Where in the article it stands: the section, and the equation if it is about one."""
        return f"{self.section}, equation {self.equation}" if self.equation else self.section

    def true_of(self, number: float) -> bool:
        """Whether a number is on the side of the threshold where the claim is true; nan is on neither."""
        return number <= self.limit if self.sign == "at most" else number >= self.limit


@dataclass(frozen=True)
class Judgement:
    """A claim with its verdict and the numbers that decided it: as stated and, for a condition, within that."""

    claim: Claim
    verdict: Verdict
    stated: Measured
    within: Measured | None
    seconds: float

    @property
    def words(self) -> str:
        """The verdict, with its condition."""
        return f"{self.verdict} {self.claim.condition}" if self.verdict == "holds only if" else self.verdict

    def as_dict(self) -> dict[str, Any]:
        """Return the judgement as plain data for JSON."""
        claim = self.claim
        return {
            "name": claim.name,
            "section": claim.section,
            "equation": claim.equation or None,
            "quote": claim.quote or None,
            "inferred": claim.inferred or None,
            "claim": claim.says,
            "verdict": self.verdict,
            "condition": claim.condition if self.verdict == "holds only if" else None,
            "number": self.stated.number,
            "is": claim.number,
            "must_be": {claim.sign: claim.limit},
            "how": self.stated.how,
            "within": None if self.within is None else {"number": self.within.number, "how": self.within.how},
            "seconds": round(self.seconds, 3),
        }


def judge(
    claim: Claim, *, stated: Mapping[str, Any] | None = None, within: Mapping[str, Any] | None = None
) -> Judgement:
    """Compute a claim's numbers and judge it.

    'holds' if it is true as stated; else 'holds only if' where it is true within its condition; else 'wrong'. stated,
    within: changes of the inputs, to see how the verdict depends on them.

    >>> from eigenstep.article.claims import named
    >>> judge(named("eta-star-near-eta-max")).verdict
    'holds'
    >>> judge(named("eta-star-near-eta-max"), stated={"condition": 2.0}).verdict
    'wrong'
    """
    began = time.perf_counter()
    inputs = {**claim.stated, **(stated or {})}
    first = claim.measure(**inputs)
    second = claim.measure(**{**claim.stated, **claim.within, **(within or {})}) if claim.condition else None
    verdict: Verdict = "wrong"
    if claim.true_of(first.number):
        verdict = "holds"
    elif second is not None and claim.true_of(second.number):
        verdict = "holds only if"
    return Judgement(claim, verdict, first, second, time.perf_counter() - began)


def among(claims: Mapping[str, Claim], name: str) -> Claim:
    """Return the claim of that name. Raises UnknownName, with the nearest one, if there is none."""
    if name not in claims:
        raise UnknownName.among("claim", name, claims)
    return claims[name]
