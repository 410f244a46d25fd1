"""The explorer in a real browser: the tour's numbers, hands, links, reports good and bad, the exported file."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Page

import eigenstep as es
from eigenstep.page import Server, export
from eigenstep.rules import rule_named
from eigenstep.spectrum import envelope

READY = "html[data-ready]"
HOSTILE = '</script><img src=x onerror="document.title=1"><a href="https://evil.example">x</a>'


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with Server() as server:
        yield server.url


def visit(page: Page, where: str) -> None:
    page.goto("about:blank")
    page.goto(where)
    page.wait_for_selector(READY)


def drawn(page: Page) -> Any:
    """Let what was changed be drawn and settled; the racers as the table shows them."""
    page.wait_for_timeout(60)
    page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 200)))")
    return [
        [cell.strip() for cell in row.split("\t")] for row in page.inner_text("#racers").splitlines() if row.strip()
    ]


def until(page: Page, condition: str) -> None:
    """Wait for a condition; Playwright's own waiting evaluates a string in the page, which the policy forbids."""
    for _ in range(400):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(25)
    raise AssertionError(f"never came true: {condition}")


def counts(page: Page) -> list[list[Any]]:
    """[article's count, predicted settled, last above, left] of each racer."""
    return page.evaluate(
        "explorer.model.racers.map((r) => [r.count, r.prediction?.settled ?? null, r.run.lastAbove, r.run.left])"
    )


TOUR: dict[str, tuple[str, ...]] = {
    "best": ("420",),
    "too-high": ("left at step 101",),
    "momentum": ("420", "137"),
    "adam": ("420", "137", "117"),
    "turned": ("420", "137", "1,265"),
    "settled": ("136", "settled at 160", "last above at 164 within 10,000"),
    "fair": ("settled at 47", "settled at 94", "settled at 155", "last above at 147", "settled at 320"),
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


SAVED = """async (id) => {
  const made = [], was = URL.createObjectURL;
  URL.createObjectURL = (blob) => (made.push(blob), was.call(URL, blob));
  document.querySelector(`#${id} button[aria-label$="SVG"]`).click();
  await new Promise((done) => setTimeout(done, 50));
  URL.createObjectURL = was;
  return made[0].text();
}"""


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


REPORTS: dict[str, str] = {
    "spectrum": envelope(
        "spectrum", es.Spectrum.from_eigenvalues([9.0, 4.0, -1.0], covers="ends", dimension=50).as_dict
    ),
    "preconditioned": envelope(
        "spectrum",
        es.Spectrum.from_eigenvalues(
            [300.0, 20.0], covers="top", dimension=50, operator="preconditioned", preconditioner={"rule": "adam"}
        ).as_dict,
    ),
    "recommendation": envelope(
        "recommendation",
        {
            "lr": 0.1,
            "interval": [0.05, 0.2],
            "reason": HOSTILE,
            "limit": {"rules": ["momentum"], "max_stable_lr": 3.0 / 9.0, "sharpness": 9.0, "coupled_decay": 0.0},
            "candidates": [
                {"lr": 0.1, "losses": [2.0, 1.0, 0.5], "points": [0, 10, 40], "diverged": False},
                {"lr": 1.0, "losses": [2.0, 9.0, "nan"], "diverged": True},
            ],
            # of the edge operator, as advice holds it: its eigenvalue is a stability ratio, not a sharpness
            "spectrum": es.Spectrum.from_eigenvalues(
                [0.3], covers="top", dimension=50, operator="preconditioned", preconditioner={"edge": True}
            ).as_dict,
        },
    ),
    "monitor": '{"format":"eigenstep","version":1,"kind":"monitor","optimizer":"SGD",'
    + '"settings":"momentum=0.9 nesterov=False"}\n'
    + "".join(
        json.dumps({"step": k, "lr": 0.1, "loss": 2.0 / k, "stability_ratio": k / 10, "sharpness": 38.0 * k / 10})
        + "\n"
        for k in range(1, 9)
    )
    + '{"step":9,"alarm":"ratio","sentence":"over the edge"}\n{"step":10,"lo',
    "hostile": envelope(
        "diagnosis",
        {
            "verdict": HOSTILE,
            "sentence": HOSTILE,
            "notes": [HOSTILE, 3, None],
            "limits": [{"name": HOSTILE, "largest_stable": 5.0}, 7, None],
            "lr": "nan",
            "spectrum": {"values": [1.0, "nan", 4.0, None, HOSTILE], "bounds": 3, "weights": None, "covers": HOSTILE},
        },
    ),
    "huge": envelope(
        "spectrum", {"values": [1e308, 1e-308, 0.0, -1e308] * 3000, "covers": "density", "dimension": 1e30}
    ),
    "bare": envelope("spectrum", {"values": [2.0]}),
}

BAD: dict[str, tuple[str, str]] = {
    "empty": ("", "empty"),
    "truncated": (REPORTS["spectrum"][:60], "cut off"),
    "other": ('{"a": 1}', "not a file of eigenstep"),
    "array": ("[1, 2]", "not a file of eigenstep"),
    "nothing": (envelope("spectrum", {"values": ["nan", None]}), "nothing to show"),
    "version": ('{"format":"eigenstep","version":9,"kind":"spectrum"}', "Version “9”"),
    "kind": ('{"format":"eigenstep","version":1,"kind":"<b>race</b>"}', "<b>race</b>"),
    "deep": ("[" * 200_000, "cannot be read"),
    "nan": ('{"format":"eigenstep","version":1,"kind":"spectrum","values":[NaN]}', "not whole JSON"),
}


def give(page: Page, name: str, content: str) -> None:
    page.set_input_files("#file", {"name": name, "mimeType": "application/json", "buffer": content.encode()})
    drawn(page)


FIRST = ("monitor", "hostile")  # of the kinds of reports, in the default suite


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[] if k in FIRST else pytest.mark.slow) for k in REPORTS])
def test_reports_are_explored(page: Page, url: str, kind: str) -> None:
    visit(page, url)
    give(page, f"{kind}{HOSTILE[:12]}.json", REPORTS[kind])
    page.wait_for_selector("#report-charts .main-svg", state="attached")
    assert page.locator("#yours").is_visible()
    assert page.evaluate("explorer.model.racers.length") >= 1
    assert page.title() == "eigenstep explorer"
    assert page.evaluate("document.querySelectorAll('#yours a, #yours img, #racers img').length") == 0
    text = page.inner_text("#yours") + page.inner_text("#racers")
    wanted = {
        "spectrum": ("3 eigenvalues of the Hessian of 50 parameters", "not positive", "“ends” of 50"),
        "preconditioned": ("Adam", "0.1267"),  # 38 / 300
        "recommendation": ("Recommended lr: 0.100", HOSTILE, "momentum (torch)"),
        "monitor": ("8 steps recorded", "stability ratio 0.800 at step 8", "over the edge", "momentum (torch)"),
        "hostile": (HOSTILE, "3 eigenvalues are not finite"),
        "huge": ("Only the first 4000",),
        "bare": ("1 eigenvalue of the Hessian",),
    }[kind]
    for words in wanted:
        assert words in text, (words, text)
    if kind == "recommendation":
        assert page.evaluate("explorer.report.runs[0].steps") == [0, 10, 40]
        assert page.evaluate("[...explorer.report.spectrum.values]") == [9.0]
        assert page.evaluate("explorer.state.racers[0].p.momentum") == 0.5  # from lr * sharpness = 2 (1 + momentum)
    if kind == "preconditioned":  # the filter is linear once its unit is frozen: predicted is simulated
        off = page.evaluate(
            """() => { const {run, prediction} = explorer.model.racers[0];
            return Math.max(...Array.from({length: 200}, (_, k) => Math.abs(run.losses[k] - prediction.losses[k]))) }"""
        )
        assert off < 1e-9
    if kind == "spectrum":
        assert page.inner_text("#yours").count("not measured") == 1
    page.click("#close")
    drawn(page)
    assert not page.locator("#yours").is_visible()
    assert counts(page)[0][0] == 420


def test_bad_reports_are_refused_with_a_sentence(page: Page, url: str) -> None:
    visit(page, url)
    before = drawn(page)
    for name, (content, says) in BAD.items():
        give(page, f"{name}.json", content)
        assert says in page.inner_text("#message"), (name, page.inner_text("#message"))
        assert page.evaluate("document.querySelectorAll('#message b').length") == 0
        assert page.evaluate("explorer.report") is None
    assert drawn(page) == before


def test_a_report_may_be_dropped(page: Page, url: str) -> None:
    visit(page, url)
    data = page.evaluate_handle(
        "(text) => { const t = new DataTransfer(); t.items.add(new File([text], 'd.json')); return t; }",
        REPORTS["spectrum"],
    )
    page.dispatch_event("main", "drop", {"dataTransfer": data})
    until(page, "explorer.report !== null")
    assert page.evaluate("explorer.report.name") == "d.json"


def test_the_exported_file_works_from_disk(page: Page, tmp_path: Path) -> None:
    plain = export(tmp_path / "page.html")
    visit(page, plain.as_uri())
    assert [row[0] for row in counts(page)] == [420, 137, 117]
    page.select_option("#tour", "turned")
    drawn(page)
    assert "preset=turned" in page.url
    whole = export(tmp_path / "report.html", json.loads(REPORTS["hostile"]), HOSTILE)
    visit(page, whole.as_uri())
    page.wait_for_selector("#report-charts .main-svg", state="attached")
    assert HOSTILE in page.inner_text("#report-title")
    assert page.title() == "eigenstep explorer"


def test_the_policy_forbids_the_network(page: Page, url: str, chromium: Any) -> None:
    context = chromium.new_context()
    try:
        page = context.new_page()
        visit(page, url)
        for attempt in ("fetch('https://example.org')", f"fetch('{url}main.js')"):
            failed = page.evaluate(
                f"(async () => {{ try {{ await {attempt}; return false; }} catch {{ return true; }} }})()"
            )
            assert failed, attempt
    finally:
        context.close()


@pytest.mark.parametrize("format_", [pytest.param("png", marks=pytest.mark.slow), "svg"])
def test_every_view_is_saved(page: Page, url: str, format_: str) -> None:
    visit(page, url)
    give(page, "spectrum.json", REPORTS["spectrum"])
    page.wait_for_selector("#report-charts .main-svg", state="attached")
    for view in ("landscape", "loss", "components", "radii", "settings", "yours-spectrum"):
        with page.expect_download() as waiting:
            page.click(f"button[aria-label='Save {view} as {format_.upper()}']")
        content = Path(waiting.value.path()).read_bytes()
        assert waiting.value.suggested_filename == f"eigenstep-{view}.{format_}"
        assert len(content) > 1500
        assert content.startswith(b"\x89PNG") if format_ == "png" else content.startswith(b"<svg")


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
