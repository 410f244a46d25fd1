"""A report's charts as drawn: every dot read off the axes is the file's number; labels apart; keys and pointer."""

import json
import math
import re
from typing import Any

import pytest
from explorer_page import SAVED, drawn, give, visit
from playwright.sync_api import Page

TEXT = re.compile(
    r'<text x="0" y="0" transform="translate\(([-\d.]+) ([-\d.]+)\) rotate\((-?\d+)\)"'
    r'[^>]*text-anchor="(\w+)"[^>]*>([^<]*)<'
)
DOT = re.compile(r'<circle cx="([-\d.]+)" cy="([-\d.]+)"')
UP = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def number(tick: str) -> float:
    """What a tick says: 1,200 or −0.5 or 2e-7 or 2·10⁻⁵."""
    found = re.fullmatch(r"(?:(\d+)·)?10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)", tick)
    if found:
        return float(f"{found[1] or 1}e{found[2].translate(UP)}")
    assert not tick.startswith("-")  # a minus sign is one
    return float(tick.replace(",", "").replace("−", "-"))


def readings(svg: str, log_y: bool) -> list[tuple[float, float]]:
    """Every dot, as a reader takes it off the two axes: from the places and the words of their ticks alone."""
    texts = [(float(u), float(v), anchor, words) for u, v, turn, anchor, words in TEXT.findall(svg) if turn == "0"]
    ticks_y = [(v, number(words)) for u, v, anchor, words in texts if anchor == "end" and u < 120]
    foot = max(v for _, v, anchor, words in texts if anchor == "middle" and re.match(r"[−\d]", words))
    ticks_x = [(u, number(words)) for u, v, anchor, words in texts if v == foot and anchor == "middle"]

    def scale(ticks: list[tuple[float, float]], log: bool, at: float) -> float:
        (p, a), (q, b) = ticks[0], ticks[-1] if log else ticks[-2] if len(ticks) > 2 else ticks[-1]
        a, b = (math.log10(a), math.log10(b)) if log else (a, b)
        value = a + (at - p) * (b - a) / (q - p)
        return 10**value if log else value

    dots = DOT.findall(svg)
    return [(scale(ticks_x, False, float(u)), scale(ticks_y, log_y, float(v))) for u, v in dots]


def agree(read: list[tuple[float, float]], told: list[tuple[float, float]], x: float, *, log_y: bool, y: float) -> None:
    """Within the pixel that a picture can tell: x and y in units of a pixel, y a ratio on a logarithmic axis."""
    assert len(read) == len(told)
    for (u, v), (a, b) in zip(sorted(read), sorted(told), strict=True):
        assert u == pytest.approx(a, abs=x), (u, a)
        assert math.log(v / b) == pytest.approx(0, abs=y) if log_y else v == pytest.approx(b, abs=y), (v, b)


VALUES, WEIGHTS = [-3.0, 0.5, 7.0, 40.0], [2e-6, 0.6, 0.399, 1e-3]
LOSSES = {0.01: [2.0, 1.9, 1.7], 0.1: [2.0, 1.0, 0.5], 1.0: [2.0, 9.0, "nan"]}


def spectrum(covers: str = "all") -> dict[str, Any]:
    return {"values": VALUES, "covers": covers, "dimension": 50, "operator": "hessian"}


def report(kind: str, content: dict[str, Any]) -> str:
    return json.dumps({"format": "eigenstep", "version": 1, "kind": kind, **content})


def test_dots_read_off_the_axes_are_the_file_s_numbers(page: Page, url: str) -> None:
    visit(page, url)
    give(page, "spectrum.json", report("spectrum", spectrum(covers="ends")))
    agree(readings(page.evaluate(SAVED, "yours-spectrum"), False), [(v, 1) for v in VALUES], 0.1, log_y=False, y=0.01)

    give(page, "density.json", report("density", {**spectrum(), "covers": "density", "weights": WEIGHTS}))
    told = list(zip(VALUES, WEIGHTS, strict=True))
    agree(readings(page.evaluate(SAVED, "yours-spectrum"), True), told, 0.1, log_y=True, y=0.05)

    candidates = [{"lr": lr, "losses": losses, "diverged": lr == 1.0} for lr, losses in LOSSES.items()]
    whole = {"lr": 0.1, "candidates": candidates[::-1], "spectrum": spectrum(covers="top")}
    give(page, "recommendation.json", report("recommendation", whole))
    svg = page.evaluate(SAVED, "yours-recorded")
    told = [(k, v) for losses in LOSSES.values() for k, v in enumerate(losses) if isinstance(v, float)]
    agree(readings(svg, True), told, 0.01, log_y=True, y=0.02)
    names = [words for *_, words in TEXT.findall(svg)]
    assert [n for n in names if n.startswith("lr ")] == ["lr 0.0100", "lr 0.100", "lr 1.00, diverged"]
    assert 'width="900" height="420"' in svg  # however small the page

    rows = [
        {"step": 10 * k, "stability_ratio": 0.2 + k / 7, "ratio_low": k / 7, "ratio_high": 0.3 + k / 7}
        for k in range(9)
    ]
    log = ['{"format":"eigenstep","version":1,"kind":"monitor"}', *map(json.dumps, rows)]
    give(page, "log.jsonl", "\n".join(log))
    svg = page.evaluate(SAVED, "yours-ratio")
    agree(readings(svg, False), [(r["step"], r["stability_ratio"]) for r in rows], 0.2, log_y=False, y=0.01)
    (band,) = re.findall(r'<polygon points="([^"]*)"', svg)
    assert len(band.split()) == 4 * len(rows)
    assert "the edge" in svg


def test_the_predicted_line_is_the_model_s(page: Page, url: str) -> None:
    visit(page, url)
    one = {"values": [4.0], "covers": "top", "dimension": 50}
    candidates = [{"lr": 0.1, "losses": [2.0, 1.0, 0.5], "points": [0, 2, 4]}]
    whole = {"lr": 0.1, "candidates": candidates, "spectrum": one, "limit": {"rules": ["gradient-descent"]}}
    give(page, "recommendation.json", report("recommendation", whole))
    x, y = page.evaluate("(({ x, y }) => [x, y])(explorer.charts[1].series.find((s) => s.dash.length))")
    assert x == [0, 1, 2, 3, 4]
    assert y == pytest.approx([2 * (1 - 0.1 * 4) ** (2 * k) for k in range(5)], rel=1e-12)


# Draws one chart at a width as SVG, puts it into the page, and gives the boxes of its texts.
BOXES = """async ([id, width]) => {
  const [plot, pens, themes] = await Promise.all(['plot', 'pen', 'theme'].map((m) => import(`./${m}.js`)));
  const chart = explorer.charts.find((each) => each.id === id), height = plot.plotHeight(chart, width);
  const pen = new pens.SvgPen(width, height, '#fff');
  plot.drawPlot(pen, themes.readTheme(false), width, height, chart);
  const svg = new DOMParser().parseFromString(pen.toString(), 'image/svg+xml').documentElement;
  document.body.append(svg);
  const frame = svg.getBoundingClientRect();
  const boxes = [...svg.querySelectorAll('text')].map((t) => {
    const b = t.getBoundingClientRect();
    return [t.textContent, b.left - frame.left, b.top - frame.top, b.right - frame.left, b.bottom - frame.top];
  });
  svg.remove();
  return [boxes, height];
}"""


@pytest.mark.parametrize("width", [320, 900])
def test_no_label_is_cut_or_lies_on_another(page: Page, url: str, width: int) -> None:
    visit(page, url)
    limits = [
        {"name": f"a rule of a long name, number {k}", "largest_stable": at}
        for k, at in enumerate((1, 5, 5, 30, 41, 60))
    ]
    diagnosis = {"sentence": "s", "limits": limits, "lr": 0.01, "spectrum": spectrum(covers="ends")}
    tiny = {"values": [1e-7, 1.0001e-7], "covers": "all", "operator": "preconditioned"}
    candidates = [{"lr": 0.01 * 2**k, "losses": [2.0 - k / 10, 1.5, 1.2]} for k in range(12)]
    level = [{"lr": 0.1, "losses": [-2.0, -2.00001, -2.00003]}]
    reports = {
        "diagnosis": (diagnosis, ["spectrum"]),
        "spectrum": (tiny, ["spectrum"]),
        "recommendation": ({"lr": 0.1, "candidates": candidates, "spectrum": spectrum()}, ["spectrum", "recorded"]),
        "level": ({"lr": 0.1, "candidates": level}, ["recorded"]),
    }
    for kind, (content, charts) in reports.items():
        give(page, f"{kind}.json", report("recommendation" if kind == "level" else kind, content))
        for chart in charts:
            boxes, height = page.evaluate(BOXES, [chart, width])
            assert len(boxes) > 6
            for name, left, top, right, bottom in boxes:
                assert left >= 0 and top >= 0 and right <= width and bottom <= height + 1, (kind, width, name)
            for i, (name, left, top, right, bottom) in enumerate(boxes):
                for other, l2, t2, r2, b2 in boxes[i + 1 :]:
                    apart = right <= l2 + 1 or r2 <= left + 1 or bottom <= t2 + 3 or b2 <= top + 3
                    assert apart, (kind, width, name, other)


def test_pointer_and_keys_tell_a_point_s_numbers(page: Page, url: str) -> None:
    visit(page, url)
    give(page, "spectrum.json", report("spectrum", {**spectrum(covers="ends"), "bounds": [0, 0, 0.25, 0]}))
    canvas, tip = page.locator("#yours-spectrum canvas"), page.locator("#yours-spectrum .tip")
    assert not tip.is_visible()
    for key, words in (("ArrowRight", "−3"), ("ArrowRight", "0.5"), ("End", "40"), ("ArrowLeft", "7 ± 0.25")):
        canvas.press(key)
        assert tip.inner_text() == words
    canvas.press("Escape")
    assert not tip.is_visible()
    at = page.evaluate("(({ sx, sy }) => [sx(40) + 5, sy(1) - 4])(explorer.places['yours-spectrum'])")
    canvas.hover(position={"x": at[0], "y": at[1]})
    assert tip.inner_text() == "40"
    candidates = [{"lr": lr, "losses": losses} for lr, losses in LOSSES.items()]
    give(page, "recommendation.json", report("recommendation", {"lr": 0.1, "candidates": candidates}))
    canvas, tip = page.locator("#yours-recorded canvas"), page.locator("#yours-recorded .tip")
    for key, words in (("Home", "lr 0.0100: loss 2 at update 0"), ("End", "lr 0.0100: loss 1.7 at update 2")):
        canvas.press(key)
        assert tip.inner_text() == words
    canvas.press("ArrowDown")
    assert tip.inner_text() == "lr 0.100: loss 0.5 at update 2"
    unnamed = page.evaluate(
        """[...document.querySelectorAll('#yours button, #yours canvas')].filter((e) =>
          !e.getAttribute('aria-label') && !e.textContent.trim()).map((e) => e.outerHTML)"""
    )
    assert unnamed == []
    page.set_viewport_size({"width": 360, "height": 740})
    drawn(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_ticks_are_round_and_say_so(page: Page, url: str) -> None:
    visit(page, url)
    for low, high, log in (
        (0.5, 2.3, True),
        (1.01, 1.09, True),
        (3e-5, 4e-4, True),
        (1e-12, 1e9, True),
        (1e-300, 1e300, True),
        (-2.00003, -2, False),
        (0, 1e-9, False),
        (-1e300, 1e300, False),
        (0, 123456789, False),
    ):
        values, texts = page.evaluate(
            """([low, high, log]) => import('./axes.js').then((m) => {
              const y = { low, high, log, label: '' };
              const { yTicks, yTexts } = m.layout(400, 232, { low: 0, high: 1, label: '' }, y);
              return [yTicks, yTexts];
            })""",
            [low, high, log],
        )
        assert 2 <= len(values) <= 7 and len(set(texts)) == len(texts), (low, high, texts)
        for value, text in zip(values, texts, strict=True):
            assert low - 1e-9 * abs(low) <= value <= high + 1e-9 * abs(high)
            assert number(text) == pytest.approx(value, rel=1e-9, abs=1e-9 * (high - low) if not log else 0), (
                value,
                text,
            )
