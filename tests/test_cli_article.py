"""`eigenstep article`, `claims` and `demo`: what they print and write, bad input, and what a killed run leaves."""

import io
import json
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

import eigenstep as es
from eigenstep import draw
from eigenstep.article import claims, experiments, figures, tuned
from eigenstep.cli import demo, main
from eigenstep.files import read_envelope


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def whole(folder: Path) -> list[str]:
    """Check that every image of the folder can be read to its end; return the names of the PNGs."""
    for path in folder.glob("*.svg"):
        ElementTree.parse(path)
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            image.load()
    return sorted(path.stem for path in folder.glob("*.png"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two figures, and few lrs for Adam."""
    chosen = {name: figures.FIGURES[name] for name in ("overall-convergence", "adam")}
    monkeypatch.setattr(figures, "FIGURES", chosen)
    monkeypatch.setattr(tuned, "CONTENDERS", tuned.CONTENDERS[:1])
    monkeypatch.setattr(experiments, "EXPERIMENTS", experiments.EXPERIMENTS[2:])
    monkeypatch.setattr(experiments, "PASSES", 2000)


@pytest.mark.usefixtures("quick")
def test_article_prints_its_table_and_writes_its_files(tmp_path: Path) -> None:
    result = run("article", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    lines = {line.split("  ")[0].strip(): line for line in result.stdout.splitlines()}
    assert lines["momentum .9, .175 η*"].split()[4:10] == ["137", "137", "137", "137", "137", "settled"]
    assert "1,265" in lines["Adam, η*"]
    assert "last above at 164, below from 165 on, within 2,000" in lines["Adam, η*"]
    assert lines["heavy ball, β*"].split()[-4:] == ["46", "46", "for", "ever"]
    assert whole(tmp_path) == ["adam", "overall-convergence"]
    saved = read_envelope(tmp_path / "results.json", "article")
    assert [one["article_count"] for one in saved["experiments"]] == [137, 117]
    for one in (*saved["experiments"], *saved["tuned"]):
        assert [repr(es.Rule.from_dict(rule)) for rule in one["rules"]] == [one["rule"]]
    assert not list(tmp_path.glob(".*"))


@pytest.mark.usefixtures("quick")
def test_article_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiments, "EXPERIMENTS", experiments.EXPERIMENTS[:1])
    monkeypatch.setattr(figures, "FIGURES", {"overall-convergence": figures.FIGURES["overall-convergence"]})
    result = run("article", "--out", str(tmp_path), "--json")
    content = json.loads(result.stdout)
    assert (content["kind"], content["exact"], len(content["figures"])) == ("article", True, 1)
    assert {one["name"]: one["measured"] for one in content["tuned"]}["heavy ball, β*"] == 46


@pytest.mark.parametrize("command", ["article", "demo"])
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, command: str) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    result = run(command, "--out", str(blocked / "results"))
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert "choose another folder with --out" in result.stderr


def test_a_figure_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(io.FileIO):
        def write(self, data: Any) -> int:
            super().write(data[: len(data) // 2])
            raise KeyboardInterrupt

    draw.save(draw.panels()[0], tmp_path, "first")
    monkeypatch.setattr("eigenstep.files.open", lambda file, mode: Interrupted(file, mode), raising=False)
    with pytest.raises(KeyboardInterrupt):
        draw.save(draw.panels()[0], tmp_path, "second")
    assert whole(tmp_path) == ["first"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.png", "first.svg"]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_a_killed_run_leaves_its_finished_figures_whole(tmp_path: Path, how: signal.Signals) -> None:
    command = [sys.executable, "-c", "from eigenstep.cli import main; main()", "article", "--out", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 240
        while len(list(tmp_path.glob("*.png"))) < 3 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(how)
        process.wait()
        assert process.stderr is not None
        said = process.stderr.read().decode()
    assert process.returncode == (130 if how == signal.SIGINT else -how)
    names = whole(tmp_path)
    assert 3 <= len(names) < len(figures.FIGURES)
    assert read_envelope(tmp_path / "results.json", "article")["exact"]
    if how == signal.SIGINT:
        assert len(said.strip().splitlines()) == 1
        assert not list(tmp_path.glob(".*"))


def test_claims_prints_verdict_and_number() -> None:
    result = run("claims", "remainder-c1", "damped", "steepest")
    assert result.exit_code == 0, result.output
    lines = {line.split()[0]: line for line in result.stdout.splitlines() if line}
    assert "wrong" in lines["remainder-c1"]
    assert "1.5" in lines["remainder-c1"]
    assert "holds only if the length of a step is Euclidean" in lines["steepest"]
    assert "1 hold, 1 hold only under a condition, 1 are wrong" in result.stdout


def test_claims_in_detail_and_as_json() -> None:
    result = run("claims", "code", "--details")
    assert "NameError: name 'minima' is not defined" in result.stdout
    content = json.loads(run("claims", "alpha-lambda", "diverges", "--json").stdout)
    assert content["kind"] == "claims"
    assert [one["verdict"] for one in content["claims"]] == ["holds only if", "holds"]
    assert content["claims"][0]["within"]["number"] == pytest.approx(1e4)
    assert content["verdicts"] == {"holds": 1, "holds only if": 1, "wrong": 0}


def test_an_infinite_number_is_still_json(monkeypatch: pytest.MonkeyPatch) -> None:
    stable = claims.Claim(
        "stable", "s", "it leaves", lambda: claims.Measured(float("inf"), "never"), "pass", "at most", 10
    )
    monkeypatch.setattr(claims, "CLAIMS", (stable,))
    content = json.loads(run("claims", "--json").stdout)
    assert (content["claims"][0]["number"], content["claims"][0]["verdict"]) == ("inf", "wrong")


def test_an_unknown_claim_is_one_line() -> None:
    result = run("claims", "jenson")
    assert result.exit_code == 2
    assert "did you mean 'jensen'" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_demo_runs_its_sections_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert next(iter(demo.SECTIONS)) == "article"
    called: list[str] = []

    def section(name: str) -> demo.Section:
        def run_it(where: Path, quiet: bool) -> tuple[dict[str, Any], list[Path]]:
            called.append(name)
            assert torch.get_num_threads() == 1
            return {"quiet": quiet}, [where / f"{name}.png"]

        return run_it

    monkeypatch.setattr(demo, "SECTIONS", {"one": section("one"), "two": section("two")})
    result = run("demo", "--out", str(tmp_path), "--json")
    assert result.exit_code == 0, result.output
    assert called == ["one", "two"]
    assert json.loads(result.stdout)["two"]["quiet"] is True
    saved = read_envelope(tmp_path / "results.json", "demo")
    assert [Path(name).name for name in saved["figures"]] == ["one.png", "two.png"]


@pytest.mark.slow
def test_demo_meets_every_goal(tmp_path: Path) -> None:
    result = run("demo", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert result.stdout.index("gradient descent, η*") < result.stdout.index("breast-cancer: 31 parameters")
    assert "21 of 21 predicted limits met by running" in result.stdout
    saved = read_envelope(tmp_path / "results.json", "demo")
    assert saved["article"]["exact"]
    assert saved["limits"]["met"]
    worst = saved["limits"]["largest_difference"]
    assert worst["linear"] <= 0.01
    assert worst["live"] <= 0.01
    assert worst["held P"] <= 0.03
    assert whole(tmp_path) == ["advice", "limits-breast-cancer", "limits-diabetes", "limits-digits"]
    advice = saved["advice"]
    assert advice["diagnosis"]["verdict"] == "crawling"
    assert advice["recommendation"]["lr"] == advice["lrs"]["recommended"] < advice["limit"]
    ends = {name: losses[-1] for name, losses in advice["losses"].items()}
    start = advice["losses"]["recommended"][0]
    assert ends["recommended"] < 0.1 * start
    assert ends["recommended"] < ends["a tenth of it"] < start < ends["above the edge"]
    assert read_envelope(tmp_path / "recommendation.json", "recommendation")["lr"] == advice["lrs"]["recommended"]
    assert "<script" in (tmp_path / "explorer.html").read_text(encoding="utf-8")


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from eigenstep.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules, 'imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "article" in done.stdout
    assert "claims" in done.stdout
