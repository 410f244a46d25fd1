"""The explorer in a real browser: the tour's numbers, hands, links, code, sizes and colours."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from explorer_page import SAVED, counts, drawn, until, visit
from playwright.sync_api import Page

import eigenstep as es
from eigenstep.rules import rule_named

TOUR: dict[str, tuple[str, ...]] = {
    "best": ("420",),
    "too-high": ("left at step 101",),
    "momentum": ("420", "137"),
    "adam": ("420", "137", "117"),
    "turned": ("420", "137", "1,265"),
    "settled": ("136", "settled at 160", "last above at 164 within 10,000"),
    "fair": ("settled at 46", "settled at 94", "settled at 155", "last above at 147", "settled at 320"),
    "rate": ("0.3333", "0.4"),
    "look-ahead": ("0.01357", "0.038"),
    "transient": ("786",),
    "wells": ("0.02",),
    "orbit": ("0.1*", "not within 200"),
    "many": ("420",),
    "valley": ("not within 5,000",),
}


def test_every_stop_of_the_tour_shows_its_numbers(page: Page, url: str) -> None:
    visit(page, url)
    stops = page.evaluate("[...document.querySelectorAll('#tour option')].map((o) => o.value).filter(Boolean)")
    assert stops == list(TOUR)
    for stop, numbers in TOUR.items():
        page.select_option("#tour", stop)
        drawn(page)
        shown = page.inner_text("#racers")
        for number in numbers:
            assert number in shown, (stop, number, shown)
        assert page.inner_text("#says") and page.inner_text("#try").startswith("Try: "), stop
    page.select_option("#tour", "transient")
    drawn(page)
    svg = page.evaluate(SAVED, "components")
    assert "first grows 36.8 times" in svg
    page.select_option("#tour", "wells")
    drawn(page)
    for lr, well in (("0.03", -1.0), ("0.019", 1.0)):  # the flat one above 2 / 100, the sharp one below
        page.fill("#box-lr", lr)
        page.keyboard.press("Enter")
        drawn(page)
        end = page.evaluate("(({run}) => run.points[2 * run.last])(explorer.model.racers[0])")
        assert end == pytest.approx(well, abs=1e-3)
    page.select_option("#tour", "orbit")
    drawn(page)
    half = page.evaluate("[...explorer.model.racers[0].run.points.subarray(400, 402)]")
    turned = [abs(value - minimum) for value, minimum in zip(half, (0.8, 0.6), strict=True)]
    assert turned == pytest.approx([0.05, 0.05], rel=1e-2)
    page.select_option("#tour", "rate")
    drawn(page)
    assert "best: lr 0.333, R 0.6667" in page.evaluate(SAVED, "settings")


def test_the_tour_s_numbers_are_python_s(page: Page, url: str) -> None:
    visit(page, url)
    for stop in ("fair", "turned"):
        page.select_option("#tour", stop)
        drawn(page)
        angle, racers = page.evaluate("[explorer.state.angle, explorer.state.racers.map((r) => [r.rule, r.p])]")
        problem = es.Quadratic([1.0, 100.0], [0.8, 0.6], start=[0.0, 0.0]).rotated(angle=angle * torch.pi / 180)
        for (name, flat), (count, settled, last, left) in zip(racers, counts(page), strict=True):
            given = {k: v for k, v in flat.items() if v is not None and k not in ("beta1", "beta2")}
            if "beta1" in flat:
                given["betas"] = (flat["beta1"], flat["beta2"])
            rule = rule_named(name, **given)
            if isinstance(rule, es.LinearRule) and not rule.adaptive:
                fate = es.predict(rule, problem.spectrum(), start=[-0.8, -0.6], loss=1e-6)
                assert fate.steps is not None
                assert (count, settled, left) == (fate.steps + 1, fate.settled, None), (stop, name)
            else:
                run = es.simulate(rule, problem, steps=10_000, loss=1e-6, box=5.0, settle=True)
                assert (count, last, left) == (run.article_count, run.last_above, run.left), (stop, name)


def test_turning_slows_adam_alone_and_the_start_is_dragged(page: Page, url: str) -> None:
    visit(page, url)
    page.fill("#box-angle", "45")
    page.keyboard.press("Enter")
    drawn(page)
    assert [row[0] for row in counts(page)] == [420, 137, 1265]
    box = page.locator("#landscape canvas").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.3)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + box["height"] * 0.2, steps=4)
    page.mouse.up()
    drawn(page)
    start = page.evaluate("[...explorer.model.start]")
    u, v = page.evaluate(
        "import('./landscape.js').then((m) => { const c = document.querySelector('#landscape canvas');"
        "const s = m.plane(explorer.model, c.clientWidth, c.clientHeight);"
        "return [s.sx(explorer.model.start[0]), s.sy(explorer.model.start[1])]; })"
    )
    assert (u, v) == (pytest.approx(box["width"] * 0.2, abs=1), pytest.approx(box["height"] * 0.2, abs=1))
    assert start != [0, 0]
    page.locator("#settings canvas").scroll_into_view_if_needed()
    page.click("[data-tab=map]")
    page.check("#racer-1")
    drawn(page)
    box = page.locator("#settings canvas").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.5)
    drawn(page)
    p = page.evaluate("explorer.state.racers[1].p")
    assert 1e-5 < p["lr"] < 0.01 and 0.3 < p["momentum"] < 0.7


def test_everything_works_by_keyboard(page: Page, url: str) -> None:
    visit(page, f"{url}#rule=gradient-descent,lr=0.015&rule=heavy-ball,lr=0.01")
    before = page.evaluate("explorer.state.racers[0].p.lr")
    page.focus("#slider-lr")
    page.keyboard.press("ArrowRight")
    drawn(page)
    assert page.evaluate("explorer.state.racers[0].p.lr") > before
    assert "stable" in (page.get_attribute("#slider-lr", "aria-valuetext") or "")
    page.focus("#landscape canvas")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    drawn(page)
    assert page.evaluate("[...explorer.model.start]") == pytest.approx([0.05, 0.05])
    page.focus("#racer-0")
    page.keyboard.press("ArrowDown")
    drawn(page)
    assert page.evaluate("explorer.state.selected") == 1
    page.focus("#settings canvas")
    page.keyboard.press("ArrowLeft")
    drawn(page)
    assert page.evaluate("explorer.state.racers[1].p.lr") < 0.01
    reached = []
    page.evaluate("document.activeElement.blur()")
    for _ in range(70):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.parentElement.id"))
    wanted = {"tour", "open", "code", "link", "slider-lr", "slider-momentum", "slider-kappa", "slider-angle", "play"}
    assert wanted | {"scrub", "landscape", "settings"} <= set(reached)
    unnamed = page.evaluate(
        """[...document.querySelectorAll('button, input, select, canvas')].filter((e) =>
          !e.getAttribute('aria-label') && !e.labels?.length && !e.textContent.trim()).map((e) => e.outerHTML)"""
    )
    assert unnamed == []


def test_a_wrong_number_is_refused_in_words(page: Page, url: str) -> None:
    visit(page, url)
    before = page.evaluate("explorer.state.racers[2].p.lr")
    for wrong in ("-1", "abc", "nan", ""):
        page.fill("#box-lr", wrong)
        page.keyboard.press("Enter")
        drawn(page)
        assert "must be a number" in page.inner_text("#message")
        assert page.get_attribute("#box-lr", "aria-invalid") == "true"
    assert page.evaluate("explorer.state.racers[2].p.lr") == before


def test_a_link_is_a_figure(page: Page, url: str) -> None:
    visit(page, url)
    page.select_option("#tour", "turned")
    drawn(page)
    page.check("#rules input[value=lion]")
    page.click("[data-scale=signed]")
    drawn(page)
    page.click("#link")
    link = page.evaluate("explorer.copied")
    rows, state = drawn(page), page.evaluate("JSON.stringify(explorer.state)")
    assert page.url == link
    visit(page, link)
    assert drawn(page) == rows
    assert page.evaluate("JSON.stringify(explorer.state)") == state
    for nonsense in (
        "#rule=no,lr=1&kappa=-3&start=a,b&t=x&n=1e9",
        "#rule=adam,lr=1e999,beta1=7",
        "#%%%",
        "#__proto__=1",
    ):
        visit(page, url + nonsense)
        assert page.evaluate("explorer.model.racers.every((r) => r.p.lr > 0)")


def test_the_code_makes_the_rule_that_was_shown(page: Page, url: str) -> None:
    visit(page, url)
    model = torch.nn.Linear(2, 1)
    rules = page.evaluate("import('./rules.js').then((m) => Object.keys(m.RULES))")
    changes = {"momentum": {"momentum": 0.8, "dampening": 0.2}, "rmsprop": {"centered": True, "momentum": 0.5}}
    for name in rules:
        for more in ({}, changes.get(name, {"weight_decay": 0.25})):
            flat = {"lr": 0.0125, **({} if name == "sign-descent" else more)}
            code = page.evaluate(
                "async ([n, c]) => { const r = await import('./rules.js'), m = await import('./code.js');"
                "return m.pytorch(n, r.settings(n, c)); }",
                [name, flat],
            )
            names: dict[str, Any] = {"model": model}
            exec(code, names)
            optimizer = names["optimizer"]
            made = es.rule_of(optimizer)[0].rule
            shown = rule_named(name, **flat)
            if name == "heavy-ball" and not isinstance(optimizer, es.Optimizer):
                shown = es.Momentum(lr=0.0125, momentum=0.9, weight_decay=flat.get("weight_decay", 0.0))
            if name == "momentum" and not more:
                shown = es.GradientDescent(lr=0.0125)
            assert made == shown, (name, code)


def luminance(color: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


SIZES = [(1440, 900, "light"), (390, 844, "dark"), (1440, 900, "dark"), (390, 844, "light")]
SIZES += [(1024, 768, "light"), (1024, 768, "dark")]


@pytest.mark.parametrize(
    ("width", "height", "scheme"),
    [pytest.param(*size, marks=[] if i < 2 else pytest.mark.slow) for i, size in enumerate(SIZES)],
)
def test_it_fits_and_reads_at_every_size(
    page: Page, url: str, tmp_path: Path, width: int, height: int, scheme: Any
) -> None:
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    visit(page, url)
    drawn(page)
    page.screenshot(path=tmp_path / f"{width}-{scheme}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    colors = page.evaluate(
        """['ink', 'muted', 'accent', 'bad', ...explorer.model.racers.map((r) => r.name)].map((name) => {
          const probe = document.createElement('i');
          probe.style.color = `var(--${name})`;
          document.body.append(probe);
          const color = getComputedStyle(probe).color;
          probe.remove();
          return [name, color];
        })"""
    )
    ground = luminance(page.evaluate("getComputedStyle(document.querySelector('#race')).backgroundColor"))
    for name, color in colors:
        light = luminance(color)
        contrast = (max(light, ground) + 0.05) / (min(light, ground) + 0.05)
        assert contrast >= 4.5, (name, scheme, contrast)


def test_motion_is_spared_who_asks_for_it(page: Page, url: str) -> None:
    visit(page, url)
    page.select_option("#tour", "momentum")
    drawn(page)
    assert page.evaluate("explorer.state.t") is None
    page.click("#back")
    drawn(page)
    shown = page.evaluate("explorer.model.shown")
    assert page.evaluate("explorer.model.t") == shown - 1
    page.click("#play")
    drawn(page)
    assert page.evaluate("explorer.model.t") == shown
    page.emulate_media(reduced_motion="no-preference")
    page.select_option("#tour", "adam")
    until(page, "explorer.state.t !== null && explorer.model.t > 0")
    until(page, "explorer.state.t === null")
