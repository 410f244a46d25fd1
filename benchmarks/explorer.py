"""The explorer in headless chromium: from a slider's move to the new picture, and from opening to the first one."""

import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from eigenstep.page import Server, export

TITLE = "The explorer: milliseconds to the next picture (headless chromium, no GPU)"

CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run"]
MOVES, OPENINGS = 150, 7
LINES = "n=200&steps=500&rule=heavy-ball,lr=0.01&rule=gradient-descent,lr=0.0198&rule=nesterov,lr=0.0079"
SCENES = {
    "200 eigenvalues x 500 updates x 4 rules": f"#{LINES}&rule=adam,lr=0.01",
    "the same, the (lr, momentum) map shown": f"#{LINES}&rule=adam,lr=0.01&tab=map",
    "2 eigenvalues x 10,000 updates x 3 rules (the tour)": "#rule=heavy-ball,lr=0.0035&rule=gradient-descent,lr=0.0198"
    "&rule=adam,lr=0.0198",
}
# The page draws in the animation frame after the event; ours is queued behind it, and a task after that frame ends it.
MOVE = """async ([slider, moves]) => {
  const input = document.getElementById(slider), middle = (Number(input.max) + Number(input.min)) / 2, taken = [];
  for (let k = 0; k < moves + 10; k++) {
    const began = performance.now(), drawn = explorer.drawn;
    input.value = middle + ((k * 37) % 100) * (Number(input.max) - middle) / 160;
    input.dispatchEvent(new Event('input', {bubbles: true}));
    await new Promise((done) => requestAnimationFrame(() => {
      const after = new MessageChannel();
      after.port1.onmessage = done;
      after.port2.postMessage(0);
    }));
    if (explorer.drawn !== drawn + 1) throw new Error('no new picture');
    if (k >= 10) taken.push(performance.now() - began);
    await new Promise((done) => setTimeout(done, 5));
  }
  return taken;
}"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's chromium, headless."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield browser
        browser.close()


def moves(browser: Browser, url: str, slider: str) -> list[float]:
    """Milliseconds from each move of a slider to the end of the frame that shows it."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("html[data-ready]")
    taken: list[float] = page.evaluate(MOVE, [slider, MOVES])
    context.close()
    return taken


def openings(browser: Browser, url: str) -> list[float]:
    """Milliseconds from the start of loading to the first picture, nothing cached."""
    taken = []
    for _ in range(OPENINGS):
        context = browser.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
        page = context.new_page()
        page.goto(url)
        page.wait_for_selector("html[data-ready]")
        taken.append(float(page.evaluate("explorer.first")))
        context.close()
    return taken


def row(name: str, taken: list[float]) -> list[str]:
    """The median and the 95th percentile."""
    late = sorted(taken)[min(round(0.95 * len(taken)), len(taken) - 1)]
    return [name, str(len(taken)), f"{statistics.median(taken):.0f}", f"{late:.0f}", f"{max(taken):.0f}"]


def run() -> tuple[list[str], list[list[str]]]:
    """Move the lr slider in each scene and the condition number's in the first; open the page served and from disk."""
    rows = []
    with chromium() as browser, Server() as server, tempfile.TemporaryDirectory() as folder:
        for name, scene in SCENES.items():
            rows.append(row(f"lr slider, {name}", moves(browser, server.url + scene, "slider-lr")))
        first = next(iter(SCENES))
        rows.append(row(f"condition slider, {first}", moves(browser, server.url + SCENES[first], "slider-kappa")))
        rows.append(row("first picture, served", openings(browser, server.url)))
        page = export(Path(folder) / "page.html")
        rows.append(row("first picture, exported file from disk", openings(browser, page.as_uri())))
    return ["what", "times", "median", "95th percentile", "largest"], rows
