"""What is no log, no path, no number and no scheduler is refused by name, before anything is done."""

from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import eigenstep as es
from eigenstep.cli import explore
from eigenstep.curvature import Density, Measurement
from eigenstep.page import read_report

HEAD = '{"format":"eigenstep","version":1,"kind":"monitor"}'
GOOD = '{"step":2,"time":0.1,"lr":0.1,"loss":1.0,"grad_norm":1.0,"update_norm":0.1}'


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ('{"step":1,"loss":"abc"}', "'loss'"),
        ('{"step":"x","lr":0.1}', "'step'"),
        ('{"lr":0.1,"loss":1.0}', "step"),
        ("{}", "step"),
        ('{"step":1,"alarm":"loss-jump","cause":"data","evidence":{}}', "sentence"),
        ('{"step":1,"lr":[0.1]}', "'lr'"),
    ],
)
def test_a_log_with_a_line_that_is_no_record_is_refused_here_and_by_the_page(
    tmp_path: Path, line: str, wrong: str
) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text(f"{HEAD}\n{line}\n{GOOD}\n")
    for use in (es.read_log, read_report):
        with pytest.raises(es.BadFile, match=f"line 2: .*{wrong}"):
            use(path)
    shown = CliRunner().invoke(explore.command, [str(path), "--export", str(tmp_path / "page.html")])
    assert isinstance(shown.exception, es.BadFile)
    assert "line 2" in str(shown.exception)
    assert not (tmp_path / "page.html").exists()


def test_a_log_where_another_kind_is_needed_is_called_one(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    for lines in (f"{HEAD}\n", f"{HEAD}\n{GOOD}\n", f"{HEAD}\n{GOOD}\n{GOOD[:20]}"):
        path.write_text(lines)
        for load in (es.Spectrum.load, Measurement.load, Density.load):
            with pytest.raises(es.BadFile, match="the log of a training run, which read_log reads"):
                load(path)
    path.write_text('{"format":"eigenstep","version":1,"kind":"spectrum"} more')
    with pytest.raises(es.BadFile, match="cut off"):
        es.Spectrum.load(path)


def test_arguments_of_another_kind_are_named() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1, bias=False)
    ours = es.Objective(model, lambda model, x: (model(x) ** 2).mean(), torch.eye(4))
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    for path in (None, 3, True, ["a"], b"a"):
        for use in (es.read_log, es.Spectrum.load, lambda path: es.Monitor(ours, sgd, log=path or 0)):
            with pytest.raises(es.BadFile, match=r"a path is needed, not \w+; give"):
                use(path)
    wrong: dict[str, list[Any]] = {"every": [0, 2.5, True, "a"], "dense": [-1, "a"], "history": [0, 1.5]}
    for name, values in {**wrong, "budget": ["x", True, 0, float("nan")]}.items():
        for value in values:
            with pytest.raises(es.InvalidValue, match=f"^Monitor: {name}=[^=]*$"):
                es.Monitor(ours, sgd, **{name: value})
    monitor = es.Monitor(ours, sgd)
    for first, second in ((monitor, sgd), (sgd, ours), (sgd, None)):
        with pytest.raises(es.Unsupported, match="in this order"):
            es.StabilityLR(first, second)
    with pytest.raises(es.Unsupported, match="schedule is a int"):
        es.StabilityLR(sgd, monitor, schedule=3)
    for name in ("target", "follow", "ceiling", "every", "total_steps", "max_lr"):
        with pytest.raises(es.InvalidValue, match=f"StabilityLR: {name}='a'"):
            es.StabilityLR(sgd, monitor, **{name: "a"})
    monitor.close()
