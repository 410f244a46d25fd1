"""HTML: a self-contained page, and a result for a notebook; no script, no link, every string escaped."""

import html
import io
import os
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Self

from eigenstep.files import write_whole

if TYPE_CHECKING:
    from jinja2 import Template
    from matplotlib.figure import Figure

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

_FRAGMENT = """
<div>
<p><b>{{ sentence }}</b></p>
{% if rows %}
<table>{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</table>
{% endif %}
{% if table %}
<table>
<tr>{% for name in columns %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in table %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table>
{% endif %}
{% for note in notes %}
<p><small>{{ note }}</small></p>
{% endfor %}
</div>
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


@cache
def _template() -> "Template":
    from jinja2 import Environment

    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(_FRAGMENT)


def fragment(
    sentence: str,
    rows: Sequence[Sequence[str]] = (),
    columns: Sequence[str] = (),
    table: Sequence[Sequence[str]] = (),
    notes: Sequence[str] = (),
) -> str:
    """Return a result as a piece of HTML for a notebook: a sentence, pairs, a table, notes; every string escaped.

    >>> "a &lt; b" in fragment("a < b") and "<table>" in fragment("", rows=[("lr", "0.1")])
    True
    """
    return _template().render(sentence=sentence, rows=rows, columns=columns, table=table, notes=notes)
