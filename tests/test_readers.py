"""Every reader on files cut at each byte, or with a field of a wrong type: a BadFile that names it, or a result."""

import json
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

import eigenstep as es
from eigenstep.curvature import Density, Measurement
from eigenstep.files import read_envelope
from eigenstep.page.document import served_page
from eigenstep.page.report import read_report
from eigenstep.training.log.record import LogWriter

Use = Callable[[Path], object]
DEEP, LONG = "[" * 100_000 + "]" * 100_000, "9" * 5000
WRONG = ["null", '"x"', "1e400", "NaN", "-Infinity", LONG, f"-{LONG}", "9" * 400, "[]", "{}", "true", "-1", "0.5", DEEP]
WRONG += ['{"a":' * 100_000 + "1" + "}" * 100_000, "[[1]]", '["x"]', "[null]", '""', "[" * 90 + "]" * 90]


def objective() -> es.Objective:
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1, bias=False)
    return es.Objective(model, lambda model, x: (model(x) ** 2).mean() / 2, torch.diag(torch.tensor([1.0, 2, 3, 4])))


def whole(loaded: es.Spectrum) -> None:
    """What a reader may ask of a spectrum that was loaded."""
    assert all(isinstance(text, str) for text in (str(loaded), repr(loaded)))
    assert loaded.largest is None or isinstance(loaded.largest, float)
    assert json.dumps(loaded.as_dict()) and len(loaded) == len(list(loaded))
    assert loaded.condition is None or loaded.condition >= 1
    with suppress(es.EigenstepError):
        es.predict(es.GradientDescent(lr=0.1), loaded)


def continued(path: Path) -> None:
    """A log is read, and continued."""
    log = es.read_log(path)
    assert all(isinstance(r.get("step", 0), int) for r in log.records) and len(log.measured) <= len(log.records)
    writer = LogWriter(path, {})
    writer.write({"step": writer.last + 1})
    writer.close()
    assert len(es.read_log(path).records) == len(log.records) + 1


def resumed(path: Path) -> None:
    assert es.measure(objective(), checkpoint=str(path)).largest == pytest.approx(4.0)


def on_the_page(path: Path) -> None:
    assert served_page(read_report(path), "a file").startswith(b"<!doctype html>")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, Use]]:
    """A file of each kind, and what reads it."""
    folder = tmp_path_factory.mktemp("files")
    es.measure(objective(), 2).save(folder / "measurement")
    es.density(objective(), 2, 3).save(folder / "density")
    es.Spectrum.from_eigenvalues([3.0, 1.0]).save(folder / "spectrum")
    es.measure(objective(), checkpoint=str(folder / "checkpoint"), max_products=2)
    sgd = torch.optim.SGD((o := objective()).model.parameters(), lr=0.1)
    (folder / "diagnosis").write_text(es.diagnose(o, sgd).to_json())
    (folder / "recommendation").write_text(
        es.recommend(o, sgd, train=[torch.eye(4), torch.ones(4, 4)], budget=60).to_json()
    )
    log = LogWriter(folder / "log", {"optimizer": "SGD"})
    record = {"step": 1, "time": 0.1, "lr": 0.1, "loss": 2.5, "grad_norm": 1.0, "update_norm": 0.1}
    log.write(record)
    log.write({**record, "step": 2, "stability_ratio": 0.5, "layers": {"a": 0.5}, "certified": True, "settings": "x"})
    log.write({"step": 2, "alarm": "loss-jump", "sentence": "s", "cause": "data", "evidence": {"after": {"lr": 0.1}}})
    log.write({"resumed": 1})
    log.write({"step": 3, "note": "n"})
    log.close()
    uses: dict[str, Use] = {
        "measurement": lambda path: whole(Measurement.load(path)),
        "density": lambda path: whole(Density.load(path)),
        "spectrum": lambda path: whole(es.Spectrum.load(path)),
        "checkpoint": resumed,
        "diagnosis": on_the_page,
        "recommendation": on_the_page,
        "log": continued,
    }
    return {name: ((folder / name).read_bytes(), use) for name, use in uses.items()}


KINDS = ["measurement", "density", "spectrum", "checkpoint", "diagnosis", "recommendation", "log"]


def read(path: Path, content: bytes, use: Use, what: object) -> bool:
    """Whether a file is read; the only other way is a BadFile of one short line that names it."""
    path.write_bytes(content)
    try:
        use(path)
    except es.BadFile as error:
        assert str(path) in str(error) and len(str(error)) < 500, (what, error)  # noqa: PT017
        return False
    except Exception as error:
        raise AssertionError(what) from error
    return True


def fields(content: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where each value of a document stands, its containers included; of a list, the first and the last."""
    if at:
        yield at
    if isinstance(content, dict):
        for key in content:
            yield from fields(content[key], (*at, key))
    elif isinstance(content, list) and content:
        for i in sorted({0, len(content) - 1}):
            yield from fields(content[i], (*at, i))


def spoiled(content: Any, at: tuple[Any, ...], token: str) -> bytes:
    """The document with the value there replaced by a token."""
    copy = json.loads(json.dumps(content))
    place = copy
    for key in at[:-1]:
        place = place[key]
    place[at[-1]] = "<here>"
    return json.dumps(copy).replace('"<here>"', token).encode()


def documents(name: str, content: bytes) -> list[tuple[Any, Callable[[bytes], bytes]]]:
    """The JSON documents in a file, and how to put one of them back: a log holds one a line."""
    if name != "log":
        return [(json.loads(content), lambda new: new)]
    lines = content.splitlines()

    def put(i: int) -> Callable[[bytes], bytes]:
        return lambda new: b"\n".join([*lines[:i], new, *lines[i + 1 :]]) + b"\n"

    return [(json.loads(line), put(i)) for i, line in enumerate(lines)]


def cut(path: Path, name: str, files: dict[str, tuple[bytes, Use]], every: int) -> None:
    content, use = files[name]
    assert read(path, content, use, "whole")
    taken = [n for n in range(0, len(content), every) if read(path, content[:n], use, (name, n))]
    closed = len(content.rstrip()) if name != "log" else content.index(b"\n")
    assert all(n >= closed for n in taken), (name, taken[:3])


def spoil(path: Path, name: str, files: dict[str, tuple[bytes, Use]], share: float) -> None:
    content, use = files[name]
    pick = random.Random(0)
    refused = 0
    for document, put in documents(name, content):
        for at in fields(document):
            for token in WRONG:
                if pick.random() < share:
                    refused += not read(path, put(spoiled(document, at, token)), use, (name, at, token[:20]))
    assert refused > 0


@pytest.mark.parametrize("name", KINDS)
def test_cut_here_and_there(tmp_path: Path, files: dict[str, tuple[bytes, Use]], name: str) -> None:
    cut(tmp_path / "f.json", name, files, max(1, len(files[name][0]) // 40))


@pytest.mark.parametrize("name", KINDS)
def test_some_fields_of_a_wrong_type(tmp_path: Path, files: dict[str, tuple[bytes, Use]], name: str) -> None:
    spoil(tmp_path / "f.json", name, files, 40 / len(files[name][0]))


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_cut_at_each_byte(tmp_path: Path, files: dict[str, tuple[bytes, Use]], name: str) -> None:
    cut(tmp_path / "f.json", name, files, 1 if name != "checkpoint" else 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_each_field_of_each_wrong_type(tmp_path: Path, files: dict[str, tuple[bytes, Use]], name: str) -> None:
    spoil(tmp_path / "f.json", name, files, 1.0)


def test_the_wrong_field_is_named(tmp_path: Path, files: dict[str, tuple[bytes, Use]]) -> None:
    path = tmp_path / "f.json"
    for name, at, token in (
        ("spectrum", "dimension", "1e400"),
        ("spectrum", "dimension", "true"),
        ("spectrum", "preconditioner", '"x"'),
        ("spectrum", "provenance", "null"),
        ("spectrum", "values", "[1e400, 1]"),
        ("spectrum", "bounds", '"ab"'),
        ("measurement", "provenance", '{"seconds": "x"}'),
    ):
        path.write_bytes(spoiled(json.loads(files[name][0]), (at,), token))
        with pytest.raises(es.BadFile, match="seconds" if "seconds" in token else at):
            es.Spectrum.load(path)
    for line, at, token in (
        (1, "step", '"x"'),
        (1, "step", "1e400"),
        (2, "stability_ratio", '"x"'),
        (4, "resumed", "null"),
    ):
        document, put = documents("log", files["log"][0])[line]
        path.write_bytes(put(spoiled(document, (at,), token)))
        with pytest.raises(es.BadFile, match=f"line {line + 1}: '{at}' must be"):
            es.read_log(path)
    for at in ("rows", "T", "generator", "krylov", "search", "history"):
        path.write_bytes(spoiled(json.loads(files["checkpoint"][0]), (at,), '"x"'))
        with pytest.raises(es.BadFile, match=f"'{at}' is damaged"):
            resumed(path)


def test_what_is_no_file_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    contents = [
        b"",
        b"\0",
        b"\xff\xfe",
        DEEP.encode(),
        LONG.encode(),
        b"null",
        b"[]",
        b"{}",
        b'"format"',
        b"1e400",
        b"\n" * 99,
    ]
    contents += [b'{"format": "eigenstep", "version": [1], "kind": {"a": 1}}', b'{"format": "eigenstep", "version": 1}']
    for content in contents:
        for use in (es.Spectrum.load, es.read_log, read_report, lambda p: read_envelope(p, "spectrum")):
            path.write_bytes(content)
            with pytest.raises(es.BadFile, match=r"f\.json"):
                use(path)
    for odd in (tmp_path, "/dev/null", "/dev/zero", "a\0b", "x" * 5000, "", tmp_path / "missing"):
        for use in (es.Spectrum.load, es.read_log, read_report):
            with pytest.raises(es.BadFile):
                use(odd)


def test_a_density_keeps_its_probes_and_its_errors(tmp_path: Path) -> None:
    made = es.density(objective(), 3, 2)
    made.save(tmp_path / "d.json")
    loaded = Density.load(tmp_path / "d.json")
    assert loaded.mean(lambda v: v) == made.mean(lambda v: v) and str(loaded) == str(made)
    content = json.loads((tmp_path / "d.json").read_text())
    for probe in ([0], [99] * len(made), "x", [1.5] * len(made)):
        (tmp_path / "d.json").write_text(json.dumps({**content, "probe": probe}))
        with pytest.raises(es.BadFile, match="probe"):
            Density.load(tmp_path / "d.json")
