"""Reports in the explorer, good, partial, hostile and broken; the exported file, its policy, and what is saved."""

import json
from pathlib import Path
from typing import Any

import pytest
from explorer_page import SAVED, counts, drawn, give, until, visit
from playwright.sync_api import Page

import eigenstep as es
from eigenstep.files import envelope
from eigenstep.page import export

HOSTILE = '</script><img src=x onerror="document.title=1"><a href="https://evil.example">x</a>'

REPORTS: dict[str, str] = {
    "spectrum": envelope(
        "spectrum", es.Spectrum.from_eigenvalues([9.0, 4.0, -1.0], covers="ends", dimension=50).as_dict()
    ),
    "preconditioned": envelope(
        "spectrum",
        es.Spectrum.from_eigenvalues(
            [300.0, 20.0], covers="top", dimension=50, operator="preconditioned", preconditioner={"rule": "adam"}
        ).as_dict(),
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
            ).as_dict(),
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
    "limit": envelope(
        "limit",
        {
            "ratio": 0.6,
            "max_stable_lr": 0.2,
            "lr": 0.12,
            "sharpness": 19.0,
            "sharpness_bound": 0.1,
            "certified": True,
            "rules": [es.Momentum(lr=0.12, momentum=0.9).as_dict()],
            "notes": [HOSTILE],
            "edge": es.Spectrum.from_eigenvalues(
                [0.6], covers="top", dimension=50, operator="preconditioned", preconditioner={"edge": True}
            ).as_dict(),
        },
    ),
    "limit at rest": envelope(
        "limit",
        {"ratio": None, "max_stable_lr": "inf", "lr": 0.0, "sharpness": 0.0, "edge": {"values": [0.0]}, "rules": [3]},
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
    "step alone": (envelope("critical sharpness", {"value": 4.0}), "give limit_now"),
    "kind": ('{"format":"eigenstep","version":1,"kind":"<b>race</b>"}', "<b>race</b>"),
    "deep": ("[" * 200_000, "cannot be read"),
    "nan": ('{"format":"eigenstep","version":1,"kind":"spectrum","values":[NaN]}', "not whole JSON"),
}


FIRST = ("monitor", "limit", "hostile")  # of the kinds of reports, in the default suite


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[] if k in FIRST else pytest.mark.slow) for k in REPORTS])
def test_reports_are_explored(page: Page, url: str, kind: str) -> None:
    visit(page, url)
    give(page, f"{kind}{HOSTILE[:12]}.json", REPORTS[kind])
    page.wait_for_selector("#report-charts canvas")
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
        "limit": ("The largest stable lr is 0.200; the lr is 0.120, a stability ratio of 0.600", "Certified.", HOSTILE),
        "limit at rest": ("Any lr is stable here; the lr is 0.00.",),
        "bare": ("1 eigenvalue of the Hessian",),
    }[kind]
    for words in wanted:
        assert words in text, (words, text)
    if kind == "recommendation":
        assert page.evaluate("explorer.report.runs[0].steps") == [0, 10, 40]
        assert page.evaluate("[...explorer.report.spectrum.values]") == [9.0]
        assert page.evaluate("explorer.state.racers[0].p.momentum") == 0.5  # from lr * sharpness = 2 (1 + momentum)
    if kind == "limit":
        assert page.evaluate("[...explorer.report.spectrum.values]") == [19.0]  # not its edge's, a stability ratio
        assert page.evaluate("explorer.state.racers[0].p.momentum") == 0.9
    if kind == "preconditioned":  # the filter is linear once its unit is frozen: predicted is simulated
        off = page.evaluate(
            """() => { const {run, prediction} = explorer.model.racers[0];
            return Math.max(...Array.from({length: 200}, (_, k) => Math.abs(run.losses[k] - prediction.losses[k]))) }"""
        )
        assert off < 1e-9
    if kind == "spectrum":
        assert page.evaluate(SAVED, "yours-spectrum").count("not measured") == 1
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
    page.wait_for_selector("#report-charts canvas")
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
    page.wait_for_selector("#report-charts canvas")
    for view in ("landscape", "loss", "components", "radii", "settings", "yours-spectrum"):
        with page.expect_download() as waiting:
            page.click(f"button[aria-label='Save {view} as {format_.upper()}']")
        content = Path(waiting.value.path()).read_bytes()
        assert waiting.value.suggested_filename == f"eigenstep-{view}.{format_}"
        assert len(content) > 1500
        assert content.startswith(b"\x89PNG") if format_ == "png" else content.startswith(b"<svg")
