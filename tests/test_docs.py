"""The README tells the truth: its Python runs, its commands exist, its tables are those that were measured."""

import re
import runpy
from pathlib import Path

import pytest

import eigenstep as es
from eigenstep.cli import COMMANDS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_two_commands_come_first() -> None:
    commands = [line.strip() for line in README.splitlines() if line.startswith("    ")]
    assert commands[:2] == ["make demo", "make test"]


def test_the_python_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) >= 2
    names: dict[str, object] = {"__name__": "readme"}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "0.9487" in printed or "0.948683" in printed
    assert "0.339" in printed


def test_its_commands_exist() -> None:
    shown = [line.split()[1] for line in README.splitlines() if line.startswith("    eigenstep ")]
    assert set(shown) <= set(COMMANDS)
    assert len(shown) >= 5


def test_its_tables_are_those_of_the_benchmarks() -> None:
    advice = (ROOT / "docs" / "advice.md").read_text(encoding="utf-8")
    tables = [line for line in [*README.splitlines(), *advice.splitlines()] if line.startswith("| ")]
    measured = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8").splitlines()
    assert tables
    assert set(tables) <= set(measured)


def test_every_public_name_is_there_and_has_a_docstring() -> None:
    for name in es.__all__:
        assert getattr(es, name).__doc__, name


def test_the_list_of_public_names_is_the_code_s() -> None:
    written = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert written == runpy.run_path(str(ROOT / "docs" / "api.py"))["text"](), "run python docs/api.py"
    assert all(f"- **`{name}`**: " in written for name in es.__all__)


def test_what_the_glossary_points_to_is_there() -> None:
    package = Path(es.__file__).parent
    rows = [line for line in (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").splitlines() if "`" in line]
    places = [place for row in rows for place in re.findall(r"`([a-z_/]+\.py)`", row)]
    assert len(places) > 40
    assert not [place for place in places if not (package / place).is_file()]


def test_the_documents_link_to_what_exists() -> None:
    for page in [ROOT / "CONTRIBUTING.md", ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([\w./-]+\.(?:md|py|png))\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
