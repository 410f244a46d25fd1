"""Every result has one shape: plain data, a file that gives it back, words, a notebook's table, a picture, rows."""

import html.parser
import json
import sys
import types
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from every_result import HOSTILE, NAMES, every_result, small

import eigenstep as es
from eigenstep import draw
from eigenstep.cli import main
from eigenstep.curvature import FiniteStep, Layers, Measurement, Trace
from eigenstep.plain import among, key, plain, restored
from eigenstep.theory.prediction import Prediction
from eigenstep.theory.tuned import Tuning
from eigenstep.training import Log, Postmortem


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return every_result()


class Texts(html.parser.HTMLParser):
    """The tags of a piece of HTML, which must be closed in order, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_list_names_every_result(results: dict[str, Any]) -> None:
    assert list(results) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_file_gives_the_result_back(name: str, results: dict[str, Any], tmp_path: Path) -> None:
    result = results[name]
    result.save(tmp_path / "r.json")
    again = type(result).load(tmp_path / "r.json")
    found = es.load(tmp_path / "r.json")
    assert type(found) is type(again) and found.as_dict() == again.as_dict()
    assert again.as_dict() == result.as_dict()
    assert json.loads(json.dumps(again.as_dict(), allow_nan=False)) == again.as_dict()
    assert str(again) == str(result)
    head = json.loads((tmp_path / "r.json").read_text().splitlines()[0] if name == "monitor" else again.to_json())
    assert (head["format"], head["version"], head["kind"]) == ("eigenstep", 1, result.kind)
    again.plot(draw.panels()[1][0])


@pytest.mark.parametrize("name", NAMES)
def test_the_repr_is_one_short_line_and_the_text_is_not(name: str, results: dict[str, Any]) -> None:
    line = repr(results[name])
    assert len(line) < 120 and len(line.splitlines()) == 1
    assert line.startswith(f"{type(results[name]).__name__}(") and line.endswith(")")
    assert str(results[name]) != line and len(str(results[name])) > 20


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_shows_words_and_no_markup_of_others(name: str, results: dict[str, Any]) -> None:
    page = Texts()
    page.feed(results[name]._repr_html_())
    assert not page.open and page.tags <= {"div", "p", "b", "small", "table", "tr", "td", "th"}
    assert len(page.text.strip()) > 20


def test_hostile_names_stay_text(results: dict[str, Any]) -> None:
    hostile = replace(results["trace"], notes=(HOSTILE,)), results["layers"]
    for result in hostile:
        page = Texts()
        page.feed(result._repr_html_())
        assert HOSTILE in page.text and "script" not in page.tags


@pytest.mark.parametrize("name", NAMES)
def test_the_picture_goes_where_it_is_told(name: str, results: dict[str, Any]) -> None:
    figure, (ax,) = draw.panels()
    before = len(ax.get_children())
    assert results[name].plot(ax) is ax
    assert ax.get_xlabel()
    assert len(ax.get_children()) > before or name == "postmortem of calm"
    own = results[name].plot()
    assert (own[0] if isinstance(own, list) else own).figure is not figure


@pytest.mark.parametrize("name", NAMES)
def test_rows_for_pandas(name: str, results: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(es.Unsupported, match="pip install pandas"):
        results[name].to_frame()
    stand_in = types.SimpleNamespace(DataFrame=lambda columns: Columns(columns))
    monkeypatch.setitem(sys.modules, "pandas", stand_in)
    columns = results[name].to_frame()
    assert columns and len({len(column) for column in columns.values()}) == 1 and len(next(iter(columns.values()))) > 0


class Columns(dict[str, list[Any]]):
    """As much of a DataFrame as the results use."""

    def assign(self, **more: list[Any]) -> "Columns":
        return Columns({**self, **more})


def test_real_frames(results: dict[str, Any]) -> None:
    pandas = pytest.importorskip("pandas")
    for name in NAMES:
        assert isinstance(results[name].to_frame(), pandas.DataFrame)
    assert results["runs"].to_frame().shape == (2, 5)
    assert results["monitor"].to_frame()["step"].tolist() == [1, 2, 3, 4, 5, 6]


def test_numbers_come_back_as_numbers(results: dict[str, Any], tmp_path: Path) -> None:
    limit = results["limit at rest"]
    limit.save(tmp_path / "limit")
    again = es.Limit.load(tmp_path / "limit")
    assert (again.max_stable_lr, again.rules, again.alone) == (limit.max_stable_lr, limit.rules, limit.alone)
    assert isinstance(again.edge, Measurement) and again.edge.certified == limit.edge.certified
    results["runs"].save(tmp_path / "runs")
    runs = es.Run.load(tmp_path / "runs")
    assert runs.rule.lanes == (2, 1) and torch.equal(runs.left, results["runs"].left)
    assert torch.equal(runs.losses, results["runs"].losses) and runs.left.dtype == torch.int64
    results["diagnosis of Adam"].save(tmp_path / "d")
    diagnosis = es.Diagnosis.load(tmp_path / "d")
    rule = diagnosis.scale.rule
    assert isinstance(rule, es.Adam) and rule.betas == (0.5, 0.99) and rule.eps == 1e-4
    assert torch.equal(diagnosis.spectrum.values, results["diagnosis of Adam"].spectrum.values)
    infinite = replace(results["tuning"], lr_limit=float("inf"))
    infinite.save(tmp_path / "t")
    assert Tuning.load(tmp_path / "t") == infinite


def test_a_limit_is_four_parts_whose_fields_it_reads_off_and_a_file_holds_side_by_side(results: dict[str, Any]) -> None:
    limit, flat = results["limit"], {"rules", "certified", "products", "seconds", "notes", "reasons"}
    for part in (limit.stability, limit.curvature, limit.second_moments):
        for f in fields(part):
            assert getattr(limit, f.name) == getattr(part, f.name)
            flat.add(f.name)
    assert limit.edge is limit.measured.edge
    assert limit.as_dict().keys() == flat | {"edge", "hessian", "preconditioned"}


def test_a_limit_of_another_order_still_loads(results: dict[str, Any], tmp_path: Path) -> None:
    """The same keys in another order, and one that no reader knows."""
    content = json.loads(results["limit"].to_json())
    head = ("format", "version", "kind", "ratio", "interval", "rules", "max_stable_lr", "seconds")
    (tmp_path / "old").write_text(json.dumps({name: content[name] for name in (*head, *content)} | {"hint": 1}))
    assert es.Limit.load(tmp_path / "old").as_dict() == results["limit"].as_dict()
    del content["lr"]
    (tmp_path / "old").write_text(json.dumps(content))
    with pytest.raises(es.BadFile, match="it lacks lr"):
        es.Limit.load(tmp_path / "old")


def test_what_a_file_cannot_hold_says_so(results: dict[str, Any], tmp_path: Path) -> None:
    results["limit"].save(tmp_path / "limit")
    with pytest.raises(es.InvalidValue, match="holds no vectors"):
        _ = es.Limit.load(tmp_path / "limit").direction
    results["measurement"].save(tmp_path / "m")
    with pytest.raises(es.InvalidValue, match="file holds none"):
        Measurement.load(tmp_path / "m").named()
    for missing in (Measurement.load(tmp_path / "m").vector, Measurement.load(tmp_path / "m").direction):
        with pytest.raises(es.InvalidValue, match="measure with vectors=True"):
            missing()
    with pytest.raises(es.InvalidValue, match=r"radii were not kept; call simulate with keep=\('radii',\)"):
        results["runs"].kept("radii")
    assert results["runs"].kept("losses") is results["runs"].losses


def test_other_kinds_are_refused_by_name(results: dict[str, Any], tmp_path: Path) -> None:
    results["trace"].save(tmp_path / "trace")
    kinds = (es.Limit, es.Diagnosis, es.Recommendation, es.Run, Prediction, Tuning, Layers, FiniteStep, Postmortem)
    for kind in kinds:
        with pytest.raises(es.BadFile, match="holds a 'trace'"):
            kind.load(tmp_path / "trace")
    with pytest.raises(es.BadFile, match="no log of a monitor"):
        Log.load(tmp_path / "trace")
    results["tuning"].save(tmp_path / "tuning")
    with pytest.raises(es.BadFile, match="holds a 'tuning'; a 'trace' is needed"):
        Trace.load(tmp_path / "tuning")


@pytest.mark.parametrize(
    ("name", "place", "value", "words"),
    [
        ("trace", ("value",), "x", "'value' must be a finite number, not 'x'"),
        ("trace", ("notes",), [1], r"'notes\[0\]' must be text, not 1"),
        ("limit", ("edge", "values"), None, "edge: 'values' must be a list"),
        ("limit", ("alone",), {"a": 1.0}, "'alone' must have whole numbers for names"),
        ("diagnosis", ("slow", "tenfold"), 1, "'slow.tenfold' must be a mapping"),
        ("diagnosis", ("slow", "gradient_values"), [[1.0], 2.0], "'slow.gradient_values' must be numbers"),
        ("diagnosis", ("direction", "origin"), "x", "'direction.origin' must be one of 'curvature'"),
        ("diagnosis", ("scale", "rule", "name"), "x", "scale.rule: rule 'x' does not exist"),
        ("diagnosis", ("scale", "rule", "lr"), -1.0, "lr=-1.0"),
        ("recommendation", ("interval",), [1.0], "'interval' must be a list of 2, not of 1"),
        ("recommendation", ("candidates", 0, "diverged"), "no", r"'candidates\[0\].diverged' must be true or false"),
        ("run", ("steps",), 0.5, "'steps'"),
        ("layers", ("layers",), [], "'layers' must be a mapping"),
        ("prediction", ("rules",), [], "'rules' must be a list of 1, not of 0"),
    ],
)
def test_wrong_fields_are_refused_by_name(
    name: str, place: tuple[Any, ...], value: Any, words: str, results: dict[str, Any], tmp_path: Path
) -> None:
    content = json.loads(results[name].to_json())
    inner = content
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    (tmp_path / "r").write_text(json.dumps(content))
    with pytest.raises(es.BadFile, match=words):
        type(results[name]).load(tmp_path / "r")


@pytest.mark.parametrize(
    "place", [("scale", "per"), ("limit", "edge", "values"), ("verdict",), ("direction", "finite_step", "loss")]
)
def test_missing_fields_are_named(place: tuple[str, ...], results: dict[str, Any], tmp_path: Path) -> None:
    content = json.loads(results["diagnosis"].to_json())
    inner = content
    for step in place[:-1]:
        inner = inner[step]
    del inner[place[-1]]
    (tmp_path / "r").write_text(json.dumps(content))
    with pytest.raises(es.BadFile, match=f"it lacks .*{place[-1]}"):
        es.Diagnosis.load(tmp_path / "r")


def test_what_is_no_result_is_refused_by_load(results: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "f"
    for content, words in (
        ('{"format":"eigenstep","version":1,"kind":"race"}', "holds a 'race'; one of spectrum, .*, monitor is needed"),
        ('{"format":"eigenstep","version":1,"kind":"limit"}', "not a usable limit: it lacks ratio"),
        ('{"format":"eigenstep","version":1,"kind":"monitor"}\n{"step":"x"}\n', "line 2"),
        ('{"a":1}\n{"b":2}', "not whole JSON"),
        ("[3]", "not a file of eigenstep"),
    ):
        file.write_text(content)
        with pytest.raises(es.BadFile, match=words):
            es.load(file)
    content = {
        **json.loads(results["measurement"].to_json()),
        "kind": "measurement",
        "shares": {},
    }  # as `measure --json`
    file.write_text(json.dumps(content))
    assert type(es.load(file)) is Measurement


@pytest.mark.parametrize(("command", "kind"), [("tune", Tuning), ("predict", Prediction)])
def test_what_the_command_line_prints_is_a_file(command: str, kind: Any, tmp_path: Path) -> None:
    words = [command, "1", "100", "--rule", "heavy-ball", "--json"]
    run = CliRunner().invoke(main, [*words, "--lr", "0.01"] if command == "predict" else words)
    assert run.exit_code == 0
    (tmp_path / "r").write_text(run.stdout)
    again = kind.load(tmp_path / "r")
    assert json.loads(run.stdout)["rules"] == [again.rule.as_dict()]
    assert isinstance(again.rule, es.HeavyBall) and again.rate == json.loads(run.stdout)["rate"]


def places(content: Any, so_far: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place of plain data, of a list the first two."""
    inside = (
        content.items() if isinstance(content, dict) else enumerate(content[:2]) if isinstance(content, list) else ()
    )
    return [place for name, item in inside for place in ((*so_far, name), *places(item, (*so_far, name)))]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "monitor"])
def test_a_damaged_file_is_refused_or_reads_whole(name: str, results: dict[str, Any], tmp_path: Path) -> None:
    text, random = results[name].to_json(), Random(name)
    everywhere = places(json.loads(text))
    for _ in range(12):
        content = json.loads(text)
        *way, last = random.choice(everywhere)
        inner = content
        for step in way:
            inner = inner[step]
        inner[last] = random.choice([None, "x", True, -1, 0.5, 1e308, "inf", "nan", [], {}, [[1]], ["x"], {"a": 1}])
        (tmp_path / "r").write_text(json.dumps(content))
        with suppress(es.BadFile):
            again = type(results[name]).load(tmp_path / "r")
            assert str(again) and repr(again) and again._repr_html_() and again.to_json()


def test_a_monitor_keeps_its_own_log(tmp_path: Path) -> None:
    model, objective = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with es.Monitor(objective, optimizer, log=tmp_path / "run.jsonl") as monitor:
        with pytest.raises(es.BadFile, match="own log"):
            monitor.save(tmp_path / "run.jsonl")
        optimizer.step()
        monitor.save(tmp_path / "copy.jsonl")
    assert monitor.as_dict()["header"] == es.Monitor.load(tmp_path / "copy.jsonl").as_dict()["header"]


def test_lanes_given_as_lists_keep_their_digits() -> None:
    assert es.GradientDescent(lr=[[0.1], [0.01]]).as_dict()["lr"] == [[0.1], [0.01]]


@dataclass(frozen=True)
class Part:
    low: float = 0.0
    high: float = field(default=1.0, metadata=key("top"))


@dataclass(frozen=True)
class Holder:
    name: str
    part: Part = field(metadata=among())


def test_a_parts_fields_stand_among_its_holders() -> None:
    held = Holder("a", Part(2.0, 3.0))
    assert plain(held) == {"name": "a", "low": 2.0, "top": 3.0}
    assert restored(Holder, plain(held), "held") == held
    assert restored(Holder, {"name": "a"}, "held") == Holder("a", Part())
    with pytest.raises(es.InvalidValue, match=r"'held\.top' must be a finite number"):
        restored(Holder, {"name": "a", "top": "x"}, "held")
