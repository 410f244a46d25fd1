"""A recommendation as one page: the answer, the figure, the evidence, what was run, the code to paste."""

from eigenstep.bridge.param_groups import first_moving
from eigenstep.html import Page
from eigenstep.recommendation.result import Recommendation


def recommendation_page(r: Recommendation, target: str = "") -> Page:
    """Return a recommendation as a page: the answer, the figure, the evidence, what was run, the code to paste."""
    from eigenstep import draw

    page = Page(f"The learning rate of {target}" if target else "The learning rate")
    page.verdict(r.headline, failing=r.lr is None).text(r.reason)
    figure, axes = draw.panels(width=6.0, height=3.4)
    r.plot(axes[0])
    page.figure(figure).heading("Evidence").table((), r.evidence())
    rows = [(f"{c.lr:.4g}", str(c.steps), f"{c.losses[-1]:.4g}", "yes" if c.diverged else "no") for c in r.candidates]
    page.heading("What was run").table(("lr", "updates", "loss", "diverged"), rows)
    page.heading("What was not checked").table((), [(text,) for text in (*r.unchecked, *r.notes)])
    if r.lr is not None:
        loop = "for group in optimizer.param_groups:  # the groups' ratios are kept"
        page.heading("Code to paste").code(f"{loop}\n    group['lr'] *= {r.lr:.4g} / {_base(r):.4g}")
    return page


def _base(r: Recommendation) -> float:
    return first_moving(r.asked.groups)
