"""A recommendation as one page: the answer, the figure, the evidence, what was run, the code to paste."""

from eigenstep.bridge.param_groups import first_moving
from eigenstep.html import Page
from eigenstep.recommendation.figure import schedule_plot
from eigenstep.recommendation.result import Recommendation
from eigenstep.rehearsal.schedule import DECAY, SHAPES
from eigenstep.result import cell

HEADS = {
    "lr": "lr",
    "loss": "loss",
    "steps": "updates",
    "diverged": "diverged",
    "under": "schedule",
}


def recommendation_page(r: Recommendation, target: str = "") -> Page:
    """Return a recommendation as a page: the answer, the figure, the evidence, what was run, the code to paste."""
    from eigenstep import draw

    page = Page(f"The learning rate of {target}" if target else "The learning rate")
    page.verdict(r.headline, failing=r.lr is None).text(r.reason)
    figure, axes = draw.panels(columns=1 + r.asked.falls, width=6.0 + 2.0 * r.asked.falls, height=3.4)
    r.plot(axes[0])
    if r.asked.falls and r.lr is not None:
        schedule_plot(r, r.lr, axes[1])
    page.figure(figure).heading("Evidence").table((), r.evidence())
    ran = {HEADS[name]: column for name, column in r.results.items()}
    page.heading("What was run").table(tuple(ran), [tuple(map(cell, row)) for row in zip(*ran.values(), strict=True)])
    page.heading("What was not checked").table((), [(text,) for text in (*r.unchecked, *r.notes)])
    if r.lr is not None:
        page.heading("Code to paste").code(code(r, r.lr))
    return page


def code(r: Recommendation, lr: float) -> str:
    """Return the lines that set the lr, and a named schedule around it."""
    lines = [
        "for group in optimizer.param_groups:  # the groups' ratios are kept",
        f"    group['lr'] *= {lr:.4g} / {first_moving(r.asked.groups):.4g}",
    ]
    if not r.asked.falls:
        return "\n".join(lines)
    if r.schedule not in SHAPES:
        return (
            f"scheduler = advice.apply(optimizer)  # your {r.schedule}, its peak at {lr:.4g}: step() after each update"
        )
    after = f"(t - {r.warmup}) / {r.horizon - r.warmup}"
    shape = {
        "constant": "1.0",
        "cosine": f"(1 + math.cos(math.pi * {after})) / 2",
        "linear": f"1 - {after}",
        "wsd": f"min(1.0, (1 - {after}) / {DECAY})",
    }[r.schedule]
    if r.warmup:
        shape = f"(t + 1) / {r.warmup + 1} if t < {r.warmup} else {shape}"
    lines = ["import math\n", *lines] if r.schedule == "cosine" else lines
    lines.append(f"scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: {shape})")
    return "\n".join([*lines, "# after each optimizer.step(): scheduler.step()"])
