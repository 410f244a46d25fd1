"""One self-contained HTML page out of text, tables, code and figures: no script, no link, every string escaped."""

import html
import io
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Self

from eigenstep.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from eigenstep.advice.diagnosis import Diagnosis
    from eigenstep.advice.recommendation import Recommendation

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 54rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.verdict { font-size: 1.15rem; border-left: 4px solid #0072B2; padding: .4rem 1rem; background: #f4f7fa; }
.failing { border-color: #D55E00; background: #fdf3ec; }
.small { color: #666; font-size: .875rem; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: .25rem .75rem .25rem 0;
border-bottom: 1px solid #ddd; vertical-align: top; } th { font-weight: 600; }
pre { background: #f4f4f4; padding: .75rem 1rem; overflow-x: auto; } svg { max-width: 100%; height: auto; }
"""


class Page:
    """A page that is put together piece by piece; each call adds one piece and returns the page.

    >>> page = Page("A < B").heading("Why").text("1 & 2")
    >>> "A &lt; B" in page.html() and "1 &amp; 2" in page.html()
    True
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._parts = [f"<h1>{html.escape(title)}</h1>"]

    def heading(self, text: str) -> Self:
        """Begin a section."""
        return self._add(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str, *, small: bool = False) -> Self:
        """Add a paragraph."""
        mark = ' class="small"' if small else ""
        return self._add(f"<p{mark}>{html.escape(text)}</p>")

    def verdict(self, text: str, *, failing: bool = False) -> Self:
        """Add the one sentence that matters, in a box."""
        mark = "verdict failing" if failing else "verdict"
        return self._add(f'<p class="{mark}">{html.escape(text)}</p>')

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Self:
        """Add a table of strings; without columns it has no head."""
        head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
        body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        return self._add(f"<table>{f'<tr>{head}</tr>' if head else ''}{body}</table>")

    def code(self, text: str) -> Self:
        """Add code to paste."""
        return self._add(f"<pre><code>{html.escape(text)}</code></pre>")

    def figure(self, figure: "Figure") -> Self:
        """Add a figure as inline SVG."""
        return self._add(f"<figure>{svg(figure)}</figure>")

    def html(self) -> str:
        """Return the whole page."""
        head = f'<meta charset="utf-8"><title>{html.escape(self.title)}</title><style>{_STYLE}</style>'
        return (
            f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n'
            + "\n".join(self._parts)
            + "\n</body></html>\n"
        )

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the page, whole or not at all. Raises BadFile when that is not possible."""
        write_whole(path, self.html())

    def _add(self, part: str) -> Self:
        self._parts.append(part)
        return self


def svg(figure: "Figure") -> str:
    """Return a figure as an <svg> element; its texts are escaped by matplotlib, and drawn as outlines."""
    from matplotlib import rc_context

    stream = io.StringIO()
    with rc_context({"svg.hashsalt": "eigenstep"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]


def diagnosis_page(d: "Diagnosis", target: str = "") -> Page:
    """Return a diagnosis as a page: verdict, spectrum with limits, evidence, what a change would do, code to paste."""
    from eigenstep.advice.diagnosis import CHANGE_COLUMNS, CHANGE_NOTE

    page = Page(f"eigenstep diagnosis{f' of {target}' if target else ''}").verdict(d.sentence, failing=d.failing)
    page.text(f"Assumption: {d.assumption}.", small=True)
    spectrum = d.spectrum
    if spectrum is not None and d.slow is not None:
        page.heading("The spectrum, and what the lr bears")
        page.figure(d.plot().figure)
    page.heading("Evidence").table((), d.rows())
    if d.shares:
        shown = list(d.shares.items())[:8]
        page.heading("Where the sharp direction lies")
        page.table(("parameter", "share"), [(name, f"{share:.1%}") for name, share in shown])
    if d.changes:
        page.heading("What a change would do").table(CHANGE_COLUMNS, d.change_rows())
        page.text(CHANGE_NOTE, small=True)
        for change in d.changes:
            if change.note:
                page.text(f"{change.name}: {change.note}", small=True)
    page.heading("To paste").code(code_to_paste(d))
    if d.notes or d.reasons:
        page.heading("Notes")
        for note in d.notes:
            page.text(note)
        page.table((), [(name, reason) for name, reason in d.reasons.items()])
    return page.text(f"{d.products} Hessian-vector products, {d.seconds:.1f} s.", small=True)


def code_to_paste(d: "Diagnosis") -> str:
    """Return the lines that act on a diagnosis."""
    lines = ["import eigenstep as es", "", "print(es.diagnose(objective, optimizer))"]
    if d.limit is not None and d.lr and d.verdict in ("unstable", "clipped", "warm-up", "noisy"):
        lines += [
            "",
            f"# half the largest stable lr, {d.limit.max_stable_lr:.4g}; the groups' ratios are kept",
            "for group in optimizer.param_groups:",
            f'    group["lr"] *= {0.5 * d.limit.max_stable_lr / d.lr:.4g}',
        ]
    return "\n".join(lines)


def recommendation_page(r: "Recommendation", target: str = "") -> Page:
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


def _base(r: "Recommendation") -> float:
    return next(lr for lr in r.groups if lr > 0)
