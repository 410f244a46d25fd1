"""`eigenstep claims`: every claim of the article, judged by a number that is computed on the spot."""

import textwrap
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from eigenstep.cli import common, options

if TYPE_CHECKING:
    from eigenstep.article.claims import Judgement


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--details", is_flag=True, help="Under each claim: how its number came about.")
@options.json_option
def command(names: tuple[str, ...], details: bool, as_json: bool) -> None:
    r"""Each claim of the article run live: it holds, holds only under a condition, or is wrong.

    A verdict is a threshold applied to a number of this run; 'within' is the same number under the condition.
    'inferred' marks what the article implies and does not say.

    \b
    eigenstep claims
    eigenstep claims jensen adam-117 --details
    """
    from eigenstep.article.claims import CLAIMS, judge, named

    chosen = [named(name) for name in names] or list(CLAIMS)
    began = time.perf_counter()
    judged = []
    with common.one_thread(), common.progress("claims") as progress:
        for claim in chosen:
            judged.append(judge(claim))
            progress(len(judged), len(chosen))
    seconds = time.perf_counter() - began
    counts = _counts(judged)
    if as_json:
        claims = [one.as_dict() for one in judged]
        common.print_json("claims", {"claims": claims, "verdicts": counts, "seconds": round(seconds, 1)})
        return
    _details(judged) if details else _table(judged)
    common.say()
    holds, conditional, wrong = counts.values()
    inferred = sum(bool(one.claim.inferred) for one in judged)
    words = f"{holds} hold, {conditional} hold only under a condition, {wrong} are wrong"
    common.say(f"{words}; {inferred} are inferred, not the article's own words; {seconds:.0f} s.")


def _counts(judged: "Sequence[Judgement]") -> dict[str, int]:
    """How many claims got each verdict."""
    from eigenstep.article.claims import VERDICTS

    return {verdict: sum(one.verdict == verdict for one in judged) for verdict in VERDICTS}


def _table(judged: "Sequence[Judgement]") -> None:
    """Print a row a claim."""
    rows: list[tuple[common.Cell, ...]] = [
        (
            one.claim.name,
            one.claim.says,
            one.words,
            one.claim.where + (", inferred" if one.claim.inferred else ""),
            f"{one.stated.number:.6g}",
            _bound(one),
            None if one.within is None else f"{one.within.number:.6g}",
            one.claim.number,
        )
        for one in judged
    ]
    common.table("", ("claim", "it says", "verdict", "where", "number", "must be", "within", "which is"), rows)


def _details(judged: "Sequence[Judgement]") -> None:
    """Print a paragraph a claim."""
    for one in judged:
        quote = f': "{one.claim.quote}"' if one.claim.quote else ""
        common.say(f"{one.claim.name} ({one.claim.where}{quote}): {one.claim.says}.")
        lines = [f"Inferred, not said: {one.claim.inferred}."] if one.claim.inferred else []
        lines += [f"{one.words}: {one.claim.number} {one.stated.number:.6g}, must be {_bound(one)}; {one.stated.how}."]
        if one.within is not None:
            lines.append(f"Within the condition: {one.within.number:.6g}; {one.within.how}.")
        for line in lines:
            common.say(textwrap.indent(line, "    "))


def _bound(one: "Judgement") -> str:
    return f"{one.claim.sign} {one.claim.limit:.6g}"
