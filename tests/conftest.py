"""One thread, one seed and the same examples for every run: steady times, repeatable numbers. And a real browser."""

import os
import shutil
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # begun in the background: tests of Ctrl-C must hear it
    signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile("repeatable", max_examples=30, deadline=None, derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    torch.manual_seed(0)
    yield
    assert torch.get_default_dtype() == torch.float32, "a test left another default dtype behind"


CHROMIUM = "/usr/bin/chromium"
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run")


@pytest.fixture(scope="module")
def chromium() -> "Iterator[Browser]":
    """Debian's chromium, headless; skips without it, and fails in CI."""
    path = CHROMIUM if os.path.exists(CHROMIUM) else shutil.which("chromium")
    if path is None:
        sentence = "the page is tested in a real browser, and there is no chromium: apt-get install chromium"
        if os.environ.get("CI") == "true":
            pytest.fail(sentence)
        pytest.skip(sentence)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: "Browser") -> "Iterator[Page]":
    """A page of 1440 x 900; fails when it logs an error, throws, or asks anything of another machine."""
    context = chromium.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
    context.set_default_timeout(15_000)
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    here = ("http://127.0.0.1:", "http://localhost:", "file://", "data:", "blob:", "about:")
    page.on("request", lambda asked: None if asked.url.startswith(here) else wrong.append(f"asked {asked.url}"))
    yield page
    context.close()
    assert not wrong, wrong


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Where the explorer is served."""
    from eigenstep.page import Server

    with Server() as server:
        yield server.url
