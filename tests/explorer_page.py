"""Hands and eyes for the explorer's tests: visit, wait until drawn, read what is shown."""

from typing import Any

from playwright.sync_api import Page

READY = "html[data-ready]"


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


def give(page: Page, name: str, content: str) -> None:
    """Open a report, as by the button."""
    page.set_input_files("#file", {"name": name, "mimeType": "application/json", "buffer": content.encode()})
    drawn(page)


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


# The SVG that a view's button saves, as text.
SAVED = """async (id) => {
  const made = [], was = URL.createObjectURL;
  URL.createObjectURL = (blob) => (made.push(blob), was.call(URL, blob));
  document.querySelector(`#${id} button[aria-label$="SVG"]`).click();
  await new Promise((done) => setTimeout(done, 50));
  URL.createObjectURL = was;
  return made[0].text();
}"""
