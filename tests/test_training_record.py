"""The monitor's log: cut anywhere, continued, refused; norms against plain ones; writers."""

import json
import math
from pathlib import Path

import pytest
import torch

from eigenstep.errors import BadFile, Unsupported
from eigenstep.files import jsonable
from eigenstep.training.log.record import LogWriter, read_log, scalars, writer_of
from eigenstep.training.norms import PIECE, Norms

RECORDS = [
    {"step": 1, "time": 0.1, "lr": 0.1, "loss": 2.5, "grad_norm": 1.0, "update_norm": 0.1, "stability_ratio": 0.5},
    {"step": 2, "time": 0.2, "lr": 0.1, "loss": math.nan, "grad_norm": math.inf, "update_norm": -math.inf},
    {"step": 2, "alarm": "non-finite", "sentence": "step 2: 'é' \n \u2028 nan", "cause": "data"},
    {"step": 3, "time": 0.3, "lr": 0.0, "loss": None, "grad_norm": 1e-300, "update_norm": 5e-324},
]


def written(path: Path) -> bytes:
    log = LogWriter(path, {"optimizer": "SGD"})
    for record in RECORDS:
        log.write(record)
    log.flush()
    return path.read_bytes()


def same(a: object, b: object) -> bool:
    return repr(a) == repr(b)  # nan equals itself here


def test_a_log_reads_as_it_was_written_and_every_line_is_strict_json(tmp_path: Path) -> None:
    content = written(tmp_path / "run.jsonl")
    log = read_log(tmp_path / "run.jsonl")
    assert same(list(log.records), RECORDS) and not log.torn
    assert log.header["format"] == "eigenstep" and log.header["kind"] == "monitor" and log.header["version"] == 1
    assert [r["step"] for r in log.measured] == [1] and [a["cause"] for a in log.alarms] == ["data"]

    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is no JSON")

    lines = content.decode().removesuffix("\n").split("\n")
    assert len(lines) == 5
    for line in lines:
        json.loads(line, parse_constant=refuse)


def test_cut_at_every_byte_it_loads_every_whole_record_and_is_continued(tmp_path: Path) -> None:
    content = written(tmp_path / "whole.jsonl")
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    for cut in range(ends[0], len(content) + 1):  # every byte after the envelope, the last two records' among them
        path = tmp_path / "cut.jsonl"
        path.write_bytes(content[:cut])
        whole = sum(1 for end in ends[1:] if cut >= end - 1)
        log = read_log(path)
        assert same(list(log.records), RECORDS[:whole]), cut
        assert log.torn == (cut not in ends and cut + 1 not in ends)
        again = LogWriter(path, {"optimizer": "SGD"})
        assert again.last == max([0, *(int(r["step"]) for r in RECORDS[:whole])])
        again.write({"step": 9, "lr": 0.5})
        again.close()
        assert same(list(read_log(path).records), [*RECORDS[:whole], {"step": 9, "lr": 0.5}]), cut


def test_a_log_cut_in_its_first_line_has_nothing_to_read_and_is_begun_anew(tmp_path: Path) -> None:
    content = written(tmp_path / "whole.jsonl")
    for cut in range(content.index(b"\n")):
        path = tmp_path / "cut.jsonl"
        path.write_bytes(content[:cut])
        with pytest.raises(BadFile, match="first line"):
            read_log(path)
        LogWriter(path, {"optimizer": "SGD"}).write(RECORDS[0], now=True)
        assert read_log(path).records == (RECORDS[0],)


def test_what_a_resumed_run_takes_again_replaces_what_was_there(tmp_path: Path) -> None:
    log = LogWriter(tmp_path / "run.jsonl", {})
    for step in (1, 2, 3):
        log.write({"step": step, "loss": float(step)})
    log.write({"resumed": 1})
    log.write({"step": 2, "loss": 20.0}, now=True)
    assert [r["loss"] for r in read_log(tmp_path / "run.jsonl").records] == [1.0, 20.0]


def test_other_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    for content, words in (
        (b"hello\nworld\n", "not a record"),
        (b"hello", "no envelope"),
        (b'{"a": 1}\n', "no 'format'"),
        (b'{"format":"eigenstep","version":1,"kind":"spectrum"}\n', "'spectrum'"),
        (b'{"format":"eigenstep","version":2,"kind":"monitor"}\n', "version 2"),
        (b'{"format":"eigenstep","version":1,"kind":"monitor"}\nbroken\n{"step":1}\n', "line 2"),
    ):
        path.write_bytes(content)
        with pytest.raises(BadFile, match=words):
            read_log(path)
        with pytest.raises(BadFile, match=words):
            LogWriter(path, {})
        assert path.read_bytes() == content
    with pytest.raises(BadFile, match="cannot be written"):
        LogWriter(tmp_path / "missing" / "run.jsonl", {})
    with pytest.raises(BadFile, match="cannot be read"):
        read_log(tmp_path / "missing.jsonl")


def test_numbers_that_json_does_not_have() -> None:
    assert jsonable([{"a": -math.inf, "b": (math.nan, 1)}]) == [{"a": "-inf", "b": ["nan", 1]}]


def test_writers_get_what_is_known_and_finite() -> None:
    seen: list[tuple[int, dict[str, float]]] = []
    write = writer_of(lambda step, values: seen.append((step, values)))
    assert write is not None
    write(4, scalars({"stability_ratio": 1.5, "sharpness": None, "max_stable_lr": math.inf, "seconds": 0.1, "lr": 2}))
    assert seen == [(4, {"curvature/stability_ratio": 1.5, "curvature/seconds": 0.1})]
    assert writer_of(None) is None
    with pytest.raises(Unsupported, match="SummaryWriter"):
        writer_of(3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_norms_against_plain_ones(dtype: torch.dtype) -> None:
    shapes = [(3,), (PIECE + 7,), (40, 50), (), (2, 3, 4)]
    params = [torch.nn.Parameter(torch.randn(shape).to(dtype)) for shape in shapes]
    params.append(torch.nn.Parameter(torch.randn(8, 9, dtype=torch.float64).t()))
    norms = Norms(params)
    for p in params:
        p.grad = torch.randn_like(p)
    norms.before()
    old = [p.detach().clone() for p in params]
    with torch.no_grad():
        for p in params:
            p.add_(torch.randn_like(p), alpha=0.1)
    gradient, change = norms.after()
    flat = torch.cat([(p.detach().double() - q.double()).reshape(-1) for p, q in zip(params, old, strict=True)])
    assert change == pytest.approx(float(flat.norm()), rel=2e-5)
    assert gradient == pytest.approx(float(torch.cat([p.grad.double().reshape(-1) for p in params]).norm()), rel=2e-5)
    assert all(torch.equal(norms.weights[id(p)], q) for p, q in zip(params, old, strict=True))


def test_norms_of_missing_sparse_huge_and_broken_gradients() -> None:
    embedding, dense = torch.nn.Embedding(5, 2, sparse=True), torch.nn.Parameter(torch.ones(2))
    unused = torch.nn.Parameter(torch.ones(2))
    norms = Norms([embedding.weight, dense, unused])
    norms.before()
    assert norms.after() == (None, 0.0)
    embedding(torch.tensor([1, 1, 3])).sum().backward()
    dense.grad = torch.full((2,), 2.0)
    assert norms.after()[0] == pytest.approx(math.sqrt(4 + 4 + 1 + 1 + 4 + 4))
    big = torch.nn.Parameter(torch.zeros(2))
    norms = Norms([big])
    big.grad = torch.tensor([3e30, 4e30])  # squares beyond float32
    assert norms.after() == (pytest.approx(5e30), None)
    big.grad = torch.tensor([math.nan, 1.0])
    assert math.isnan(norms.after()[0] or 0.0)
