"""Take the README's picture of the explorer, docs/explorer.png, in headless chromium: python docs/explorer.py."""

from pathlib import Path

from playwright.sync_api import sync_playwright

from eigenstep.page import Server

PICTURE = Path(__file__).with_suffix(".png")
SCENE = (
    "#angle=20&tab=map&selected=1&rule=gradient-descent,lr=0.0196&rule=heavy-ball,lr=0.0035&rule=nesterov,lr=0.0101"
    "&rule=adam,lr=0.0198"
)


def main() -> None:
    """Serve the page, open the scene, save what a window of 1440 x 900 shows."""
    with sync_playwright() as playwright, Server() as server:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1440, "height": 880}, color_scheme="light", reduced_motion="reduce")
        page.goto(server.url + SCENE)
        page.wait_for_selector("html[data-ready]")
        page.wait_for_timeout(500)
        page.screenshot(path=PICTURE)
        browser.close()
    print(f"{PICTURE}: {PICTURE.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
